"""Launch the jobs of a Hydra sweep together: a launcher and a sweeper. Slow imports wait until a sweep is launched."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlkl.config import hydra_private, interrupts, machine
from rlkl.config.overrides import refusal
from rlkl.errors import BadJobsError, SettingsError
from rlkl.runs.tracking import resolve
from rlkl.sweeps import composer
from rlkl.sweeps.hydra_job import Finished, Jobs, track_here

if TYPE_CHECKING:
    from rlkl.config.build import Built
    from rlkl.runs.store.run_store import Entry
    from rlkl.runs.tracking.tracker import AnyTracker
    from rlkl.training.observe import Row


BasicSweeper: Any = hydra_private.basic_sweeper()


class FusedLauncher(Launcher):
    """Hydra launcher that checks all jobs first, and trains jobs of one static part as one program.

    It records each job as Hydra's own launcher does: through `run_job`, in its own folder, with its number, log and callbacks.
    """

    config: Any
    hydra_context: HydraContext
    task_function: Jobs

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: Any) -> None:
        """Called by Hydra."""
        assert isinstance(task_function, Jobs)
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run these jobs; raises `BadJobsError` before anything is trained if one of them cannot be run."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        machine.configure()
        from rlkl.runs.store import program_cache

        program_cache.enable()
        prepared = self._prepare(job_overrides, initial_job_idx)
        names = {job.built.tracking.name for job in prepared.values()}
        for name in names & set(resolve.LATER):
            self.task_function.background_tracker(name)  # its process starts while the first group is compiled
        interrupts.raise_first()
        returns: dict[int, JobReturn] = {}
        training = _train_or_load(prepared, self.task_function, self._log_rows)
        # So that training ends when this function does.
        with contextlib.closing(training), _closing_trackers(prepared), hydra_private.quick_jobs(save_config):
            for numbers, last in training:
                for number in numbers:
                    returns[number] = self._record(prepared[number])
                    if prepared[number].fails_fast and number in self.task_function.failed:
                        raise StoppedError
                if last:
                    self.task_function.write_results()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return [returns[number] for number in sorted(returns)]

    def _prepare(self, job_overrides: Sequence[Sequence[str]], first: int) -> "dict[int, Prepared]":
        """Compose and build every job, by number; raises `BadJobsError`."""
        from rlkl.config.build import build
        from rlkl.runs.store import run_store
        from rlkl.runs.tracking.resolve import resolved

        self._folder = Path.cwd()  # Hydra may change it while it records a job and others train
        self._compose = composer.Composer(self.hydra_context.config_loader, self.config)  # type: ignore[arg-type]
        cards: dict[str, Any] = {}
        prepared, complaints = {}, {}
        for number, overrides in enumerate(job_overrides, start=first):
            try:
                built = resolved(build(self._run_config(overrides, number), cards))
                prepared[number] = Prepared(number, overrides, built, run_store.key(built))
            except (HydraException, OmegaConfBaseException) as error:
                complaints[number] = str(refusal(error, overrides))
            except SettingsError as error:
                complaints[number] = str(error)
        if complaints:
            raise BadJobsError(complaints)
        return prepared

    def _run_config(self, overrides: Sequence[str], number: int) -> dict[str, Any]:
        """Return the config of a job's run as plain values, with interpolations (also into Hydra's part) resolved."""
        from rlkl.config.compose import run_config

        values = self._compose.values(overrides)
        if values is not None:
            return run_config(values)
        config, before = self._full_config(overrides, number), HydraConfig.instance().cfg
        try:
            HydraConfig.instance().set_config(config)
            return run_config(hydra_private.without_hydra(config, resolve=True))
        finally:
            HydraConfig.instance().cfg = before

    def _full_config(self, overrides: Sequence[str], number: int) -> Any:
        """Compose a job's config with Hydra's part, which holds the job's number."""
        config = self._compose(overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _log_rows(self, job: "Prepared", rows: "Row") -> None:
        """Send a job's new rows to its tracker while it trains."""
        from rlkl.runs import execute
        from rlkl.runs.folder import summary

        if job.tracker is None:
            hydra = self._full_config(job.overrides, job.number).hydra
            sweep = self._folder / str(hydra.sweep.dir)
            folder, group = sweep / str(hydra.sweep.subdir), self.task_function.group(sweep)
            folder.mkdir(parents=True, exist_ok=True)
            job.tracker = execute.make_tracker(job.built, folder, group, track_here)
        assert job.tracker is not None
        job.tracker.log(summary.history(rows))

    def _record(self, job: "Prepared") -> JobReturn:
        """Record a finished job through Hydra's own `run_job`."""
        assert job.entry is not None
        finished, job.entry, job.tracker = Finished(job.built, job.key, job.entry, job.tracker), None, None
        returned = run_job(
            hydra_context=self.hydra_context,
            task_function=partial(self.task_function, finished=finished),
            config=self._full_config(job.overrides, job.number),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if returned.status == JobStatus.FAILED:
            raise returned._return_value  # the property `return_value` would first print a line of its own
        return returned


def save_config(config: Any, name: str, folder: Path) -> None:
    """Write a job's composed config as YAML, as Hydra's function of this kind does, but atomically and by libyaml."""
    from rlkl.runs.folder import files

    files.write(folder / name, files.yaml_text(OmegaConf.to_container(config, enum_to_str=True)))  # type: ignore[arg-type]


class StoppedError(Exception):
    """A job failed in a sweep with `fail_fast=true`."""


@dataclass
class Prepared:
    """A job that is composed and checked. entry: its result, once it is trained; tracker: if it is logged while it trains."""

    number: int
    overrides: Sequence[str]
    built: "Built"
    key: str
    entry: "Entry | None" = field(default=None, repr=False)
    tracker: "AnyTracker | None" = field(default=None, repr=False)

    @property
    def fails_fast(self) -> bool:
        """Whether the sweep ends if this job fails."""
        return self.built.execution.fail_fast


@contextlib.contextmanager
def _closing_trackers(prepared: dict[int, Prepared]) -> Iterator[None]:
    """On exit, close the trackers of jobs that were never recorded, as failed."""
    try:
        yield
    finally:
        for job in prepared.values():
            if job.tracker is not None:
                job.tracker.finish(succeeded=False)


def _train_or_load(
    prepared: dict[int, Prepared], jobs: Jobs, log_rows: "Callable[[Prepared, Row], None]"
) -> Generator[tuple[list[int], bool], None, None]:
    """Train the jobs, or load them from the store; yields the numbers of finished jobs, and whether they end a group.

    log_rows: called with the new rows of jobs that are logged while they train.
    """
    from rlkl.reports.console import sweep_progress
    from rlkl.runs.folder import artifacts
    from rlkl.runs.store import pretrained_references
    from rlkl.runs.store.run_store import read
    from rlkl.sweeps import scheduler

    numbers: dict[str, list[int]] = {}
    for number, job in prepared.items():
        numbers.setdefault(job.key, []).append(number)
    left = []
    for number, job in prepared.items():
        if job.built.execution.resume:
            job.entry = read(job.built.store, job.key, artifacts.names(job.built), jobs.faults)
        if job.entry is not None:
            jobs.reused += 1
            yield [number], False
        elif numbers[job.key][0] == number:
            left.append(scheduler.Job(job.key, pretrained_references.attach(job.built, jobs.faults)))
    if not left:
        yield [], True
        return
    steps = sum(job.built.run.settings.steps for job in left)
    names = {job.key: str(numbers[job.key][0]) for job in left}
    with sweep_progress(len(left), steps, names) as show:

        def on_progress(progress: scheduler.Progress) -> None:
            if progress.rows is None:
                show(progress)
            else:
                log_rows(prepared[numbers[progress.rows[0]][0]], progress.rows[1])

        for group in scheduler.groups(left):
            for entries in _train_group(group, on_progress, jobs.faults):
                for key, entry in entries:
                    for number in numbers[key]:
                        prepared[number].entry = entry
                    yield numbers[key], False
            yield [], True


def _train_group(group: Any, on_progress: Any, faults: Any) -> Any:
    """Train a group in this process or on a cluster, as its engine says."""
    first, root = group[0].built, group[0].built.store.resolve()
    if first.engine.name == "local":
        from rlkl.sweeps.scheduler import train_group

        return train_group(group, root, on_progress, faults, first.execution.resume)
    from rlkl.sweeps import cluster

    return cluster.train_on_cluster(group, root, first.engine, on_progress, faults, first.execution.resume)


class FusedSweeper(BasicSweeper):
    """Hydra's basic sweeper, which does not check the jobs if the launcher checks them anyway."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Check that every job can be composed, unless `FusedLauncher` will."""
        if not isinstance(self.launcher, FusedLauncher):
            super().validate_batch_is_legal(batch)


def register_plugins() -> None:
    """Register the launcher and the sweeper with Hydra.

    Hydra takes plugins only from the package `hydra_plugins`, so this module appears there as `hydra_plugins.rlkl`.
    """
    plugins = Plugins.instance()
    try:
        import hydra_plugins as package
    except ImportError:
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    package.rlkl = sys.modules["hydra_plugins.rlkl"] = sys.modules[__name__]
    for plugin in (FusedLauncher, FusedSweeper):
        plugin.__module__ = "hydra_plugins.rlkl"
        plugins.register(plugin)
