"""The `rlkl` command: Hydra's application, and the commands beside it. Heavy imports wait until they are needed."""

import errno
import inspect
import os
from collections.abc import Sequence
from pathlib import Path

from rlkl.config import machine
from rlkl.config.interrupts import INTERRUPTED
from rlkl.config.overrides import config_directory
from rlkl.errors import BadJobsError, DivergedError, SettingsError
from rlkl.sweeps.hydra_job import BAD_SETTING, FAILED, Jobs, complain


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    commands = {"list": _list, "plot": _plot, "summary": _summary, "audit": _audit, "grade": _grade, "compare": _compare}
    try:
        if argv and argv[0] in commands and {"-h", "--help"} & set(argv[1:]):
            print(inspect.getdoc(commands[argv[0]]))
            return 0
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
    complain(message)
    return status


def _hydra(argv: list[str]) -> int:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rlkl.config import hydra_private, overrides
    from rlkl.sweeps import launcher

    launcher.register_plugins()
    parser = hydra_private.arguments_parser()
    args = parser.parse_args(argv)
    jobs = Jobs()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and the line printed is ours
    try:
        overrides.check_overrides(args.overrides, args.config_dir)
        hydra_private.run(args, parser, jobs, config_directory(), "config")
    except launcher.StoppedError:
        jobs.status = FAILED
    except BadJobsError as error:
        for line in error.lines:
            jobs.status = _fail(line, BAD_SETTING)
    except SettingsError as error:
        if wants_traceback:
            raise
        jobs.status = _fail(str(error), BAD_SETTING)
    except (HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        machine.import_jax()
        jobs.status = _fail(str(overrides.refusal(error, args.overrides, args.config_dir)), BAD_SETTING)
    except OSError as error:
        if wants_traceback:
            raise
        jobs.status = _fail(*_unwritten(error))
    finally:
        if not wants_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
        jobs.close()
    return jobs.status


def _unwritten(error: OSError) -> tuple[str, int]:
    """What to say of a file that could not be written, and the exit status: a full disk is no bad setting."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    kept = "; what has finished is kept, and the same command goes on from there" if full else ""
    return f"the output folder cannot be written ({error.strerror}: {error.filename}){kept}", FAILED if full else BAD_SETTING


# The docstring of each command below is its --help.


def _list(argv: list[str]) -> int:
    """rlkl list

    Print what there is: algorithms, tasks with their options, policies, divergences, and the penalties that each may use.
    """
    if argv:
        return _fail(f"rlkl list takes no arguments, and was given {len(argv)}", BAD_SETTING)
    machine.import_jax()
    from rlkl.reports import listing

    listing.show()
    return 0


def _plot(argv: list[str]) -> int:
    """rlkl plot FOLDER

    Draw the run or the sweep in FOLDER: learning curves, regret and distributions, to figure.png and figure.pdf in it.
    """
    if len(argv) != 1:
        return _fail(f"rlkl plot takes one folder, of a run or of a sweep, and was given {len(argv)}", BAD_SETTING)
    machine.import_jax()
    from rlkl.reports import plots
    from rlkl.reports.console import console
    from rlkl.runs.load import load

    found = load(argv[0])
    for path in plots.save(plots.draw(found), Path(argv[0]) / "figure"):
        console.print(f"wrote {path}", markup=False)
    return 0


def _summary(argv: list[str]) -> int:
    """rlkl summary FOLDER [KEY ...]

    Print interquartile means over the seeds of the sweep in FOLDER, with bootstrap intervals, a row for each value of the
    overrides KEY ... (without any: of all overrides but the seed).
    """
    if not argv:
        return _fail("rlkl summary takes the folder of a sweep, and overrides to group by (all but the seed)", BAD_SETTING)
    machine.import_jax()
    from rlkl.reports import over_seeds, tables
    from rlkl.reports.console import console
    from rlkl.runs.load import load

    found = over_seeds.grouped(load(argv[0]).summary, argv[1:])
    console.print(tables.seeds_table(found))
    return 0


def _audit(argv: list[str]) -> int:
    """rlkl audit [KEY=VALUE ...]

    Print what the expected gradient of every penalty estimator descends on a task, against exact gradients: a row for each
    estimator, placement, credit and gradient. The overrides are a run's (task=sequence/brackets, penalty=forward_kl, ...);
    outputs/audit/ holds the table and a figure.
    """
    machine.configure()
    from rlkl.diagnostics.audit.command import run_audit

    run_audit(argv)
    return 0


def _grade(argv: list[str]) -> int:
    """rlkl grade [FILE.py ...] [penalty=... KEY=VALUE ...]

    Print six scores from 0 to 1 of a penalty beside the shipped ones: gradient, regret, reward at KL, coverage, extreme
    ratios, seeds. FILE.py registers a divergence; outputs/grade/ holds the numbers and a figure.
    """
    machine.configure()
    from rlkl.diagnostics.scorecard.command import run_grade

    run_grade(argv)
    return 0


def _compare(argv: list[str]) -> int:
    """rlkl compare BASE.npz QUANT.npz [out=FOLDER]

    Print how far the log-probabilities in QUANT lie from those in BASE: both KLs, quantiles, top-token agreement. Each file
    holds `log_probs` (or one array of any name), positions x vocabulary, and may hold `tokens`; FOLDER (outputs/compare) gets
    compare.csv.
    """
    machine.import_jax()
    from rlkl.diagnostics.compare.command import run_compare

    run_compare(argv)
    return 0
