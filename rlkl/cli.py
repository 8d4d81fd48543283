"""The `rlkl` command: Hydra's application, and the commands beside it. Heavy imports wait until they are needed."""

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlkl.settings import DivergedError, SettingsError, config_directory

BAD_SETTING, FAILED, INTERRUPTED = 2, 1, 130


def entry() -> None:
    """The console script."""
    # Imports and traces allocate much that lives on; collecting it less often saves about a tenth of the start.
    gc.set_threshold(100_000, 50, 50)
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    commands = {"list": _list, "plot": _plot, "audit": _audit, "grade": _grade}
    try:
        if argv and argv[0] in commands:
            return commands[argv[0]](list(argv[1:]))
        return _hydra(list(argv))
    except SettingsError as error:
        return _fail(str(error), BAD_SETTING)
    except DivergedError as error:
        return _fail(str(error), FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def configure_jax() -> None:
    """The command's global settings: 64 bits, and compiled programs kept in the user's cache folder."""
    import jax

    jax.config.update("jax_enable_x64", True)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "rlkl", "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@dataclass
class Jobs:
    """Hydra's task function: trains each job it is called with, and remembers what failed."""

    failed: list[str] = field(default_factory=list)
    status: int = 0
    sweep: Path | None = None

    def __call__(self, config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        sweeping = hydra.mode == RunMode.MULTIRUN
        self.sweep = Path(hydra.sweep.dir).resolve() if sweeping else None
        try:
            _job(config, hydra, sweeping)
        except (SettingsError, DivergedError) as error:
            status = BAD_SETTING if isinstance(error, SettingsError) else FAILED
            self.status = max(self.status, _fail(f"job {hydra.job.num}: {error}" if sweeping else str(error), status))
            self.failed.append(str(error))


def _job(config: Any, hydra: Any, sweeping: bool) -> None:
    configure_jax()
    from rlkl import config as configs
    from rlkl import report, runs

    built = configs.build(configs.plain(config))
    folder = Path(hydra.runtime.output_dir)
    if hydra.output_subdir is not None:
        _save_resolved(config, built, folder / hydra.output_subdir)
    warn = lambda message: report.errors.print(f"warning: {message}", markup=False)  # noqa: E731
    if sweeping:
        name = " ".join(hydra.overrides.task) or "defaults"
        graded, _, _ = runs.execute(built, folder, Path(hydra.sweep.dir).name, lambda rows: None, warn)
        report.console.print(f"job {hydra.job.num}  {name}\n  {report.brief(graded)}", markup=False)
    else:
        report.console.print(report.header(built), markup=False)
        with report.progress(built.run.settings.steps) as on_rows:
            graded, trained, upload = runs.execute(built, folder, None, on_rows, warn)
        report.console.print(report.result(graded, report.of_optimum(built, trained)))
        report.console.print(f"in {_shown(folder)}   (rlkl plot {_shown(folder)})", markup=False)
        if upload:
            report.console.print(f"to upload: {upload}", markup=False)
    runs.raise_if_diverged(graded)


def _shown(folder: Path) -> str:
    """A folder as a person would type it."""
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def _save_resolved(config: Any, built: Any, folder: Path) -> None:
    """Hydra has written the config as it was composed; put the resolved one in its place."""
    from omegaconf import OmegaConf

    from rlkl.records import write

    experiment = {"experiment": config.experiment} if "experiment" in config else {}
    write(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(built.resolved | experiment)))


def _hydra(argv: list[str]) -> int:
    import hydra._internal.utils as internal
    from hydra import version
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    version.setbase("1.3")
    args_parser = internal.get_args_parser()
    args = args_parser.parse_args(argv)
    jobs = Jobs()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and the line printed is ours
    try:
        internal._run_hydra(args, args_parser, jobs, str(config_directory()), "config")
    except (HydraException, OmegaConfBaseException, SettingsError) as error:
        if wants_traceback:
            raise
        from rlkl.config import refusal

        return _fail(str(error if isinstance(error, SettingsError) else refusal(error, args.overrides)), BAD_SETTING)
    except OSError as error:
        if wants_traceback:
            raise
        return _fail(f"hydra.run.dir: the output folder cannot be written ({error.strerror}: {error.filename})", BAD_SETTING)
    finally:
        if not wants_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
        if jobs.sweep is not None:
            _finish_sweep(jobs)
    return jobs.status


def _finish_sweep(jobs: Jobs) -> None:
    from rlkl import records, report, results

    assert jobs.sweep is not None
    rows = results.summaries(jobs.sweep)
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "seconds"))
    if rows:
        records.write(jobs.sweep / "results.csv", records.table(columns, ([row.get(key) for key in columns] for row in rows)))
    failures = f", {len(jobs.failed)} failed" if jobs.failed else ""
    report.console.print(f"{len(rows)} jobs finished{failures}; in {_shown(jobs.sweep)}", markup=False)
    if any(jobs.sweep.glob("*/wandb/offline-run-*")):
        report.console.print(f"to upload: wandb sync {_shown(jobs.sweep)}/*/wandb/offline-run-*", markup=False)


def _list(argv: list[str]) -> int:
    if argv:
        return _fail(f"rlkl list takes no arguments, and was given {len(argv)}", BAD_SETTING)
    from rlkl import listing

    listing.show()
    return 0


def _plot(argv: list[str]) -> int:
    if len(argv) != 1:
        return _fail(f"rlkl plot takes one folder, of a run or of a sweep, and was given {len(argv)}", BAD_SETTING)
    from rlkl import plots, report, results

    found = results.load(argv[0])
    for path in plots.save(plots.draw(found), Path(argv[0]) / "figure"):
        report.console.print(f"wrote {path}", markup=False)
    return 0


def _audit(argv: list[str]) -> int:
    configure_jax()
    from rlkl import audits

    audits.command(argv)
    return 0


def _grade(argv: list[str]) -> int:
    configure_jax()
    from rlkl import scorecard

    scorecard.command(argv)
    return 0
