"""`python -m lapse` runs the command `lapse`."""

from lapse.cli import main

if __name__ == "__main__":
    main()
