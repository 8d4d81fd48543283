"""`python -m rlkl`, and the console script."""

import gc
import sys

from rlkl.config import interrupts


def entry() -> None:
    """Run the command, and exit with its status. What takes time to import comes after interrupts are seen to."""
    interrupts.install()
    # Imports and traces allocate much that lives on; collecting it less often saves about a tenth of the start.
    gc.set_threshold(100_000, 50, 50)
    from rlkl import cli
    from rlkl.config import terminal

    terminal.configure()
    try:
        status = cli.main(sys.argv[1:])
    except Exception:
        if not interrupts.came():
            raise
        interrupts.end()
    if interrupts.came() and status != interrupts.INTERRUPTED:
        interrupts.end()  # somebody else's code caught it
    sys.exit(status)


if __name__ == "__main__":
    entry()
