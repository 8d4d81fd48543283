"""What a run leaves behind: a summary, a history, its outcomes and a checkpoint, each file written whole or not at all.

The files' names, columns and fields are rlkl's contract: others read them.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlkl import divergences, oracle, penalty, plugins, policies, settings, training
from rlkl.blocks import Trained
from rlkl.config import Built
from rlkl.tasks import Automaton, Task
from rlkl.training import Row

SCHEMA_VERSION = 1
MOST_OUTCOMES = 4096
SAMPLES = 8  # texts of each kind in samples.txt


def write(path: Path, content: str | bytes) -> None:
    """A file written beside its place and moved there, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV text; floats as Python prints them, so that they read back to the last bit."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return out.getvalue()


def _plain(value):
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return ""
    return value.item() if isinstance(value, np.generic) else value


def history(rows: Row) -> dict[str, Any]:
    """The logged rows as named columns, `step` first: nats, per sequence unless the name says per token."""
    report, values = rows.report, rows.report.values
    with np.errstate(invalid="ignore", over="ignore"):
        return {
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
            "typicality": values.typicality / values.length,
            "kl_per_token": values.kl_pi_ref / values.length,
            "length": values.length,
            "beta": rows.beta,
            "gradient_norm": np.asarray(rows.gradient_norm, np.float64),
            "batch_reward": np.asarray(rows.batch_reward, np.float64),
        }


def summary(built: Built, trained: Trained, seconds: float) -> dict[str, Any]:
    """The last row and what grades it, as JSON values: infinities as strings, the undefined null with a reason."""
    chosen = built.run.settings
    last = {key: float(column[-1]) for key, column in history(trained.rows).items() if key != "step"}
    div = penalty.divergence(chosen.penalty)
    step = int(trained.rows.step[-1])
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
        "exact": True,
        "task": built.resolved["task"]["name"],
        "policy": chosen.policy.name,
        "algorithm": chosen.algorithm.name,
        "estimator": chosen.penalty.estimator,
        "placement": chosen.penalty.placement,
        "seed": chosen.seed,
        "diverged_at": step + 1 if step < chosen.steps else None,
        **built.card.facts,
    }
    if div is None:
        values["divergence_value"] = math.nan
    if trained.best_in_family is not None:
        values["optimal_objective_in_family"] = float(trained.best_in_family)
        values["regret_in_family"] = float(trained.best_in_family) - values["objective"]
    return _valid(values, _reasons(built, trained, div))


def _reasons(built: Built, trained: Trained, div: divergences.Divergence | None) -> dict[str, str]:
    unknown = oracle.reason(built.run.task, div) or "the optimum would end in a state that the reference never reaches"
    tied = "the largest reward is tied, so the optimum is not one policy"
    return {
        "divergence_value": "there is no penalty" if div is None else "no dynamic program gives this divergence over tokens",
        "kl_pi_optimum": tied if bool(trained.optimum.tied) else unknown,
    } | dict.fromkeys(("optimal_objective", "regret", "objective"), unknown)


def _valid(values: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, float) and math.isnan(value):
            out[key] = None
            out[f"{key}_reason"] = reasons.get(key, "it is undefined here")
        elif isinstance(value, float) and math.isinf(value):
            out[key] = "inf" if value > 0 else "-inf"
        else:
            out[key] = value
    return out


def outcomes(built: Built, trained: Trained) -> str:
    """outcomes.csv: the end states in state order, at most MOST_OUTCOMES (then the most likely, and a last line that
    says so)."""
    ends, names = trained.outcomes, built.card.outcomes
    kept = np.arange(len(names))
    if kept.size > MOST_OUTCOMES:
        likely = np.max(np.stack([ends.reference, ends.policy, ends.optimum]), axis=0)
        kept = np.sort(np.argsort(-likely, kind="stable")[:MOST_OUTCOMES])
    rows = [(names[i], *(column[i] for column in ends)) for i in kept]
    text = table(["outcome", "reward", "reference", "policy", "optimum"], rows)
    dropped = len(names) - kept.size
    return text + (f"# the {dropped} least likely of {len(names)} outcomes are left out\n" if dropped else "")


def samples(built: Built, trained: Trained) -> str:
    """samples.txt: the same few uniform numbers turned into texts by reference, policy and optimum, side by side."""
    card, automaton = built.card, built.run.task.automaton
    with jax.enable_x64(True):
        table = np.asarray(training.cast(trained.state.policy, np.float64).table())
    log_ref = np.broadcast_to(built.run.task.log_reference, table.shape)
    uniform = np.random.default_rng(0).random((SAMPLES, automaton.horizon))
    lines = []
    for draws in uniform:
        lines.append("")
        for name, rows in (("reference", log_ref), ("policy", table), ("optimum", trained.optimum.log_pi)):
            tokens, state = [], automaton.start
            for t, number in enumerate(draws):
                if state >= automaton.decisions:
                    break
                cdf = np.cumsum(np.exp(rows[t, state]))
                token = min(int(np.sum(cdf <= number * cdf[-1])), cdf.size - 1)
                tokens.append(card.tokens[token])
                state = int(automaton.next_state[state, token])
            lines.append(f"{name:<10}{card.joiner.join(tokens)}")
    return "\n".join(lines[1:]) + "\n"


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
        "step": int(trained.state.step),
        "plugins": [str(Path(path).expanduser().resolve()) for path in built.resolved.get("plugins") or []],
    }
    leaves: dict[str, Any] = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(trained.state.policy))}
    out = io.BytesIO()
    np.savez(out, about=np.asarray(json.dumps(about)), next_state=automaton.next_state, **leaves)
    return out.getvalue()


def load_policy(folder: str | Path) -> policies.Policy:
    """The policy that a run left in its folder, in the dtype it was trained in."""
    file = Path(folder) / "checkpoint.npz"
    if not file.is_file():
        raise settings.SettingsError("folder", str(folder), "is no run's folder (it holds no checkpoint.npz)")
    with np.load(file, allow_pickle=False) as saved:
        about = json.loads(str(saved["about"]))
        automaton = Automaton(saved["next_state"], about["states"], about["horizon"], about["start"])
        leaves = [saved[f"leaf_{i}"] for i in range(sum(name.startswith("leaf_") for name in saved.files))]
    plugins.load(about["plugins"])
    shape = (automaton.decisions, automaton.vocabulary)
    with jax.enable_x64(True):
        task = Task(automaton, np.zeros(automaton.states), np.zeros(shape), np.zeros(()), np.arange(shape[1], dtype=float))
        chosen = settings.Policy(**about["policy"])
        build = policies.REGISTRY[chosen.name].build
        like = jax.eval_shape(
            lambda task, legal, key: build(chosen, training.cast(task, about["dtype"]), legal, key, np.dtype(about["dtype"])),
            task,
            automaton.legal,
            jax.random.key(0),
        )
        return jax.tree.unflatten(jax.tree.structure(like), [jax.numpy.asarray(leaf) for leaf in leaves])


def save(folder: Path, built: Built, trained: Trained, seconds: float) -> dict[str, Any]:
    """Write a run's files into its folder; returns the summary."""
    columns = history(trained.rows)
    graded = summary(built, trained, seconds)
    write(folder / "history.csv", table(list(columns), zip(*columns.values(), strict=True)))
    write(folder / "outcomes.csv", outcomes(built, trained))
    if built.card.tokens:
        write(folder / "samples.txt", samples(built, trained))
    write(folder / "checkpoint.npz", checkpoint(built, trained))
    write(folder / "summary.json", json.dumps(graded, indent=2, allow_nan=False) + "\n")
    return graded
