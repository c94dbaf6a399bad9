"""The checks of `lapse doctor`: a module for each kind of problem."""
