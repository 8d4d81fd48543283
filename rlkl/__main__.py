"""Entry point of `python -m rlkl` and of the console script `rlkl`."""

import gc
import sys

from rlkl.config import interrupts, terminal


def entry() -> None:
    """Run the command, and exit with its status."""
    interrupts.install()  # before the slow imports
    # Imports and traces allocate many objects that stay; collecting less often makes the start about a tenth faster.
    gc.set_threshold(100_000, 50, 50)
    from rlkl import cli

    terminal.configure()
    try:
        status = cli.main(sys.argv[1:])
    except Exception:
        if not interrupts.was_interrupted():
            raise
        interrupts.exit_interrupted()
    if interrupts.was_interrupted() and status != interrupts.INTERRUPTED:
        interrupts.exit_interrupted()  # other code caught the KeyboardInterrupt
    sys.exit(status)


def run() -> None:
    """Run the command as the only work of its process."""
    try:
        entry()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise
        terminal.end_process(ended.code or 0)


if __name__ == "__main__":
    run()
