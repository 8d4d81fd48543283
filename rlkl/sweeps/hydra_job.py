"""What a job of the command does: Hydra's task function. Heavy imports wait until they are needed."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlkl.config import interrupts, machine
from rlkl.errors import DivergedError, SettingsError, visible

if TYPE_CHECKING:
    from rlkl.config.build import Built
    from rlkl.runs.store.checked_files import Faults
    from rlkl.runs.store.run_store import Entry
    from rlkl.runs.tracking import Tracker
    from rlkl.runs.tracking_process import BackgroundTracker


BAD_SETTING, FAILED = 2, 1  # exit statuses


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr, flush=True)


def shown(folder: Path, start: Path) -> str:
    """A folder as a person in the folder `start` would type it."""
    return os.path.relpath(folder, start) if folder.is_relative_to(start) else str(folder)


class Finished(NamedTuple):
    """A job that is trained: what it was, its result, and the tracker that has its rows where it was followed."""

    built: "Built"
    entry: "Entry"
    live: "Tracker | None"


@dataclass
class Jobs:
    """Hydra's task function: finishes each job it is called with, and remembers what became of it."""

    sweep: Path | None = None
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # a sweep's finished jobs, by number
    failed: dict[int, str] = field(default_factory=dict)
    reused: int = 0
    status: int = 0
    offline: set[str] = field(default_factory=set)  # where a sweep's offline runs lie, for wandb to upload
    doubted: bool = False
    _trackers: "BackgroundTracker | None" = None
    _faults: "Faults | None" = None

    def __call__(self, config: Any, finished: "Finished | None" = None) -> float:
        """Run a job, or only record one that is finished already; returns its objective, NaN where it failed.

        The objective is what a sweeper that optimises reads; it is to be maximised.
        """
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        sweeping = hydra.mode == RunMode.MULTIRUN
        self.sweep = (Path(hydra.runtime.cwd) / hydra.sweep.dir).resolve() if sweeping else None
        try:
            graded = self._in_sweep(config, hydra, finished) if sweeping else self._alone(config, hydra)
            if graded["diverged_at"] is not None:
                raise DivergedError(graded["diverged_at"])
        except (SettingsError, DivergedError) as error:
            self.status = max(self.status, BAD_SETTING if isinstance(error, SettingsError) else FAILED)
            self.failed[hydra.job.num if sweeping else 0] = str(error)
            complain(f"job {hydra.job.num}: {error}" if sweeping else str(error))
            return float("nan")
        return float(graded["objective"])

    def _alone(self, config: Any, hydra: Any) -> dict[str, Any]:
        machine.configure()
        from rlkl.reports import console as reports_console
        from rlkl.reports import tables
        from rlkl.runs.execute import execute

        cwd, folder = Path(hydra.runtime.cwd), Path(hydra.runtime.output_dir)
        built = _built(config, cwd)
        _save_resolved(config, built, folder, hydra.output_subdir)
        reports_console.console.print(tables.header(built), markup=False)
        interrupts.raise_first()
        with reports_console.progress(built.run.settings.steps) as on_rows:
            done = execute(built, folder, None, on_rows, reports_console.warn, self.faults)
        graded = done.entry.summary
        reports_console.console.print(tables.result(graded, done.entry.optimum))
        self._doubt(graded)
        if done.reused:
            where = f"reused: it was finished before, in {shown(built.store, cwd)} (resume=false runs it anew)"
            reports_console.console.print(where, markup=False)
        where = shown(folder, cwd)
        reports_console.console.print(f"in {where}   (rlkl plot {shlex.quote(where)})", markup=False)
        if done.upload:
            reports_console.console.print(f"to upload: {done.upload}", markup=False)
        return graded

    def _in_sweep(self, config: Any, hydra: Any, finished: "Finished | None") -> dict[str, Any]:
        machine.configure()
        from rlkl.reports import console as reports_console
        from rlkl.reports.tables import brief
        from rlkl.runs import load, tracking
        from rlkl.runs.execute import execute
        from rlkl.runs.folder import files

        folder, group = Path(hydra.runtime.output_dir), Path(hydra.sweep.dir).name
        built = _built(config, Path(hydra.runtime.cwd)) if finished is None else finished.built
        _save_resolved(config, built, folder, hydra.output_subdir)
        interrupts.raise_first()
        if finished is None:
            done = execute(built, folder, group, lambda rows: None, reports_console.warn, self.faults)
            found, upload, self.reused = done.entry, done.upload, self.reused + done.reused
        else:
            found, upload = finished.entry, None
            files.fill(folder, found.files)
            if finished.live is not None:
                upload = finished.live.finish(found.summary)
            elif built.tracking.name != "none":
                rows = files.columns_of(found.files["history.csv"])
                self.trackers(reports_console.warn).track(tracking.wandb_run(built, group), folder, rows, found.summary)
        if upload or built.tracking.name == tracking.OFFLINE:
            self.offline.add(built.tracking.dir or str(folder.parent / "*"))
        self._doubt(found.summary)
        graded, given = found.summary, [str(entry) for entry in hydra.overrides.task]
        self.rows[hydra.job.num] = load.record(os.path.relpath(folder, self.sweep), load.split(given), graded)
        said = visible(" ".join(given)) or "defaults"
        reports_console.console.print(f"job {hydra.job.num}  {said}\n  {brief(graded)}", markup=False)
        return graded

    def _doubt(self, graded: dict[str, Any]) -> None:
        """Say once that a run's optimum cannot be relied on."""
        from rlkl.reports import console
        from rlkl.runs.folder import summary

        doubt = summary.rounding_warning(graded)
        if doubt is not None and not self.doubted:
            self.doubted = True
            console.warn(doubt)

    def trackers(self, warn: Callable[[str], None]) -> "BackgroundTracker":
        """Who tracks a sweep's finished jobs; started at the first call."""
        from rlkl.runs.tracking_process import BackgroundTracker

        self._trackers = self._trackers or BackgroundTracker(warn)
        return self._trackers

    @property
    def faults(self) -> "Faults":
        """Who says what is wrong with the store."""
        from rlkl.reports import console as reports_console
        from rlkl.runs.store.checked_files import Faults

        self._faults = self._faults or Faults(reports_console.warn)
        return self._faults

    def write_results(self) -> None:
        """results.csv: a row a finished job, in the jobs' order, without what a clock measured."""
        from rlkl.runs.folder import csv_text
        from rlkl.runs.folder.files import write

        if self.sweep is None or not self.rows:
            return
        rows = [self.rows[number] for number in sorted(self.rows)]
        columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "seconds"]
        write(self.sweep / "results.csv", csv_text.dumps(columns, ([row.get(key) for key in columns] for row in rows)))

    def close(self) -> None:
        """Say what else was wrong with the store; write a sweep's results, and say how it ended."""
        if self._faults is not None:
            self._faults.close()
        if self.sweep is None:
            return
        from rlkl.reports import console as reports_console

        if self._trackers is not None:
            self._trackers.close()
        try:
            self.write_results()
        except OSError as error:
            self.status = self.status or FAILED
            complain(f"results.csv cannot be written ({error.strerror}: {error.filename})")
        reused = f", {self.reused} of them before (resume=false runs them anew)" if self.reused else ""
        failures = f", {len(self.failed)} failed" if self.failed else ""
        where = shown(self.sweep, Path.cwd())
        reports_console.console.print(f"{len(self.rows)} jobs finished{reused}{failures}; in {where}", markup=False)
        for number in sorted(self.failed):
            reports_console.console.print(f"  job {number}: {self.failed[number]}", markup=False)
        for folder in sorted(self.offline):
            reports_console.console.print(
                f"to upload: wandb sync {shown(Path(folder), Path.cwd())}/wandb/offline-run-*", markup=False
            )


def _built(config: Any, folder: Path) -> "Built":
    """The run that a job's config names. Relative paths lie below the folder that the command was given in, even where Hydra
    changes it for the job."""
    from rlkl.config.build import build
    from rlkl.config.compose import from_omegaconf
    from rlkl.runs import tracking

    with contextlib.chdir(folder):
        built = tracking.resolved(build(from_omegaconf(config)))
    return built._replace(execution=replace(built.execution, store=str(folder / built.store)))


def _save_resolved(config: Any, built: "Built", folder: Path, subfolder: str | None) -> None:
    """Hydra has written the config as it was composed; put the resolved one in its place."""
    from rlkl.runs.folder.files import write, yaml_text

    if subfolder is not None:
        experiment = {"experiment": config.experiment} if "experiment" in config else {}
        write(folder / subfolder / "config.yaml", yaml_text(built.resolved | experiment))
