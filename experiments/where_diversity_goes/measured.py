"""From runs to the table: a row a policy, exact or trained, under each combination of causes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.where_diversity_goes import numbers, places
from experiments.where_diversity_goes.places import PAIRS, SEEDS, TYPICALITY, Place, Reward
from rlkl.policies import base
from rlkl.rollouts import scoring
from rlkl.runs.folder import checkpoint
from rlkl.runs.load import Runs
from rlkl.settings import numerics

DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
BETAS = (0.1, 0.17, 0.3, 0.4, 0.55, 0.75, 1.0, 1.7, 3.0)
MORE_PAIRS = (100, 10000)  # beside PAIRS, for the finite data's share alone
CAUSES = ("data", "bias", "estimator")  # 1 where a policy suffers from it, 0 where not
KEYS = ("task", "direction", "series", *CAUSES, "pairs", "beta", "seed")
COLUMNS = [*KEYS, *numbers.NUMBERS]
DIGITS = 7


class Corner(NamedTuple):
    """A combination of causes, the reward that it makes of the gold one, and of how many pairs with which seed (None: of
    infinitely many)."""

    data: int
    bias: int
    reward: Reward
    pairs: float
    seed: int | None


def table(runs: Runs, quick: bool = False) -> pd.DataFrame:
    """series: "reference" (once a task), "flat" (the optimum of a reward that is 0 everywhere), "exact" (the optimum; with
    estimator 1 the end of what k3 in the loss descends), "trained".

    data: the reward was fitted to `pairs` answers, not infinitely many; bias: the annotators favour typical text; estimator: k3
    in the loss stands in for the named divergence, so that these rows are alike in both directions. Numbers to DIGITS digits.
    quick: at every other beta, with one seed of answers.
    """
    betas, seeds = (BETAS[::2], SEEDS[:1]) if quick else (BETAS, SEEDS)
    with numerics.pinned():
        laid = {name: places.place(name) for name in places.TASKS}
        rows = [row for at in laid.values() for row in (*_exact(at, betas, seeds), *_with_more_pairs(at, betas, seeds))]
        rows += [row for _, graded in runs.summary.iterrows() for row in _trained(laid, graded, runs)]
    rounded = [{k: float(f"{v:.{DIGITS}g}") if k in numbers.NUMBERS else v for k, v in row.items()} for row in rows]
    return pd.DataFrame(rounded, columns=COLUMNS)


def corners(at: Place, seeds: Sequence[int]) -> Iterator[Corner]:
    """Every reward: with and without bias, known and fitted by each seed."""
    for bias in (0, 1):
        yield Corner(0, bias, places.gold(at, bias * TYPICALITY), np.inf, None)
        for seed in seeds:
            yield Corner(1, bias, places.fitted(at, bias * TYPICALITY, PAIRS, seed), PAIRS, seed)


def _exact(at: Place, betas: Sequence[float], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    yield {"task": at.name, "series": "reference"} | numbers.of(at, at.log_ref)
    flat = Reward(np.zeros_like(at.task.reward), 0.0)
    for direction, beta in itertools.product(DIRECTIONS, betas):
        yield _about(at.name, direction, "flat", beta) | numbers.of(at, places.optimum(at, direction, flat, beta))
    for corner, beta in itertools.product(corners(at, seeds), betas):
        biased = numbers.of(at, places.descended(at, corner.reward, beta))
        for direction in DIRECTIONS:
            known = _about(at.name, direction, "exact", beta) | corner._asdict()
            yield known | {"estimator": 0} | numbers.of(at, places.optimum(at, direction, corner.reward, beta))
            yield known | {"estimator": 1} | biased


def _with_more_pairs(at: Place, betas: Sequence[float], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """What fewer and more pairs do, alone, under KL(pi‖pi_ref)."""
    for pairs, seed in itertools.product(MORE_PAIRS, seeds):
        reward = places.fitted(at, 0.0, pairs, seed)
        known = {"data": 1, "bias": 0, "estimator": 0, "pairs": pairs, "seed": seed}
        for beta in betas:
            found = numbers.of(at, places.optimum(at, DIRECTIONS[0], reward, beta))
            yield _about(at.name, DIRECTIONS[0], "exact", beta) | known | found


def _about(task: str, direction: str, series: str, beta: float) -> dict[str, Any]:
    return {"task": task, "direction": direction, "series": series, "beta": beta}


def _trained(laid: dict[str, Place], graded: pd.Series, runs: Runs) -> Iterator[dict[str, Any]]:
    """A run: of all causes (in both directions, for k3 in the loss is the same in both), or of none but the training."""
    fitted = str(graded["task"]).startswith("preference")
    of = graded["gold_task"] if fitted else graded["task"]
    at = next(laid[name] for name, options in places.TASKS.items() if options["name"] == of)
    policy = base.cast(checkpoint.load_policy(runs.root / graded["run"]), jnp.float64)
    found = numbers.of(at, np.asarray(scoring.log_probability(policy, at.listed)))
    causes = dict.fromkeys(CAUSES, int(fitted)) | {"pairs": PAIRS if fitted else np.inf, "seed": graded["seed"]}
    for direction in DIRECTIONS if fitted else (graded["divergence"],):
        yield _about(at.name, direction, "trained", graded["beta"]) | causes | found
