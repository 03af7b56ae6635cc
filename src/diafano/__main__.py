"""`diafano` and `python -m diafano`."""

import os
import signal
import sys
from contextlib import suppress

INTERRUPTED = 130
"""As in `diafano.cli.main`, which may not be there yet."""


def main() -> None:
    """The command line; ends the process with its exit code."""
    try:
        from diafano.cli.main import run  # here, as Ctrl-C may come while this is imported

        code = run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said: there is nothing left to interrupt
    except KeyboardInterrupt:
        with suppress(OSError):  # standard error may be closed
            os.write(2, b"diafano: interrupted\n")
        os._exit(INTERRUPTED)
    sys.exit(code)


if __name__ == "__main__":
    main()
