"""Log runs as event files for TensorBoard, by tensorboardX, which is imported only where it is used."""

import io
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkl.runs.tracking.about import About
    from rlkl.runs.tracking.results import Results, Table


FLUSH = 10  # seconds after which rows are on disk
MOST_ROWS = 200  # rows of a table, which TensorBoard shows as text


def start_tensorboard(about: "About", folder: Path, warn: Callable[[str], None]) -> "TensorBoardLog":
    """Start a log in the run's folder, or in a folder of its own below `tracking.dir`; it replaces an earlier log there.

    Raises `RuntimeError` if tensorboardX is missing.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise RuntimeError(f"{error}: pip install 'rlkl[tensorboard]'") from None
    if about.dir is None:
        folder = folder / "tensorboard"
    else:
        folder = Path(about.dir) / (about.group or "") / f"{about.name} {about.id[:4]}".replace("/", "_")
    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    return TensorBoardLog(SummaryWriter(logdir=str(folder), flush_secs=FLUSH), about, folder)


class TensorBoardLog:
    """The log of one run as an event file: a `Log`. Values that are not finite are left out, and so are artifacts."""

    def __init__(self, writer: Any, about: "About", folder: Path):
        self._writer, self._about, self._folder = writer, about, folder
        self._names, self._step = set[str](), 0  # names of logged rows, and the last step

    def rows(self, columns: Mapping[str, Sequence[float]]) -> None:
        """Log rows, given as columns by name; `step` is the x axis of all."""
        self._names.update(columns)
        for i, step in enumerate(map(int, columns["step"])):
            self._step = step
            self._scalars({name: columns[name][i] for name in columns if name != "step"})

    def finish(self, results: "Results | None") -> str:
        """Close the log; returns the command that shows it."""
        if results is not None:
            self._log_results(results)
        self._writer.close()
        return f"to view: tensorboard --logdir {shlex.quote(str(self._folder))}"

    def _scalars(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, float(value), self._step)

    def _log_results(self, results: "Results") -> None:
        """Log the final values with the config as hyperparameters, the notes, the tables and the figures."""
        from tensorboardX.summary import hparams

        metrics = {name: value for name, value in results.summary.items() if "/" in name and isinstance(value, (int, float))}
        self._scalars({name: value for name, value in metrics.items() if name not in self._names})
        for part in hparams(_flat(self._about.config), metrics):
            self._writer.file_writer.add_summary(part)
        if self._about.notes:
            self._writer.add_text("notes", self._about.notes, self._step)
        for name, table in results.tables.items():
            self._writer.add_text(f"tables/{name}", _markdown(table), self._step)
        for name, content in results.figures.items():
            import numpy as np
            from PIL import Image

            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            self._writer.add_image(name, pixels, self._step, dataformats="HWC")


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config's values by dotted key, lists as JSON."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return values


def _markdown(table: "Table") -> str:
    """Return the first rows of a table in Markdown."""

    def line(cells: Sequence[Any]) -> str:
        texts = ("" if cell is None else str(cell) for cell in cells)
        return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"

    return "\n".join([line(table.columns), line(["---"] * len(table.columns)), *map(line, table.rows[:MOST_ROWS])])
