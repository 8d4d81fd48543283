"""Log runs with wandb, which is imported only where it is used."""

import contextlib
import io
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlkl.errors import one_line
from rlkl.runs.tracking.names import GROUPS

if TYPE_CHECKING:
    from rlkl.runs.tracking.about import About
    from rlkl.runs.tracking.results import Results, Table


TIMEOUT = 15.0  # seconds to wait for the server, unless WANDB_INIT_TIMEOUT says otherwise


class Server:
    """State of wandb's server in this process. fails: it was out of reach or there was no login, so nobody tries it again."""

    lock = threading.Lock()
    fails = False


def start_wandb(about: "About", folder: Path, warn: Callable[[str], None]) -> "WandbLog":
    """Start a run. If the server fails, this run and all later ones are logged offline, and it warns once."""
    os.environ.setdefault("WANDB_SILENT", "true")
    folder, run = Path(about.dir or folder), None
    folder.mkdir(parents=True, exist_ok=True)  # wandb would use a temporary folder if this one did not exist
    if not about.offline:
        with Server.lock:
            try:
                run = None if Server.fails else _start_online(about, folder)
            except Exception as error:
                Server.fails = True
                reason = one_line(error).partition(" Consider ")[0]
                warn(f"wandb logs offline, its server cannot be used ({reason}); wandb sync uploads the runs")
                about = about._replace(id=about.id[::-1])  # wandb keeps the failed run's id
    return WandbLog(_start_run(about, folder, "offline") if run is None else run, about.replaces)


class WandbLog:
    """The log of one run in wandb: a `Log`."""

    def __init__(self, run: Any, replaces: bool):
        self._run, self._replaces = run, replaces
        self._step: int | None = None  # the last that was logged; None: none was
        run.define_metric("step", hidden=True)
        for group in GROUPS:
            run.define_metric(f"{group}/*", step_metric="step")

    def rows(self, columns: Mapping[str, Sequence[float]]) -> None:
        """Log rows, given as columns by name; `step` is the x axis of all."""
        names = [name for name in columns if name != "step"]
        for i, step in enumerate(map(int, columns["step"])):
            self._run.log({"step": step} | {name: float(columns[name][i]) for name in names}, step=step)
            self._step = step

    def finish(self, results: "Results | None") -> str | None:
        """Close the run, as failed if `results` is None; returns the command that uploads it if it is offline.

        An offline copy of the same run from an earlier command is deleted.
        """
        try:
            if results is not None:
                with _staging(Path(self._run.settings.sync_dir)):
                    self._log_results(results)
        finally:
            self._run.finish(exit_code=1 if results is None else 0)
        if self._run.settings.mode != "offline":
            return None
        folder = Path(self._run.settings.sync_dir)
        for other in folder.parent.glob(f"offline-run-*-{self._run.id}") if self._replaces else ():
            if other.name != folder.name:
                shutil.rmtree(other, ignore_errors=True)
        return f"to upload: wandb sync {folder}"

    def _log_results(self, results: "Results") -> None:
        import wandb

        media: dict[str, Any] = {f"tables/{name}": _wandb_table(table) for name, table in results.tables.items()}
        for name, content in results.figures.items():
            from PIL import Image

            media[name] = wandb.Image(Image.open(io.BytesIO(content)))
        self._run.log(media, step=self._step)
        self._run.summary.update(results.summary)
        if results.files:
            artifact = wandb.Artifact(f"folder-{self._run.id}", type="folder")
            for name, path in results.files.items():
                artifact.add_file(str(path), name=name)
            self._run.log_artifact(artifact)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[None]:
    """A context manager: wandb keeps the files of artifacts, and so of tables, in the run's folder until they are uploaded.

    Otherwise each offline run leaves some in the user's home. WANDB_DATA_DIR, if it is set, wins.
    """
    with Server.lock:
        ours = "WANDB_DATA_DIR" not in os.environ
        if ours:
            os.environ["WANDB_DATA_DIR"] = str(folder)
        try:
            yield
        finally:
            if ours:
                del os.environ["WANDB_DATA_DIR"]


def _wandb_table(table: "Table") -> Any:
    """Return a table as wandb's, with the types of its columns given, since wandb takes long to find them cell by cell."""
    import wandb

    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    kinds = [next((type(cell) for cell in column if cell is not None), str) for column in columns]
    made = wandb.Table(columns=[*map(str, table.columns)], data=[], dtype=kinds)
    made.data.extend(table.rows)
    return made


def _start_online(about: "About", folder: Path) -> Any:
    """Start a run on wandb's server; raises `RuntimeError` if there is no login (wandb would prompt for one)."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise RuntimeError("no login: `wandb login`, or WANDB_API_KEY")
    timeout = {} if "WANDB_INIT_TIMEOUT" in os.environ else {"init_timeout": TIMEOUT}
    try:
        return _start_run(about, folder, "online", **timeout)
    except Exception as error:
        if not about.replaces or "deleted" not in str(error):
            raise
    return _start_run(about._replace(id=secrets.token_hex(8)), folder, "online", **timeout)  # a deleted run's id is never free


def _start_run(about: "About", folder: Path, mode: Literal["online", "offline"], **more: Any) -> Any:
    """Start a run of this mode."""
    import wandb

    return wandb.init(
        project=about.project,
        entity=about.entity,
        tags=about.tags or None,
        notes=about.notes,
        id=about.id,
        name=about.name,
        group=about.group,
        job_type=about.job_type,
        config=about.config,
        dir=str(folder),
        reinit="create_new",  # a sweep's jobs train and log at the same time
        mode=mode,
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            **more,
        ),
    )
