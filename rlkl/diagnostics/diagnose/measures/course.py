"""Numbers by step, by length and by position, and how they change over a run."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from rlkl.diagnostics.diagnose.measures.estimates import Estimate, ratio
from rlkl.diagnostics.diagnose.measures.run import Run

COURSES = {  # name: column of sums over tokens; each is divided by the number of tokens
    "kl_k1": "k1",
    "kl_k3": "k3",
    "mismatch_k1": "m1",
    "mismatch_k3": "m3",
    "entropy": "surprise",
}
PARTS = 4  # classes of length
MOST_POINTS = 200
EDGE = 5  # the first and the last 1/EDGE of the steps are compared


class Point(NamedTuple):
    """One number at one step, or in one class of lengths: its mean over tokens."""

    name: str
    where: float
    value: float
    stderr: float
    low: float
    high: float
    sequences: int


class Change(NamedTuple):
    """A number in the first and the last fifth of the steps, and the standard error of the difference."""

    first: Estimate
    last: Estimate

    @property
    def z(self) -> float:
        """The difference in standard errors."""
        error = np.hypot(self.first.stderr, self.last.stderr)
        return float((self.last.value - self.first.value) / error) if error > 0.0 else 0.0


class ChangeRow(NamedTuple):
    """A number in the first and the last fifth of the steps. z: their difference in standard errors."""

    name: str
    first: float
    first_stderr: float
    last: float
    last_stderr: float
    z: float


def columns(run: Run) -> dict[str, str]:
    """The columns behind the courses that the run has; the entropy is weighted where the sampler's tokens are read."""
    by_name = dict(COURSES)
    if run.sampled_from == "sampler":
        by_name |= {"kl_k1": "k1_weighted", "kl_k3": "k3_weighted", "entropy": "surprise_weighted"}
    if run.sampled_from == "reference":
        by_name = {}
    return {name: column for name, column in by_name.items() if run.has(column)}


def by_step(run: Run) -> list[Point]:
    """Every course at every step, or at MOST_POINTS means of steps where there are more; an empty list without steps."""
    if not run.has("step"):
        return []
    steps = np.unique(run.table["step"])
    parts = np.array_split(steps, min(len(steps), MOST_POINTS))
    place = np.searchsorted(np.array([part[-1] for part in parts]), run.table["step"])
    return [point for index, part in enumerate(parts) for point in _points(run, float(part.mean()), place == index)]


def by_length(run: Run) -> list[Point]:
    """Every course in four classes of length with about as many sequences, at their mean lengths."""
    edges = np.unique(np.quantile(run.length, np.linspace(0.0, 1.0, PARTS + 1)[1:-1]))
    classes = np.searchsorted(edges, run.length)
    points = []
    for each in np.unique(classes):
        selected = classes == each
        points += _points(run, float(run.length[selected].mean()), selected)
    return points


def _points(run: Run, where: float, selected: Bool[np.ndarray, " N"]) -> list[Point]:
    part = run.part(selected)
    rates = {name: ratio(part.table[column], part.length, part.clusters) for name, column in columns(run).items()}
    return [Point(name, where, *rate[:4], int(selected.sum())) for name, rate in rates.items()]


def change(run: Run, name: str) -> Change | None:
    """A course in the first and the last fifth of the steps; None with fewer than ten steps."""
    column = columns(run).get(name)
    if column is None or not run.has("step"):
        return None
    steps = np.unique(run.table["step"])
    if len(steps) < 2 * EDGE:
        return None
    count = len(steps) // EDGE
    ends = []
    for edge in (steps[:count], steps[-count:]):
        part = run.part(np.isin(run.table["step"], edge))
        ends.append(ratio(part.table[column], part.length, part.clusters))
    return Change(*ends)


def change_rows(run: Run) -> list[ChangeRow]:
    """The changes of all courses that the run has; an empty list with fewer than ten steps."""
    changes = ((name, change(run, name)) for name in columns(run))
    return [ChangeRow(name, *each.first[:2], *each.last[:2], each.z) for name, each in changes if each is not None]


def entropy(run: Run) -> Estimate | None:
    """The policy's entropy a token; None without its log-probabilities, and on samples of the reference."""
    column = columns(run).get("entropy")
    return None if column is None else ratio(run.table[column], run.length, run.clusters)
