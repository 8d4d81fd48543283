"""Train a sweep's groups on a cluster through submitit, which is imported only where it is used."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlkl import settings
from rlkl.config import machine
from rlkl.errors import SettingsError
from rlkl.runs.folder import artifacts
from rlkl.runs.store import program_cache, run_store
from rlkl.runs.store.checked_files import Faults
from rlkl.runs.store.run_store import Entry
from rlkl.sweeps import scheduler
from rlkl.sweeps.scheduler import Job, Progress


def train_on_cluster(
    group: Sequence[Job],
    root: Path,
    engine: settings.Engine,
    on_progress: Callable[[Progress], None],
    faults: Faults,
    resume: bool = True,
) -> Iterator[list[tuple[str, Entry]]]:
    """Train a group as `scheduler.train_group` does, by cluster jobs of at most `engine.runs_per_job` runs each.

    All jobs write to the store under `root`; submitit's own files are in `root`/submitit. Raises `SettingsError` if submitit is
    missing or refuses a parameter, and what submitit raises for a job that failed. The other jobs go on, and the same command
    reuses what they finished.
    """
    executor = _executor(engine, root / "submitit")
    parts = [group[first : first + engine.runs_per_job] for first in range(0, len(group), engine.runs_per_job)]
    with executor.batch():
        jobs = [executor.submit(work, [each.built.resolved for each in part], str(root), resume) for part in parts]
    for part, job in zip(parts, jobs, strict=True):
        keys = zip(part, job.result(), strict=True)  # the job's keys differ from ours if its devices are of another kind
        entries = [(each.key, run_store.read(root, key, artifacts.names(each.built), faults)) for each, key in keys]
        on_progress(Progress(steps=sum(each.built.run.settings.steps for each in part), finished=len(part)))
        yield [(key, _require(key, entry, root)) for key, entry in entries]


def work(configs: Sequence[dict[str, Any]], root: str, resume: bool) -> list[str]:
    """Train runs in a job of the cluster: `scheduler.train_configs`, with jax set up as for the command."""
    machine.configure()
    program_cache.enable()
    return scheduler.train_configs(configs, root, resume)


def _require(key: str, entry: Entry | None, root: Path) -> Entry:
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
