"""Log one run with its tracker, of which a `Log` is all that rlkl knows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rlkl.errors import one_line
from rlkl.runs.tracking import tensorboard_log, wandb_log
from rlkl.runs.tracking.about import About
from rlkl.runs.tracking.names import group_rows
from rlkl.runs.tracking.results import Results, read_files, read_results, read_rows


class Log(Protocol):
    """The log of one run. Each method may raise any exception."""

    def rows(self, columns: Mapping[str, Sequence[float]]) -> None:
        """Log rows, given as columns under the names of `names`, one of which is `step`."""

    def finish(self, results: Results | None) -> str | None:
        """Close the log, as failed if `results` is None; returns what tells the user where it is, or None."""


STARTS: dict[str, Callable[[About, Path, Callable[[str], None]], Log]] = {
    "wandb": wandb_log.start_wandb,
    "tensorboard": tensorboard_log.start_tensorboard,
}


@runtime_checkable
class AnyTracker(Protocol):
    """Logs one run, in this process (`Tracker`) or in another."""

    def log(self, columns: Mapping[str, Any]) -> None:
        """Log rows, given as columns under their names in history.csv."""

    def finish(self, succeeded: bool) -> str | None:
        """Log the results in the run's folder, and close the log; returns what tells the user where it is, or None."""


class Tracker:
    """Logs one run: rows while it trains, and what is in its folder at the end.

    After a failure it warns once and logs nothing more. folder: the run's, or a sweep's. draw: returns a folder's figure as the
    content of a PNG.
    """

    def __init__(self, about: About, folder: Path, warn: Callable[[str], None], draw: Callable[[Path], bytes] | None = None):
        self._about, self._folder, self._warn, self._draw = about, folder, warn, draw
        self._has_rows = False
        self._log: Log | None = None
        self._log = self._guarded("start", lambda: STARTS[about.tracker](about, folder, warn))

    def log(self, columns: Mapping[str, Any]) -> None:
        """Log rows, given as columns under their names in history.csv."""
        log, self._has_rows = self._log, True
        if log is not None:
            self._guarded("log", lambda: log.rows(group_rows(columns)))

    def finish(self, succeeded: bool) -> str | None:
        """Log the results in the run's folder, and its rows if none was logged, then close the log.

        succeeded: false if the run failed; it is then closed as failed. Returns what tells the user where the log is.
        """
        log = self._log
        if log is None:
            return None

        def close() -> str | None:
            if succeeded and not self._has_rows:
                log.rows(group_rows(read_rows(self._folder)))
            return log.finish(self._results() if succeeded else None)

        return self._guarded("finish", close)

    def _results(self) -> Results:
        """Return the results in the folder, with its figure and files if they are to be logged."""
        figures = {}
        if self._about.figures and self._draw is not None:
            try:
                figures = {"figure": self._draw(self._folder)}
            except Exception as error:
                self._warn(f"the figure could not be drawn ({one_line(error)}); it is logged without")
        files = read_files(self._folder) if self._about.artifacts else {}
        return read_results(self._folder)._replace(figures=figures, files=files)

    def _guarded(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            self._log = None
            reason = f"{self._about.tracker} could not {what} ({one_line(error)})"
            self._warn(f"{reason}; training goes on untracked, its folder has everything")
            return None
