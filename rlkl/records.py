"""What a run leaves behind: a summary, a history, its outcomes and a checkpoint, each file written whole or not at all.

The files' names, columns and fields are rlkl's contract: others read them.
"""

import contextlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from rlkl import divergences, errors, policies, portrait, settings, tables, texts
from rlkl.config import plugins
from rlkl.config.build import Built
from rlkl.evaluation import metrics
from rlkl.exact import optimal_policy
from rlkl.penalties import options
from rlkl.policies import base
from rlkl.portrait import Portraits
from rlkl.settings import numerics
from rlkl.tasks import Automaton, Task, checks
from rlkl.training import describe
from rlkl.training.blocks import Trained
from rlkl.training.final_grade import Decoded
from rlkl.training.loop import Row

SCHEMA_VERSION = 1
MOST_OUTCOMES = 4096
ESTIMATES = (
    "reward", "objective", "optimal_objective", "regret", "divergence_value", "kl_pi_ref", "kl_ref_pi", "kl_pi_optimum",
    "entropy", "effective_support", "typicality", "kl_per_token", "length", "beta",
)  # fmt: skip
FIELDS = {"schema_version": int, "steps": int, "seconds": float, "exact": bool, "restricted": bool} | dict.fromkeys(
    ("divergence", "formula", "dtype", "init", "task", "policy", "algorithm"), str
)  # of every summary, beside the ESTIMATES
PENALTY = ("estimator", "placement", "level", "credit", "gradient", "sampler", "controller")  # settings in a summary


def write(path: Path, content: str | bytes) -> None:
    """A file written beside its place and moved there, so that no reader ever sees half of it; an `OSError` names it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """PyYAML's dumper, in C where it has one, that quotes text which Hydra would read as a number."""


def _quoted(dumper, text: str):
    try:
        float(text.replace("_", ""))
    except ValueError:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _quoted)


def yaml_text(values: Mapping[str, Any]) -> str:
    """Plain values as YAML that Hydra reads back as they are."""
    return yaml.dump(dict(values), Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def history(rows: Row) -> dict[str, Any]:
    """The logged rows as named columns, `step` first: nats, per sequence unless the name says per token (typicality is, too);
    what was estimated has its standard error beside it."""
    report, values = rows.report, rows.report.values
    with np.errstate(invalid="ignore", over="ignore"):
        exactly = {
            "step": np.asarray(rows.step),
            "reward": values.reward,
            "objective": report.objective,
            "regret": report.regret,
            "divergence_value": values.divergence,
            "kl_pi_ref": values.kl_pi_ref,
            "kl_ref_pi": values.kl_ref_pi,
            "kl_pi_optimum": report.kl_pi_optimum,
            "entropy": values.entropy,
            "effective_support": np.exp(values.entropy),
            "entropy_per_token": values.entropy / values.length,
            "typicality": values.typicality / values.length,
            "kl_per_token": values.kl_pi_ref / values.length,
            "kl_ref_pi_per_token": values.kl_ref_pi / values.length_ref,
            "length": values.length,
            "beta": rows.beta,
            "gradient_norm": np.asarray(rows.gradient_norm, np.float64),
            "batch_reward": np.asarray(rows.seen.reward, np.float64),
        }
        batch = {f"batch_{name}": kl for name, kl in rows.seen.kl.items()}
        batch |= {"beta_effective": rows.seen.beta_effective}
        batch |= {"batch_clamped": rows.seen.clamped, "batch_truncated": rows.seen.truncated}
        exactly |= {name: np.asarray(column, np.float64) for name, column in batch.items() if np.isfinite(column).any()}
        if rows.kl_pi_anchor is not None:
            exactly["kl_pi_anchor"] = rows.kl_pi_anchor
        if report.gold_reward is not None:
            exactly |= {"gold_reward": report.gold_reward, "gold_regret": report.gold_regret}
        exactly |= {f"{name}_stderr": error for name, error in report.stderr.items()}
        signed = {"kl_pi_optimum"} & set(report.stderr)  # an estimate that may be negative
        return {name: column if name in signed else metrics.unrounded(name, column) for name, column in exactly.items()}


def summary(built: Built, trained: Trained, seconds: float, portraits: Portraits) -> dict[str, Any]:
    """The last row and what grades it, as JSON values: infinities as strings, the undefined null with a reason."""
    chosen, run = built.run.settings, built.run
    last = {key: float(column[-1]) for key, column in history(trained.rows).items() if key != "step"}
    div = options.divergence(chosen.penalty)
    step, stopped = int(trained.rows.step[-1]), bool(trained.state.stopped)
    sampled = metrics.known(run.task, trained.state.policy, run.reference, div) == "sampled"
    values = {
        "schema_version": SCHEMA_VERSION,
        **last,
        "optimal_objective": float(trained.optimum.objective),
        "divergence": chosen.penalty.divergence,
        "formula": "none" if div is None else div.formula,
        "steps": step,
        "seconds": round(seconds, 3),
        "dtype": chosen.dtype,
        "init": chosen.policy.init,
        "support": chosen.policy.support,
        "restricted": policies.REGISTRY[chosen.policy.name].restricted,
        "exact": not sampled,
        "task": built.resolved["task"]["name"],
        "policy": chosen.policy.name,
        "algorithm": chosen.algorithm.name,
        **{key: getattr(chosen.penalty, key) for key in PENALTY},
        "descends": describe.descends(run).says,
        "seed": chosen.seed,
        "diverged_at": step + 1 if step < chosen.steps and not stopped else None,
        **_portrayed(trained, portraits, set(last)),
        **built.card.facts,
    }
    if sampled:
        values["exact_reason"] = metrics.why_sampled(run.task, trained.state.policy, div)
    if stopped:
        values["stopped_at"] = step
        values["stopped_reason"] = f"KL(pi‖pi_ref) is above stop_kl={float(chosen.stop_kl):g}"
    if trained.optimum.gold_objective is not None:
        values |= _gold(trained)
    if trained.closing.decoded is not None:
        values |= _decoded(trained.closing.decoded)
    if float(trained.optimum.stderr) > 0.0:
        values["optimal_objective_stderr"] = float(trained.optimum.stderr)
    if div is None:
        values["divergence_value"] = math.nan
    if trained.best_in_family is not None:
        values["optimal_objective_in_family"] = float(trained.best_in_family)
        values["regret_in_family"] = float(trained.best_in_family) - values["objective"]
    return _valid(values, _reasons(built, trained, div))


def is_summary(value: Any) -> bool:
    """Whether a JSON value is a run's summary: an object with the contract's fields, each of its kind."""
    if not isinstance(value, dict) or type(value.get("diverged_at", "")) not in (int, type(None)):
        return False
    numbers = [value.get(key, "") for key in ESTIMATES]
    plain = all(number in (None, "inf", "-inf") or type(number) in (int, float) for number in numbers)
    return plain and all(type(value.get(key)) is kind for key, kind in FIELDS.items())


def _gold(trained: Trained) -> dict[str, float]:
    """What is best by the gold reward, and what the optimum of the fitted one earns of it."""
    best, ends = trained.optimum, trained.closing.outcomes
    assert best.gold_objective is not None
    assert ends.gold is not None
    values = {"gold_optimal_objective": float(best.gold_objective), "optimum_gold_reward": float(ends.optimum @ ends.gold)}
    return values | ({"gold_optimal_objective_stderr": float(best.gold_stderr)} if float(best.gold_stderr) > 0.0 else {})


def _decoded(seen: Decoded) -> dict[str, float]:
    """The decoding distribution, graded; log-probabilities of what it writes, by itself and by the policy that it decodes."""
    report, values, away = seen.report, seen.report.values, float(seen.kl_policy)
    named: dict[str, Any] = {"reward": values.reward, "objective": report.objective, "regret": report.regret}
    named |= {"kl_pi_ref": values.kl_pi_ref}
    named |= {"kl_ref_pi": values.kl_ref_pi, "entropy": values.entropy, "effective_support": np.exp(values.entropy)}
    named |= {"typicality": values.typicality / values.length, "length": values.length, "kl_policy": away}
    named |= {"log_probability": -values.entropy, "log_probability_by_policy": -values.entropy - away}
    if report.gold_reward is not None:
        named |= {"gold_reward": report.gold_reward, "gold_regret": report.gold_regret}
    stderr = {name: error for name, error in report.stderr.items() if name in named}
    stderr |= {"kl_policy": seen.kl_policy_stderr} if float(seen.kl_policy_stderr) > 0.0 else {}
    named |= {f"{name}_stderr": error for name, error in stderr.items()}
    return {f"decoded_{name}": float(metrics.unrounded(name, value)) for name, value in named.items()}


def _portrayed(trained: Trained, portraits: Portraits, known: set[str]) -> dict[str, float]:
    """The policy's portrait, and its distances to the optimum, with standard errors where there are any."""
    of = {name: value for name, value in portraits.of["policy"].items() if name not in known}
    named = of | {f"{name}_stderr": error for name, error in portraits.stderr.items()}
    for name, (value, error) in trained.closing.distances.items():
        named[name] = float(metrics.unrounded(name, value))
        named |= {f"{name}_stderr": float(error)} if float(error) > 0.0 else {}
    return named


def _reasons(built: Built, trained: Trained, div: divergences.Divergence | None) -> dict[str, str]:
    run = built.run
    unknown = (
        optimal_policy.reason(run.task, div, run.reference)
        or "the optimum would end in a state that the reference never reaches"
    )
    if bool(trained.optimum.tied):
        unknown = "the largest reward is tied, so the optimum is not one policy"
    reasons = {"divergence_value": "there is no penalty", "mode_entropy": "no sequence ends in a mode"}
    if run.task.reward_model is not None:
        reasons |= dict.fromkeys(portrait.OF_REWARDS, "the reward model reads the whole history, not the end state")
    return reasons | dict.fromkeys(
        (
            "kl_pi_optimum",
            "kl_optimum_pi",
            "tv_optimum",
            "optimal_objective",
            "regret",
            "optimum_gold_reward",
            "decoded_regret",
        ),
        unknown,
    )


def _valid(values: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, float) and math.isnan(value):
            out[key] = None
            out[f"{key}_reason"] = reasons.get(key.removesuffix("_stderr"), "it is undefined here")
        elif isinstance(value, float) and math.isinf(value):
            out[key] = "inf" if value > 0 else "-inf"
        else:
            out[key] = value
    return out


def outcomes(built: Built, trained: Trained) -> str:
    """outcomes.csv: the end states in state order, at most MOST_OUTCOMES (then the most likely, and a note that says so);
    where the policy's are frequencies, their standard error."""
    ends = portrait.outcomes(built, trained)
    if portrait.is_sampled(built, trained):
        ends["policy_stderr"] = np.sqrt(ends["policy"] * (1.0 - ends["policy"]) / metrics.LAST_SAMPLES)
    count = len(ends["outcome"])
    kept = np.arange(count)
    if kept.size > MOST_OUTCOMES:
        likely = np.nanmax(np.stack([ends["reference"], ends["policy"], ends["optimum"]]), axis=0)
        kept = np.sort(np.argsort(-likely, kind="stable")[:MOST_OUTCOMES])
    dropped = count - kept.size
    note = f"the {dropped} least likely of {count} outcomes are left out" if dropped else ""
    return tables.dumps(list(ends), ([column[i] for column in ends.values()] for i in kept), note)


def along(trained: Trained) -> str:
    """positions.csv: at each position, who is still writing, and the next token's mean entropy and KL(pi‖pi_ref) there."""
    details = trained.closing.details
    names = [name for name in portrait.who(trained) if name in details]
    columns: dict[str, np.ndarray] = {}
    for name in names:
        seen = details[name]
        for key, at in (("alive", seen.alive), ("entropy", seen.entropy_at), ("kl_pi_ref", seen.kl_at)):
            columns[f"{name}.{key}"] = metrics.unrounded(key, at)
    rows = zip(*columns.values(), strict=True)
    return tables.dumps(["position", *columns], ([t, *row] for t, row in enumerate(rows)))


def checkpoint(built: Built, trained: Trained) -> bytes:
    """The policy as an .npz of plain arrays and a line of JSON: data only."""
    automaton = built.run.task.automaton
    about = {
        "schema_version": SCHEMA_VERSION,
        "policy": vars(built.run.settings.policy),
        "dtype": built.run.settings.dtype,
        "states": automaton.states,
        "horizon": automaton.horizon,
        "start": automaton.start,
        "context": automaton.context.tolist(),
        "step": int(trained.state.step),
        "plugins": list(built.plugins),
    }
    leaves: dict[str, Any] = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(trained.state.policy))}
    out = io.BytesIO()
    np.savez(out, about=np.asarray(json.dumps(about)), next_state=automaton.next_state, **leaves)
    return out.getvalue()


def load_policy(folder: str | Path) -> policies.AnyPolicy:
    """The policy that a run left in its folder: its parameters, and what its methods return, in the dtype it was trained in.

    policy.table(), or a network's policy.score(tokens, states): log-probabilities. Of a float64 run they are NumPy arrays
    where jax has 64 bits switched off. Raises `SettingsError`, naming the file, for one that is missing or damaged.
    """
    file = errors.directory(folder) / "checkpoint.npz"
    if not file.exists():
        raise errors.SettingsError("folder", str(folder), "is no run's folder (it holds no checkpoint.npz)")
    with _refused(file):
        content = io.BytesIO(file.read_bytes())
        if not zipfile.is_zipfile(content):
            raise ValueError("it is no .npz file, or only a part of one")
        content.seek(0)
        with np.load(content, allow_pickle=False) as saved:
            arrays = dict(saved)
        about = json.loads(str(arrays.pop("about")))
        files = [str(path) for path in about["plugins"]]
    plugins.load(files)
    with _refused(file), numerics.pinned():
        return _restored(about, arrays)


@contextlib.contextmanager
def _refused(file: Path) -> Iterator[None]:
    """Whatever fails is this file's fault, and is refused in one line."""
    try:
        yield
    except Exception as error:
        named = error if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
        raise errors.damaged(file, named) from None


def _restored(about: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> policies.AnyPolicy:
    """The policy of a checkpoint; raises some exception where its parts do not fit together."""
    automaton = _automaton(about, arrays.pop("next_state"))
    chosen, dtype = settings.read(settings.Policy, about["policy"], "policy."), np.dtype(about["dtype"])
    shape = (automaton.decisions, automaton.vocabulary)
    task = Task(automaton, np.zeros(automaton.states), np.zeros(shape), np.zeros(()), np.arange(shape[1], dtype=float))
    if chosen.name not in policies.REGISTRY:
        raise ValueError(f"its policy {chosen.name!r} is none that is registered here")
    build = policies.REGISTRY[chosen.name].build
    like = jax.eval_shape(
        lambda task, legal, key: build(chosen, base.cast(task, dtype), legal, key, dtype),
        task,
        automaton.legal,
        jax.random.key(0),
    )
    parts, structure = jax.tree.flatten(like)
    if set(arrays) != {f"leaf_{i}" for i in range(len(parts))}:
        raise ValueError(f"a policy {chosen.name!r} has {len(parts)} arrays, and it holds {len(arrays)}")
    for name, part in ((f"leaf_{i}", part) for i, part in enumerate(parts)):
        if (arrays[name].shape, arrays[name].dtype) != (part.shape, part.dtype) or np.isnan(arrays[name]).any():
            raise ValueError(f"its {name} is no {part.dtype} of {part.shape} without a NaN")
    return jax.tree.unflatten(structure, [jax.numpy.asarray(arrays[f"leaf_{i}"]) for i in range(len(parts))])


def _automaton(about: Mapping[str, Any], next_state: np.ndarray) -> Automaton:
    """The automaton of a checkpoint; raises `ValueError` where its parts do not fit together."""
    horizon, states = (checks.whole(key, about[key], at_least=1) for key in ("horizon", "states"))
    checks.fits("horizon", horizon, horizon * next_state.size)
    context, decisions = np.asarray(about["context"]), len(next_state)
    inside = next_state.ndim == 2 and next_state.size > 0 and next_state.min() >= -1 and next_state.max() < states
    if not inside or context.shape != (decisions,) or about["start"] not in range(decisions):
        raise ValueError("its automaton does not fit together")
    return Automaton(next_state, states, horizon, about["start"], context)


def names(built: Built) -> tuple[str, ...]:
    """The names of the files that a run leaves in its folder; the summary comes last, and says that the others are there."""
    texts = ("samples.txt", "positions.csv") if built.card.tokens else ()
    return ("history.csv", "outcomes.csv", "diversity.csv", *texts, "checkpoint.npz", "summary.json")


def files(built: Built, trained: Trained, seconds: float) -> dict[str, bytes]:
    """What a run leaves in its folder, by its `names`."""
    columns = {name: np.asarray(column).tolist() for name, column in history(trained.rows).items()}
    written = texts.sequences(built, trained) if built.card.tokens else {}
    portraits = portrait.draw(built, trained, written)
    header, *rows = portrait.shares(portraits)
    kept: dict[str, str | bytes] = {
        "history.csv": tables.dumps(list(columns), zip(*columns.values(), strict=True)),
        "outcomes.csv": outcomes(built, trained),
        "diversity.csv": tables.dumps(header, rows),
    }
    if written:
        kept |= {"samples.txt": texts.side_by_side(built, written), "positions.csv": along(trained)}
    kept["checkpoint.npz"] = checkpoint(built, trained)
    graded = summary(built, trained, seconds, portraits)
    kept["summary.json"] = json.dumps(graded, indent=2, allow_nan=False) + "\n"
    whole = {name: content.encode() if isinstance(content, str) else content for name, content in kept.items()}
    return {name: whole[name] for name in names(built)}


def fill(folder: Path, kept: Mapping[str, bytes]) -> None:
    """Write a run's files into its folder, in their order; what a killed command left half-written there goes."""
    for beside in folder.glob(".*.part"):
        beside.unlink(missing_ok=True)
    for name, content in kept.items():
        write(folder / name, content)


def columns_of(history_csv: bytes) -> dict[str, list[float]]:
    """The columns of a history.csv, NaN where a cell is empty."""
    return {name: tables.numbers(cells) for name, cells in tables.loads(history_csv.decode()).items()}
