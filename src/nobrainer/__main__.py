"""`python -m nobrainer` is the command `nobrainer`."""

from nobrainer.cli import main

if __name__ == "__main__":
    main(prog_name="nobrainer")
