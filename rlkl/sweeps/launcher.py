"""Hydra's launcher and sweeper for sweeps that train together. Heavy imports wait until a sweep is launched."""

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
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from rlkl.config import hydra_private, interrupts, machine
from rlkl.config.overrides import refusal
from rlkl.errors import BadJobsError, SettingsError
from rlkl.sweeps import composer
from rlkl.sweeps.hydra_job import Finished, Jobs

if TYPE_CHECKING:
    from rlkl.config.build import Built
    from rlkl.runs.store.run_store import Entry
    from rlkl.runs.tracking import Tracker
    from rlkl.training.loop import Row


BasicSweeper: Any = hydra_private.basic_sweeper()


class FusedLauncher(Launcher):
    """Composes and checks all jobs, trains those of one static part as one program, and records each as Hydra's own
    launcher would: through `run_job`, in a folder of its own, with its number, log and callbacks."""

    config: Any
    hydra_context: HydraContext
    task_function: Jobs

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: Any) -> None:
        """Called by Hydra."""
        assert isinstance(task_function, Jobs)
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run these jobs; raises `BadJobsError`, with nothing trained, where one of them cannot be run."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        machine.configure()
        prepared = self._prepare(job_overrides, initial_job_idx)
        if any(job.built.tracking.name == "wandb_offline" for job in prepared.values()):
            from rlkl.reports import console

            self.task_function.trackers(console.warn)  # which start while the first group is compiled
        interrupts.raise_first()
        returns: dict[int, JobReturn] = {}
        finish = _finish(prepared, self.task_function, self._follow)
        with contextlib.closing(finish) as finishing, _ending(prepared):  # so that training ends where this does
            for numbers, last in finishing:
                for number in numbers:
                    returns[number] = self._record(prepared[number])
                    if prepared[number].fails_fast and number in self.task_function.failed:
                        raise StoppedError
                if last:
                    self.task_function.write_results()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return [returns[number] for number in sorted(returns)]

    def _prepare(self, job_overrides: Sequence[Sequence[str]], first: int) -> "dict[int, Prepared]":
        """Every job composed and built."""
        from rlkl.config.build import build
        from rlkl.runs import tracking
        from rlkl.runs.store import run_store

        self._folder = Path.cwd()  # Hydra may change it while a job is recorded, and others train
        self._compose = composer.Composer(self.hydra_context.config_loader, self.config)  # type: ignore[arg-type]
        cards: dict[str, Any] = {}
        prepared, complaints = {}, {}
        for number, overrides in enumerate(job_overrides, start=first):
            try:
                built = tracking.resolved(build(self._plain(overrides, number), cards))
                prepared[number] = Prepared(number, overrides, built, run_store.key(built))
            except (HydraException, OmegaConfBaseException) as error:
                complaints[number] = str(refusal(error, overrides))
            except SettingsError as error:
                complaints[number] = str(error)
        if complaints:
            raise BadJobsError(complaints)
        return prepared

    def _plain(self, overrides: Sequence[str], number: int) -> dict[str, Any]:
        """The job's own config, resolved: beside Hydra's part where it refers to anything."""
        from rlkl.config.compose import run_config

        quick = self._compose.values(overrides)
        if quick is not None:
            return run_config(quick)
        whole, before = self._whole(overrides, number), HydraConfig.instance().cfg
        try:
            HydraConfig.instance().set_config(whole)
            return run_config(hydra_private.without_hydra(whole, resolve=True))
        finally:
            HydraConfig.instance().cfg = before

    def _whole(self, overrides: Sequence[str], number: int) -> Any:
        config = self._compose(overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _follow(self, job: "Prepared", rows: "Row") -> None:
        """Send a job's new rows to wandb's server as it trains."""
        from rlkl.reports.console import warn
        from rlkl.runs import execute
        from rlkl.runs.folder import summary

        if job.live is None:
            hydra = self._whole(job.overrides, job.number).hydra
            folder = self._folder / str(hydra.sweep.dir) / str(hydra.sweep.subdir)
            folder.mkdir(parents=True, exist_ok=True)
            job.live = execute.make_tracker(job.built, folder, Path(str(hydra.sweep.dir)).name, warn)
        assert job.live is not None
        job.live.log(summary.history(rows))

    def _record(self, job: "Prepared") -> JobReturn:
        """Hand a finished job through Hydra's own `run_job`."""
        assert job.entry is not None
        finished, job.entry, job.live = Finished(job.built, job.entry, job.live), None, None
        returned = run_job(
            hydra_context=self.hydra_context,
            task_function=partial(self.task_function, finished=finished),
            config=self._whole(job.overrides, job.number),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if returned.status == JobStatus.FAILED:
            raise returned._return_value  # its property would print a line of its own first
        return returned


class StoppedError(Exception):
    """A sweep under fail_fast met a job that failed."""


@dataclass
class Prepared:
    """A job that was composed and checked, its tracker while it is followed, and its result once there is one."""

    number: int
    overrides: Sequence[str]
    built: "Built"
    key: str
    entry: "Entry | None" = field(default=None, repr=False)
    live: "Tracker | None" = field(default=None, repr=False)

    @property
    def fails_fast(self) -> bool:
        """Whether the sweep ends where this job fails."""
        return self.built.execution.fail_fast


@contextlib.contextmanager
def _ending(prepared: dict[int, Prepared]) -> Iterator[None]:
    """Trackers of jobs that were followed and never recorded are closed, as failed."""
    try:
        yield
    finally:
        for job in prepared.values():
            if job.live is not None:
                job.live.finish(None)


def _finish(
    prepared: dict[int, Prepared], told: Any, follow: "Callable[[Prepared, Row], None]"
) -> Generator[tuple[list[int], bool], None, None]:
    """Finish the jobs: yields the numbers of those that are ready to be recorded, and whether they end a group. `follow` hears
    the new rows of those that are tracked as they train."""
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
            job.entry = read(job.built.store, job.key, artifacts.names(job.built), told.faults)
        if job.entry is not None:
            told.reused += 1
            yield [number], False
        elif numbers[job.key][0] == number:
            left.append(scheduler.Job(job.key, pretrained_references.attach(job.built, told.faults)))
    if not left:
        yield [], True
        return
    steps = sum(job.built.run.settings.steps for job in left)
    names = {job.key: str(numbers[job.key][0]) for job in left}
    with sweep_progress(len(left), steps, names) as show:

        def tell(told: scheduler.Told) -> None:
            if told.rows is None:
                show(told)
            else:
                follow(prepared[numbers[told.rows[0]][0]], told.rows[1])

        for group in scheduler.groups(left):
            for entries in _trained(group, tell, told.faults):
                for key, entry in entries:
                    for number in numbers[key]:
                        prepared[number].entry = entry
                    yield numbers[key], False
            yield [], True


def _trained(group: Any, tell: Any, faults: Any) -> Any:
    """The group's training, here or by a cluster."""
    first, root = group[0].built, group[0].built.store.resolve()
    if first.engine.name == "local":
        from rlkl.sweeps.scheduler import train_groups

        return train_groups(group, root, tell, faults, first.execution.resume)
    from rlkl.sweeps import cluster

    return cluster.train_on_cluster(group, root, first.engine, tell, faults, first.execution.resume)


class FusedSweeper(BasicSweeper):
    """Hydra's basic sweeper, which leaves checking the jobs to the launcher where that checks them anyway."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose every job, to see whether it can be."""
        if not isinstance(self.launcher, FusedLauncher):
            super().validate_batch_is_legal(batch)


def register_plugins() -> None:
    """Make both known to Hydra, which takes plugins from the package `hydra_plugins` alone: there this module is `rlkl`."""
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
