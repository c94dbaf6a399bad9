"""What lapse is compared with: each does the same to the same rows, in the way that it stands for."""
