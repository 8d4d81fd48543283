"""Methods that train the network on one prompt, and what the other prompts forget, at equal success and at equal KL."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.razor import network
from experiments.razor.network import CHECKPOINTS, CORRECT, MEASURES, Method, Problem
from rlkl.settings import numerics

SEEDS = 8
BETAS = (0.05, 0.1, 0.2)
SUCCESSES = (0.5, 0.8, 0.9, 0.95, 0.99)  # at which methods are compared
KL = 1.0  # KL(pi_0‖pi) at the trained prompt at which methods are compared
NO_PENALTY, PROJECTION, REPLAY = "RL, no penalty", "ML, I-projection", "ML, I-projection, KL on other prompts"
COLUMNS = ["method", "optimizer", "seed", "at", *MEASURES]


def methods(problem: Problem) -> dict[str, Method]:
    """Reinforcement learning (RL) with and without a KL penalty at the trained prompt, and maximum likelihood (ML) on answers.

    The answers: those of the I-projection, all correct ones alike, each correct one alone, and three random distributions.
    """
    first = np.exp(np.asarray(problem.log_start[0]))
    projection = np.where(CORRECT, first, 0.0) / first[CORRECT].sum()
    right = np.flatnonzero(CORRECT)
    random = np.random.default_rng(0).dirichlet(np.ones(len(right)), 3)
    given = {"all alike": CORRECT / CORRECT.sum()}
    given |= {f"answer {i}": np.arange(len(CORRECT)) == i for i in right}
    given |= {
        f"random {i}": np.where(CORRECT, row[np.minimum(np.arange(len(CORRECT)), 2)], 0.0) for i, row in enumerate(random)
    }
    named = {NO_PENALTY: _method(reward=1.0)}
    named |= {f"RL, {beta:g} KL(pi‖pi_0)": _method(reward=1.0, kl_pi_start=beta) for beta in BETAS}
    named |= {f"RL, {beta:g} KL(pi_0‖pi)": _method(reward=1.0, kl_start_pi=beta) for beta in BETAS}
    named[PROJECTION] = _method(likelihood=1.0, answers=projection)
    named |= {f"ML, {name}": _method(likelihood=1.0, answers=answers) for name, answers in given.items()}
    named[REPLAY] = _method(likelihood=1.0, others=1.0, answers=projection)
    return named


def _method(answers=None, **weights: float) -> Method:
    terms = {name: jnp.asarray(weights.get(name, 0.0)) for name in Method._fields[:-1]}
    return Method(**terms, answers=jnp.asarray(np.zeros(len(CORRECT)) if answers is None else answers, float))


def table(quick: bool) -> pd.DataFrame:
    """A row a network, optimiser, method and place on its way: where it first reaches a success, a KL, and the last step."""
    with numerics.pinned():
        checkpoints = CHECKPOINTS[:6] if quick else CHECKPOINTS
        problems = [network.problem(seed) for seed in range(1 if quick else SEEDS)]
        runs = [
            (seed, name, problem, method) for seed, problem in enumerate(problems) for name, method in methods(problem).items()
        ]
        stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *column) for column in list(zip(*runs, strict=True))[2:]]
        gaps = jnp.diff(jnp.asarray(checkpoints), prepend=0)
        rows: list[tuple] = []
        for optimizer in list(network.OPTIMIZERS)[: 1 if quick else None]:
            measured = np.stack([np.asarray(x) for x in network.train(optimizer, gaps, *stacked)], axis=-1)
            for (seed, name, *_), path in zip(runs, measured, strict=True):
                rows += [(name, optimizer, seed, at, *values) for at, values in places(path).items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def places(path: np.ndarray) -> dict[str, np.ndarray]:
    """Measures where a path first reaches each success and KL, interpolated between checkpoints, and at its end."""
    levels = [(f"success {level:g}", MEASURES.index("success"), level) for level in SUCCESSES]
    levels.append((f"KL {KL:g}", MEASURES.index("kl_start_pi"), KL))
    reached = {at: _first(path, column, level) for at, column, level in levels if (path[:, column] >= level).any()}
    return reached | {"end": path[-1]}


def _first(path: np.ndarray, column: int, level: float) -> np.ndarray:
    """The path where a column first reaches a level, interpolated linearly in that column."""
    after = int(np.argmax(path[:, column] >= level))
    before, reached = path[after - 1], path[after]
    return before + (level - before[column]) / (reached[column] - before[column]) * (reached - before)
