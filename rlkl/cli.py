"""The `rlkl` command: training through Hydra, and the other commands. Slow imports wait until they are needed."""

import errno
import inspect
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rlkl.config import machine
from rlkl.config.interrupts import INTERRUPTED
from rlkl.config.overrides import config_directory
from rlkl.errors import BadJobsError, DivergedError, SettingsError
from rlkl.sweeps.hydra_job import BAD_SETTING, FAILED, Jobs, print_error


def main(argv: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit status."""
    commands = {
        "list": _list,
        "show": _show,
        "plot": _plot,
        "report": _report,
        "summary": _summary,
        "audit": _audit,
        "grade": _grade,
        "compare": _compare,
        "check": _check,
        "diagnose": _diagnose,
    }
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
    print_error(message)
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
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of print, so that the line printed is ours
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
        jobs.status = _fail(str(overrides.refusal(error, args.overrides, args.config_dir)), BAD_SETTING)
    except OSError as error:
        if wants_traceback:
            raise
        jobs.status = _fail(*_write_failure(error))
    finally:
        if not wants_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
        jobs.close()
    return jobs.status


def _write_failure(error: OSError) -> tuple[str, int]:
    """Return the message and the exit status for a file that cannot be written; a full disk is not a bad setting."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "; what has finished is kept, and the same command goes on from there" if full else ""
    return f"the output folder cannot be written ({error.strerror}: {error.filename}){hint}", FAILED if full else BAD_SETTING


# The docstring of each command below is its --help.


def _list(argv: list[str]) -> int:
    """rlkl list

    Print what can be chosen: algorithms, tasks and their options, policies, divergences, penalties of sampled algorithms.
    """
    if argv:
        return _fail(f"rlkl list takes no arguments, and was given {len(argv)}", BAD_SETTING)
    machine.import_jax()
    from rlkl.reports import listing

    listing.show()
    return 0


def _show(argv: list[str]) -> int:
    """rlkl show FOLDER

    Print the run in FOLDER as it ended: its result beside the exact optimum, and the outcomes that moved most. For a sweep,
    print its jobs (the overrides in which they differ, reward, objective, regret, KL, entropy), and how many finished.
    """
    if len(argv) != 1:
        return _fail(f"rlkl show takes one folder, of a run or of a sweep, and was given {len(argv)}", BAD_SETTING)
    from rlkl.reports.show import show

    show(argv[0])
    return 0


def _plot(argv: list[str]) -> int:
    """rlkl plot FOLDER

    Draw the run or the sweep in FOLDER (learning curves, regret, distributions, entropy) to figure.png and figure.pdf in that
    folder.
    """
    if len(argv) != 1:
        return _fail(f"rlkl plot takes one folder, of a run or of a sweep, and was given {len(argv)}", BAD_SETTING)
    machine.import_jax()
    from rlkl.reports import plots
    from rlkl.reports.console import console
    from rlkl.runs.load import load

    runs = load(argv[0])
    for path in plots.save(plots.draw(runs), Path(argv[0]) / "figure"):
        console.print(f"wrote {path}", markup=False)
    return 0


def _report(argv: list[str]) -> int:
    """rlkl report FOLDER [--out FILE]

    Write one page on the run or the sweep in FOLDER for a paper's appendix: figure, results, outcomes that moved most,
    settings, command, versions and citation. FILE ends in .html or .pdf (default: report.html in FOLDER). The HTML stands
    alone: it loads nothing.
    """
    out = None
    if "--out" in argv[:-1]:
        at = argv.index("--out")
        out, argv = argv[at + 1], argv[:at] + argv[at + 2 :]
    if len(argv) != 1 or argv[0].startswith("--"):
        given = shlex.join(argv) or "nothing"
        return _fail(
            f"rlkl report takes one folder, of a run or of a sweep, and --out FILE, and was given {given}", BAD_SETTING
        )
    from rlkl.reports.console import console
    from rlkl.reports.one_page.write import write_report

    try:
        path = write_report(argv[0], out)
    except OSError as error:
        return _fail(*_write_failure(error))
    console.print(f"wrote {path}", markup=False)
    return 0


def _summary(argv: list[str]) -> int:
    """rlkl summary FOLDER [KEY ...]

    Print interquartile means over the seeds of the sweep in FOLDER, with bootstrap intervals. There is one row for each
    combination of values of the overrides KEY ... (default: all overrides but the seed).
    """
    if not argv:
        return _fail("rlkl summary takes the folder of a sweep, and overrides to group by (all but the seed)", BAD_SETTING)
    machine.import_jax()
    from rlkl.reports import over_seeds, tables
    from rlkl.reports.console import console
    from rlkl.runs.load import load

    groups = over_seeds.group_runs(load(argv[0]).summary, argv[1:])
    console.print(tables.seeds_table(groups))
    return 0


def _audit(argv: list[str]) -> int:
    """rlkl audit [KEY=VALUE ...]

    Compare the expected gradient of every penalty estimator on a task with exact gradients, and print which divergence each
    one descends: one row per estimator, placement, credit and gradient. The overrides are those of a run
    (task=sequence/brackets, penalty=forward_kl, ...). The table and a figure are written to outputs/audit/.
    """
    machine.configure()
    from rlkl.diagnostics.audit.command import run_audit

    run_audit(argv)
    return 0


def _grade(argv: list[str]) -> int:
    """rlkl grade [FILE.py ...] [penalty=... KEY=VALUE ...]

    Print six scores from 0 to 1 of a penalty beside those of the shipped ones: gradient, objective, reward at KL, coverage,
    extreme ratios, seeds. FILE.py registers a divergence. The numbers and a figure are written to outputs/grade/.
    """
    machine.configure()
    from rlkl.diagnostics.scorecard.command import run_grade
    from rlkl.runs.store import program_cache

    program_cache.enable()
    run_grade(argv)
    return 0


def _compare(argv: list[str]) -> int:
    """rlkl compare BASE QUANT [KEY=VALUE ...]

    Compare the next-token log-probabilities of two models and print both KLs, quantiles, top-token agreement and perplexities.
    BASE and QUANT are of one format and one text: .npz files, each with `log_probs` (or one array of any name), positions x
    vocabulary, and perhaps `tokens`; KL base files of llama.cpp (--kl-divergence-base); JSON of vLLM, SGLang or OpenAI's API
    with top log-probabilities, for bounds on the KLs (vocabulary=N: tighter ones); or Hugging Face models, hf:NAME, run on
    text=FILE in windows of context=N tokens (default 512), batch=N (default 4) at once, on device=NAME. The table is written
    to compare.csv in out=FOLDER (default: outputs/compare).
    """
    machine.import_jax()
    from rlkl.diagnostics.compare.command import run_compare

    run_compare(argv)
    return 0


def _check(argv: list[str]) -> int:
    """rlkl check FILE.py:LOSS [beta=NUMBER] [expect=DIVERGENCE] [KEY=VALUE ...]

    Say which divergence the KL penalty of a loss in PyTorch or JAX descends, from its exact expected gradient in small worlds.
    The loss is called by the names of its arguments (log_probs, old_log_probs, ref_log_probs, advantages or rewards, mask, beta
    and other spellings); names.ARGUMENT=NAME maps others, KEY=VALUE sets the rest. beta: the coefficient (default .25).
    expect=kl_pi_ref, semi_kl_pi_ref (its semi-gradient on sequences) or nothing: exit status 1 where that is not so;
    coefficient=NUMBER: and beta is not worth this many times beta. worlds=bandit,unequal,groups: these alone. The table,
    check.json and a figure are written to out=FOLDER (default: outputs/check).
    """
    machine.compile_quickly()
    machine.configure()
    from rlkl.diagnostics.check.command import run_check
    from rlkl.runs.store import program_cache

    program_cache.enable()
    return 0 if run_check(argv) else FAILED


def _diagnose(argv: list[str]) -> int:
    """rlkl diagnose PATH... [KEY=VALUE ...]

    Say what the log-probabilities of rollouts say: the KL to the reference with its interval, the mismatch of sampler and
    policy, entropy, groups, lengths, with warnings. PATH is a file or a folder of rollouts, JSON lines, .npz or Parquet, or
    example:NAME. temperature, top_p, top_k, reported=raw|processed, vocab_size, model, reference and
    sampled_from=policy|sampler|reference say what the files do not. penalty.KEY=VALUE, algorithm=NAME, ... or library=PRESET:
    what this penalty pulled on, the coefficient that it is worth, and the nearest settings that descend what its name says.
    strict=true: exit status 1 where there is a warning. tracking=wandb or wandb_offline: log it (default: none). report.json,
    report.html and figures are written to out=FOLDER (default: outputs/diagnose).
    """
    from rlkl.diagnostics.diagnose.command import run_diagnose

    return 0 if run_diagnose(argv) else FAILED
