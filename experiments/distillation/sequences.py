"""Distillation on sequences: exact KLs by dynamic programs, and a student of one row that cannot represent its teacher."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy

from experiments.distillation import one_state
from experiments.distillation.one_state import softmax

TEACHER = Path(__file__).parent / "teacher.json"


class Teacher(NamedTuple):
    """The row of each state; token v leads to state v + 1, and sequences start in state 0."""

    rows: np.ndarray
    length: int


def teacher() -> Teacher:
    """The teacher that is trained against."""
    read = json.loads(TEACHER.read_text(encoding="utf-8"))
    return Teacher(np.array(read["reference"]), read["horizon"])


def total(values: np.ndarray, rows: np.ndarray, length: int) -> float:
    """The sum of a value of each visited state, over sequences drawn from these rows (one of each state)."""
    ahead = np.zeros(len(values))
    for _ in range(length):
        ahead = values + rows @ ahead[1:]
    return float(ahead[0])


def divergence(first: np.ndarray, second: np.ndarray, length: int) -> float:
    """KL(first‖second) of the distributions of sequences."""
    return total(one_state.kl(first, second), first, length)


def inside_mass(rows: np.ndarray, inside: np.ndarray, length: int) -> float:
    """The probability that every token of a sequence is in the top k of its state."""
    ahead = np.ones(len(rows))
    for _ in range(length):
        ahead = np.where(inside, rows, 0.0) @ ahead[1:]
    return float(ahead[0])


def ends(loss: str, known: Teacher, k: int) -> np.ndarray:
    """The rows at which a uniform student ends, by a loss token by token: row by row that of one state.

    The gradient of a row is that of one state times how often the state is visited, which changes the speed alone.
    """
    start = np.zeros(known.rows.shape[1])
    return np.stack([one_state.end(loss, start, row, one_state.top(row, k)) for row in known.rows])


def of_one_row(seed: int, tokens: int = 4, length: int = 8) -> tuple[float, float]:
    """KL(pi‖teacher) of sequences for a student with one row for all states, at a random teacher of this seed.

    The first is least; it is where k1 with reward-to-go ends. The second is where k1 with immediate credit ends, and the full
    sum in the loss: both leave out what a token does to the states that follow.
    """
    draw = np.random.default_rng(seed)
    rows = 0.95 * draw.dirichlet(np.full(tokens, 0.5), size=tokens + 1) + 0.05 / tokens

    def whole(z: np.ndarray) -> float:
        return divergence(np.tile(softmax(z), (tokens + 1, 1)), rows, length)

    def token_by_token(_, z: np.ndarray) -> np.ndarray:
        w = softmax(z)
        visits = np.append(1.0, (length - 1) * w)
        slope = visits @ np.log(w / rows)
        return w * (w @ slope - slope)

    starts = draw.normal(size=(3, tokens))
    least = min(float(scipy.optimize.minimize(whole, z, tol=1e-10).fun) for z in starts)
    reached = scipy.integrate.solve_ivp(token_by_token, (0.0, 1e4), np.zeros(tokens), "LSODA", rtol=1e-9, atol=1e-11)
    return least, whole(reached.y[:, -1])
