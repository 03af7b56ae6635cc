"""`diafano` and `python -m diafano`."""

import sys

from diafano.cli.main import run


def main() -> None:
    """The command line; ends the process with its exit code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
