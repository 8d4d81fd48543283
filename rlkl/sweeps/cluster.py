"""A sweep's groups trained by jobs of a cluster, through submitit; it is imported only where it is asked for."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlkl import settings
from rlkl.config import machine
from rlkl.errors import SettingsError
from rlkl.runs.folder import artifacts
from rlkl.runs.store import run_store
from rlkl.runs.store.checked_files import Faults
from rlkl.runs.store.run_store import Entry
from rlkl.sweeps import scheduler
from rlkl.sweeps.scheduler import Job, Told


def train_on_cluster(
    group: Sequence[Job],
    root: Path,
    engine: settings.Engine,
    tell: Callable[[Told], None],
    faults: Faults,
    resume: bool = True,
) -> Iterator[list[tuple[str, Entry]]]:
    """As `scheduler.train`, by jobs of at most `engine.runs_per_job` runs each, which all write to the store under `root`.

    A job's files lie below `root`/submitit. Raises `SettingsError` where submitit is missing or refuses a parameter, and
    what submitit raises for a job that failed; the other jobs go on, and the same command finds what they finished.
    """
    executor = _executor(engine, root / "submitit")
    parts = [group[first : first + engine.runs_per_job] for first in range(0, len(group), engine.runs_per_job)]
    with executor.batch():
        jobs = [executor.submit(work, [each.built.resolved for each in part], str(root), resume) for part in parts]
    for part, job in zip(parts, jobs, strict=True):
        there = zip(part, job.result(), strict=True)  # under keys of its own, where its devices are of another kind
        found = [(each.key, run_store.read(root, key, artifacts.names(each.built), faults)) for each, key in there]
        tell(Told(steps=sum(each.built.run.settings.steps for each in part), finished=len(part)))
        yield [(key, _there(key, entry, root)) for key, entry in found]


def work(configs: Sequence[dict[str, Any]], root: str, resume: bool) -> list[str]:
    """What a job of the cluster does: `scheduler.run_group`, with jax as the command has it."""
    machine.configure()
    return scheduler.run_group(configs, root, resume)


def _there(key: str, entry: Entry | None, root: Path) -> Entry:
    if entry is None:
        raise SettingsError("store", str(root), f"the cluster's jobs did not leave run {key} here: it must be a folder all see")
    return entry


def _executor(engine: settings.Engine, folder: Path) -> Any:
    try:
        import submitit
    except ImportError:
        raise SettingsError("engine", "submitit", "needs the package submitit (pip install 'rlkl[submitit]')") from None
    try:
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=engine.cluster)
        executor.update_parameters(**dict(engine.parameters))
    except (NameError, TypeError, ValueError, RuntimeError) as error:
        raise SettingsError("engine.parameters", str(dict(engine.parameters)), f"submitit says: {error}") from None
    return executor
