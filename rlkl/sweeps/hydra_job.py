"""Run the jobs of a command: Hydra's task function. Slow imports wait until they are needed."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlkl import settings
from rlkl.config import interrupts, machine
from rlkl.config.compose import from_omegaconf
from rlkl.errors import DivergedError, SettingsError, visible
from rlkl.runs.tracking import resolve

if TYPE_CHECKING:
    from rlkl.config.build import Built
    from rlkl.runs.store.checked_files import Faults
    from rlkl.runs.store.run_store import Entry
    from rlkl.runs.tracking.about import About
    from rlkl.runs.tracking.tracker import AnyTracker
    from rlkl.sweeps.tracking_process import BackgroundTracker


BAD_SETTING, FAILED = 2, 1  # exit statuses


def print_error(message: str) -> None:
    """Print an error to standard error, in one line."""
    print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr, flush=True)


def short_path(folder: Path, start: Path) -> str:
    """Return the path of a folder: relative to `start` if it lies in there, else in full."""
    return os.path.relpath(folder, start) if folder.is_relative_to(start) else str(folder)


def track_here(about: "About", folder: Path) -> "AnyTracker":
    """Start to track a run in this process."""
    from rlkl.reports import console
    from rlkl.runs.tracking.tracker import Tracker
    from rlkl.sweeps.tracking_process import draw

    return Tracker(about, folder, console.warn, draw)


class Finished(NamedTuple):
    """A job that is trained: its run and fingerprint, its result, and its tracker if it was logged while it trained."""

    built: "Built"
    key: str
    entry: "Entry"
    tracker: "AnyTracker | None"


@dataclass
class Jobs:
    """Hydra's task function: runs each job that it is called with, and remembers the results."""

    sweep: Path | None = None
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # of results.csv: a sweep's finished jobs, by number
    failed: dict[int, str] = field(default_factory=dict)  # messages, by the job's number
    reused: int = 0  # number of jobs that the store had
    status: int = 0  # exit status of the command
    offline_folders: set[str] = field(default_factory=set)  # of a sweep's offline runs, for `wandb sync`
    tensorboard_folders: set[str] = field(default_factory=set)  # of a sweep's event files
    has_warned: bool = False  # of rounding errors
    _tracked: set[str] = field(default_factory=set)  # fingerprints of tracked jobs; two jobs of one run are logged once
    _group: str | None = None  # of a sweep at trackers
    _about_job: "About | None" = None  # of the first tracked job of a sweep
    _background_tracker: "BackgroundTracker | None" = None
    _faults: "Faults | None" = None

    def __call__(self, config: Any, finished: "Finished | None" = None) -> float:
        """Run a job, or record one that is already trained, and return its objective, NaN if it failed.

        The objective is for sweepers that optimise, and is to be maximised.
        """
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        sweeping = hydra.mode == RunMode.MULTIRUN
        self.sweep = (Path(hydra.runtime.cwd) / hydra.sweep.dir).resolve() if sweeping else None
        try:
            summary = self._run_in_sweep(config, hydra, finished) if sweeping else self._run_single(config, hydra)
            if summary["diverged_at"] is not None:
                raise DivergedError(summary["diverged_at"])
        except (SettingsError, DivergedError) as error:
            self.status = max(self.status, BAD_SETTING if isinstance(error, SettingsError) else FAILED)
            self.failed[hydra.job.num if sweeping else 0] = str(error)
            print_error(f"job {hydra.job.num}: {error}" if sweeping else str(error))
            return float("nan")
        return float(summary["objective"])

    def _run_single(self, config: Any, hydra: Any) -> dict[str, Any]:
        """Run the only job of a command, and return its summary."""
        plain = from_omegaconf(config)
        checked = settings.check_settings(plain)  # what is refused here is refused before jax is imported
        start_tracker = self._start_tracker(checked.tracking.name)
        machine.configure()
        from rlkl.reports import console as reports_console
        from rlkl.reports import outcomes, tables
        from rlkl.runs.execute import execute
        from rlkl.runs.store import program_cache

        program_cache.enable()
        cwd, folder = Path(hydra.runtime.cwd), Path(hydra.runtime.output_dir)
        built = _build(plain, cwd)
        _save_resolved(config, built, folder, hydra.output_subdir)
        reports_console.console.print(tables.header(built), markup=False)
        interrupts.raise_first()
        with reports_console.progress(built.run.settings.steps) as on_rows:
            recorded = execute(built, folder, None, on_rows, self.faults, start_tracker)
        summary = recorded.entry.summary
        reports_console.console.print_table(tables.result(summary))
        moved = outcomes.most_moved(recorded.entry.files["outcomes.csv"])
        if moved.outcomes:
            reports_console.console.print_table(outcomes.outcomes_table(moved, reports_console.console))
        self._warn_of_rounding(summary)
        if recorded.reused:
            note = f"reused: it was finished before, in {short_path(built.store, cwd)} (resume=false runs it anew)"
            reports_console.console.print(note, markup=False)
        path = short_path(folder, cwd)
        reports_console.console.print(f"in {path}   (rlkl plot {shlex.quote(path)})", markup=False)
        if recorded.tracked:
            reports_console.console.print(recorded.tracked, markup=False)
        return summary

    def _run_in_sweep(self, config: Any, hydra: Any, finished: "Finished | None") -> dict[str, Any]:
        """Run a job of a sweep, or record it if it is already trained, and return its summary."""
        machine.configure()
        from rlkl.reports import console as reports_console
        from rlkl.reports.tables import brief
        from rlkl.runs import load
        from rlkl.runs.execute import execute
        from rlkl.runs.folder import files
        from rlkl.runs.store import program_cache, run_store
        from rlkl.runs.tracking.about import about_run

        program_cache.enable()
        folder, group = Path(hydra.runtime.output_dir), self.group(self.sweep or Path(hydra.sweep.dir))
        built = _build(from_omegaconf(config), Path(hydra.runtime.cwd)) if finished is None else finished.built
        _save_resolved(config, built, folder, hydra.output_subdir)
        interrupts.raise_first()
        key = run_store.key(built) if finished is None else finished.key
        about = None if built.tracking.name == "none" else about_run(built, group, key)
        self._about_job = self._about_job or about
        if finished is None:
            recorded = execute(built, folder, group, lambda rows: None, self.faults, track_here)
            entry, tracked, self.reused = recorded.entry, recorded.tracked, self.reused + recorded.reused
        else:
            entry, tracked = finished.entry, None
            files.fill(folder, entry.files)
            if finished.tracker is not None:
                tracked = finished.tracker.finish(succeeded=True)
            elif about is not None and key not in self._tracked:
                self.background_tracker(built.tracking.name).track(about, folder)
            self._tracked.add(key)
        if built.tracking.name == resolve.TENSORBOARD:
            self.tensorboard_folders.add(built.tracking.dir or str(self.sweep))
        elif tracked or built.tracking.name == resolve.OFFLINE:
            self.offline_folders.add(built.tracking.dir or str(folder.parent / "*"))
        self._warn_of_rounding(entry.summary)
        summary, overrides = entry.summary, [str(override) for override in hydra.overrides.task]
        self.rows[hydra.job.num] = load.record(os.path.relpath(folder, self.sweep), load.split(overrides), summary)
        label = visible(" ".join(overrides)) or "defaults"
        reports_console.console.print(f"job {hydra.job.num}  {label}\n  {brief(summary)}", markup=False)
        return summary

    def _warn_of_rounding(self, values: dict[str, Any]) -> None:
        """Warn once a command that a run's grade is unreliable because of rounding errors. values: a run's summary."""
        from rlkl.reports import console
        from rlkl.runs.folder import summary

        warning = summary.rounding_warning(values)
        if warning is not None and not self.has_warned:
            self.has_warned = True
            console.warn(warning)

    def group(self, sweep: Path) -> str:
        """Return the name that a sweep's jobs share at trackers. sweep: its folder, whose record is read once."""
        from rlkl.runs.tracking.about import sweep_group

        self._group = self._group or sweep_group(sweep)
        return self._group

    def _start_tracker(self, name: str | None) -> "Callable[[About, Path], AnyTracker]":
        """Return what starts to track a run: in another process, started now, if the setting `name` is of a log for later."""
        tracker_name = resolve.tracker_name(name)
        return self.background_tracker(tracker_name).start if tracker_name in resolve.LATER else track_here

    def background_tracker(self, name: str) -> "BackgroundTracker":
        """Return what tracks runs in another process; the first call starts the process, for the tracker `name`."""
        from rlkl.reports import console
        from rlkl.sweeps.tracking_process import BackgroundTracker

        self._background_tracker = self._background_tracker or BackgroundTracker(console.warn, resolve.LATER.get(name))
        return self._background_tracker

    @property
    def faults(self) -> "Faults":
        """The reporter of damaged and unwritable files of the store."""
        from rlkl.reports import console as reports_console
        from rlkl.runs.store.checked_files import Faults

        self._faults = self._faults or Faults(reports_console.warn)
        return self._faults

    def write_results(self) -> None:
        """Write results.csv: one row per finished job, in the jobs' order, without wall-clock columns."""
        from rlkl.runs.folder import csv_text
        from rlkl.runs.folder.files import write

        if self.sweep is None or not self.rows:
            return
        rows = [self.rows[number] for number in sorted(self.rows)]
        columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "seconds"]
        write(self.sweep / "results.csv", csv_text.dumps(columns, ([row.get(key) for key in columns] for row in rows)))

    def close(self) -> None:
        """End the command: report the store's faults, wait for the tracker, write a sweep's results and print how it ended."""
        if self._faults is not None:
            self._faults.close()
        if self.sweep is None:
            if self._background_tracker is not None:
                self._background_tracker.close()
            return
        from rlkl.reports import console as reports_console

        try:
            self.write_results()
            self._track_sweep()
        except OSError as error:
            self.status = self.status or FAILED
            print_error(f"results.csv cannot be written ({error.strerror}: {error.filename})")
        if self._background_tracker is not None:
            self._background_tracker.close()
        reused = f", {self.reused} of them before (resume=false runs them anew)" if self.reused else ""
        failures = f", {len(self.failed)} failed" if self.failed else ""
        path = short_path(self.sweep, Path.cwd())
        reports_console.console.print(f"{len(self.rows)} jobs finished{reused}{failures}; in {path}", markup=False)
        for number in sorted(self.failed):
            reports_console.console.print(f"  job {number}: {self.failed[number]}", markup=False)
        if self.offline_folders:
            folders = sorted((short_path(Path(folder), Path.cwd()) for folder in self.offline_folders), reverse=True)
            runs = " ".join(f"{folder}/wandb/offline-run-*" for folder in folders)
            reports_console.console.print(f"to upload: wandb sync {runs}", markup=False)
        for folder in sorted(self.tensorboard_folders):
            path = shlex.quote(short_path(Path(folder), Path.cwd()))
            reports_console.console.print(f"to view: tensorboard --logdir {path}", markup=False)

    def _track_sweep(self) -> None:
        """Track the sweep as a run of its own, after its jobs if a process tracks these."""
        if self.sweep is None or self._about_job is None or not self.rows:
            return
        from rlkl.runs.tracking.about import about_sweep

        prefix = "override."
        rows = [self.rows[number] for number in sorted(self.rows)]
        overrides = [{key.removeprefix(prefix): row[key] for key in row if key.startswith(prefix)} for row in rows]
        about = about_sweep(self._about_job, self.sweep, overrides, len(self.failed))
        if self._background_tracker is not None:
            self._background_tracker.track(about, self.sweep)
            tracked = None
        else:
            tracked = track_here(about, self.sweep).finish(succeeded=True)
        if about.tracker == "wandb" and (tracked or about.offline):
            self.offline_folders.add(about.dir or str(self.sweep))


def _build(config: dict[str, Any], folder: Path) -> "Built":
    """Build the run of a job's plain config, with relative paths below `folder`, where the command was started.

    Hydra may change the working folder for the job.
    """
    from rlkl.config.build import build

    with contextlib.chdir(folder):
        built = resolve.resolved(build(config))
    return built._replace(execution=replace(built.execution, store=str(folder / built.store)))


def _save_resolved(config: Any, built: "Built", folder: Path, subfolder: str | None) -> None:
    """Write the resolved config over the composed one that Hydra saved, and beside it the versions that compute."""
    from rlkl.runs.folder import versions
    from rlkl.runs.folder.files import write, yaml_text

    if subfolder is not None:
        write(folder / subfolder / versions.FILE, yaml_text(versions.installed()))
        experiment = {"experiment": config.experiment} if "experiment" in config else {}
        write(folder / subfolder / "config.yaml", yaml_text(built.resolved | experiment))
