"""From paths to the table: how fast each method finds the rare good token, where it ends, and what it has lost there."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import yaml

from experiments.trust_regions import fixed_points, methods, paths
from rlkl.config.build import build
from rlkl.policies import table_of
from rlkl.runs.folder import checkpoint
from rlkl.runs.load import Runs
from rlkl.settings import numerics
from rlkl.training.spec import Run

COLUMNS = ["task", "method", "kind", "sampler", "seed", "regret", "entropy", "success", "half", "touched", "apart", "pull"]
EARLY = 25  # rows over which `touched` is averaged
FRESH = "staleness 0"
QUICK = ("ppo", methods.PLAIN)
RLKL = "trained by rlkl"


class Sequences(NamedTuple):
    """Every sequence of a task: its (position, state, token) triples, its reward and log pi_ref; and the optimum."""

    places: list[list[tuple[int, int, int]]]
    reward: np.ndarray
    log_ref: np.ndarray
    beta: float
    log_optimum: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """Whether a sequence earns the largest reward."""
        return self.reward == self.reward.max()


def sequences_of(run: Run) -> Sequences:
    automaton, beta = run.task.automaton, float(run.settings.penalty.beta)
    tokens, states = automaton.enumerated()
    places = [
        [(t, int(s), int(v)) for t, (s, v) in enumerate(zip(before, row, strict=False)) if s < automaton.decisions]
        for before, row in zip(states, tokens, strict=True)
    ]
    reward = np.asarray(run.task.reward)[states[:, -1]]
    log_ref = np.array([sum(np.asarray(run.task.log_reference)[s, v] for _, s, v in path) for path in places])
    weight = log_ref + reward / beta
    return Sequences(places, reward, log_ref, beta, weight - np.logaddexp.reduce(weight))


def table(runs: Runs, quick: bool = False) -> pd.DataFrame:
    """A row a task, method, sampler and seed, one for each run that rlkl trained, and two a method without noise.

    regret, entropy: at the end, entropy less the optimum's, in nats. success: probability of the best reward, over the
    optimum's. half: the first step at which it is a half. touched: share of tokens that the method clips, masks or limits, mean
    over the first 500 steps; of stale samples alone, since at temperature .8 some batches come to hold one sequence only, whose
    advantage, and clip, has the sign of a rounding error. apart: largest difference of a log-probability at the end: of fresh
    samples (staleness 0) from the uncorrected loss of the same seed; of rlkl's run, from the same path here. pull: without
    noise, see `fixed_points`; 0 where the optimum is a fixed point.
    """
    steps, seeds = (paths.EVERY * 2, 1) if quick else (paths.STEPS, paths.SEEDS)
    rows: list[dict[str, Any]] = []
    ends: dict[tuple[str, str, str, int], np.ndarray] = {}
    for task in paths.TASKS:
        named = {name: given for name, given in methods.methods(task).items() if not quick or name in QUICK}
        with ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda given, task=task: _follow(task, given, steps, seeds), named.values())
            for name, (run, path) in zip(named, found, strict=True):
                for sampler, seed, lane in _lanes(path, seeds):
                    ends[task, name, sampler, seed] = np.asarray(lane.log_pi[-1])
                    kind = "surrogate" if name in methods.SURROGATES else "weights"
                    about = {"task": task, "method": name, "kind": kind, "sampler": sampler, "seed": seed}
                    rows.append(about | _numbers(sequences_of(run), lane))
    for row in rows:
        if methods.SAMPLERS[row["sampler"]].temperature != 1.0:
            row["touched"] = math.nan
    for row in (row for row in rows if row["sampler"] == FRESH):
        row["apart"] = _apart(
            *(ends[row["task"], name, row["sampler"], row["seed"]] for name in (row["method"], methods.PLAIN))
        )
    return pd.DataFrame([*rows, *_by_rlkl(runs, ends), *([] if quick else _at_optima())], columns=COLUMNS)


def _at_optima() -> Iterator[dict[str, Any]]:
    """The rows without noise."""
    with ThreadPoolExecutor(2) as pool:
        for task, found in zip(paths.TASKS, pool.map(_pulls, paths.TASKS), strict=True):
            for (method, sampler), pull in found.items():
                kind = "surrogate" if method in methods.SURROGATES else "weights"
                yield {"task": task, "method": method, "kind": kind, "sampler": sampler, "pull": pull}


def _pulls(task: str) -> dict[tuple[str, str], float]:
    with numerics.pinned():  # of this thread
        return fixed_points.pulls(task)


def _follow(task: str, overrides: Sequence[str], steps: int, seeds: int) -> tuple[Run, paths.Path]:
    with numerics.pinned():  # of this thread
        run = paths.run_of(task, overrides, steps)
        return run, jax.tree.map(np.asarray, paths.follow(run, seeds))


def _lanes(path: paths.Path, seeds: int) -> Iterator[tuple[str, int, paths.Path]]:
    for number, name in enumerate(methods.SAMPLERS):
        for seed in range(seeds):
            yield name, seed, paths.Path(*(x[number * seeds + seed] for x in path))


def _numbers(sequences: Sequences, lane: paths.Path) -> dict[str, float]:
    log_pi = np.stack(
        [sum(lane.log_pi[:, min(t, lane.log_pi.shape[1] - 1), s, v] for t, s, v in path) for path in sequences.places], axis=1
    )
    best = np.exp(sequences.log_optimum)
    success = np.exp(log_pi[:, sequences.good]).sum(axis=1) / best[sequences.good].sum()
    reached = np.flatnonzero(success >= 0.5)
    pi = np.exp(log_pi[-1])
    return {
        "regret": sequences.beta * float(pi @ (log_pi[-1] - sequences.log_optimum)),
        "entropy": float(best @ sequences.log_optimum - pi @ log_pi[-1]),
        "success": float(success[-1]),
        "half": float((reached[0] + 1) * paths.EVERY) if len(reached) else math.nan,
        "touched": float(np.mean(lane.touched[:EARLY])),
    }


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of a log-probability, where there is one."""
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(np.abs(one - other)))


def _by_rlkl(runs: Runs, ends: dict[tuple[str, str, str, int], np.ndarray]) -> Iterator[dict[str, Any]]:
    for _, summary in runs.summary.iterrows():
        folder = runs.root / summary["run"]
        run = build(yaml.safe_load((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))).run
        place = (
            "bandit",
            str(run.settings.algorithm.surrogate),
            f"staleness {run.settings.rollout.staleness}",
            summary["seed"],
        )
        with numerics.pinned():
            log_pi = np.asarray(table_of(checkpoint.load_policy(folder)))
        names = dict(zip(("task", "method", "sampler", "seed"), place, strict=True))
        apart = _apart(log_pi, ends[place]) if place in ends else math.nan
        yield names | {"kind": RLKL, "regret": summary["regret"], "apart": apart}
