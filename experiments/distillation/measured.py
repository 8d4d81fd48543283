"""The numbers of the experiment: closed forms over k, gradient flows, samples of pairs, and where runs of rlkl ended."""

import math
from collections.abc import Iterator

import numpy as np

from experiments.distillation import one_state, own_tokens, sequences
from experiments.distillation.one_state import end, kl, softmax, top, truncated
from experiments.harness.series import Row, points
from rlkl.policies import table_of
from rlkl.runs.folder import checkpoint
from rlkl.runs.load import Runs
from rlkl.settings import numerics

Q = np.array([0.36, 0.22, 0.13, 0.08, 0.06, 0.04, 0.03, 0.025, 0.02, 0.015, 0.012, 0.008])  # the teacher on one state
COUNT, TRAINED_K, OF_SEQUENCES = len(Q), 4, 2
K = range(1, COUNT + 1)
ENDS = ("dropped", "forward dropped", "renormalised", "bucket", "masked k1")


def over_k() -> Iterator[Row]:
    """The end from a uniform student over k: mass of the top k, KLs, the value of the sum; and where a clamp at 0 stops."""
    uniform, sets = np.zeros(COUNT), [top(Q, k) for k in K]
    yield from points("mass", "teacher", K, [Q[inside].sum() for inside in sets])
    for loss in ENDS:
        reached = [end(loss, uniform, Q, inside) for inside in sets]
        yield from points("mass", loss, K, [pi[inside].sum() for pi, inside in zip(reached, sets, strict=True)])
        yield from points("kl", loss, K, [kl(pi, Q) for pi in reached])
        yield from points("forward kl", loss, K, [kl(Q, pi) for pi in reached])
        yield from points("value", loss, K, [_value(loss, pi, inside) for pi, inside in zip(reached, sets, strict=True)])
    for name, forward in (("dropped", False), ("forward dropped", True)):
        yield from points("value at the start", name, K, [truncated(softmax(uniform), Q, each, forward) for each in sets])
    stopped = [one_state.clamped_end(uniform, Q, inside) for inside in sets]
    yield from points("kl", "clamped", K, [kl(pi, Q) for pi in stopped])


def _value(loss: str, pi: np.ndarray, inside: np.ndarray) -> float:
    """The value of the sum whose gradient is followed; 0 at the minimum of what is a divergence."""
    return float(truncated(pi, Q, inside, loss == "forward dropped")) if loss.endswith("dropped") else 0.0


def flows(quick: bool) -> Iterator[Row]:
    """Largest difference of probabilities between the end of gradient flow, solved numerically, and the closed form."""
    draw = np.random.default_rng(0)
    for loss in one_state.LOSSES[:1] if quick else one_state.LOSSES:
        for k in (2, TRAINED_K):
            logits, inside = draw.normal(size=COUNT), top(Q, k)
            reached = softmax(one_state.flow(loss, logits, Q, inside, 1e6))
            yield from points("flow", loss, [k], [np.abs(reached - end(loss, logits, Q, inside)).max()])


def signs(quick: bool) -> Iterator[Row]:
    """How often sum_K q log(q/pi) is negative where pi(K) > q(K), and elsewhere; students near random teachers."""
    draw = np.random.default_rng(1)
    teachers = draw.dirichlet(np.ones(COUNT), size=200 if quick else 20_000)
    students = softmax(np.log(teachers) + 0.5 * draw.normal(size=teachers.shape))
    inside = top(teachers, TRAINED_K)
    more = np.sum(students - teachers, axis=1, where=inside) > 0.0
    negative = truncated(students, teachers, inside, forward=True) < 0.0
    yield from points("negative", "pi(K) > q(K)", [TRAINED_K], [negative[more].mean()])
    yield from points("negative", "pi(K) <= q(K)", [TRAINED_K], [negative[~more].mean()])


def of_own_tokens(quick: bool) -> Iterator[Row]:
    """Training on the student's own top k from random starts, and the same starts with the teacher's top k."""
    logits = np.random.default_rng(0).normal(size=(2 if quick else 100, COUNT))
    for loss in ("dropped", "renormalised", "bucket"):
        pi = own_tokens.trained(loss, logits, Q, TRAINED_K)
        right = np.all(top(pi, TRAINED_K) == top(Q, TRAINED_K), axis=1)
        still = np.abs(one_state.descent(loss, np.log(pi), Q, top(pi, TRAINED_K))).max(axis=1) < 1e-6
        for panel, y in (("own kl", kl(pi, Q)), ("own set is right", right), ("own end is stationary", still)):
            yield from points(panel, loss, range(len(pi)), y)
        yield from points("own stationary sets", loss, [TRAINED_K], [own_tokens.stationary_sets(loss, Q, TRAINED_K)])
        reached = np.stack([end(loss, z, Q, top(Q, TRAINED_K)) for z in logits])
        yield from points("teacher's kl", loss, range(len(pi)), kl(reached, Q))
    yield from points("own kl", "start", range(len(logits)), kl(softmax(logits), Q))


def of_sequences(quick: bool) -> Iterator[Row]:
    """Ends on sequences, from a uniform student; and of students of one row, at random teachers."""
    known = sequences.teacher()
    inside = top(known.rows, OF_SEQUENCES)
    of_teacher = sequences.inside_mass(known.rows, inside, known.length)
    uniform = np.full(known.rows.shape, 1.0 / known.rows.shape[1])
    for name, rows in (("start", uniform), *((loss, sequences.ends(loss, known, OF_SEQUENCES)) for loss in ENDS)):
        yield from points("sequences", name, [math.nan], [sequences.divergence(rows, known.rows, known.length)])
        mass = sequences.inside_mass(rows, inside, known.length)
        yield from points("sequences' mass, over the teacher's", name, [math.nan], [mass / of_teacher])
    for seed in range(1 if quick else 20):
        least, reached = sequences.of_one_row(seed)
        yield from points("one row", "reward-to-go", [seed], [least])
        yield from points("one row", "immediate", [seed], [reached])


def of_runs(runs: Runs) -> Iterator[Row]:
    """Where runs of rlkl ended."""
    for _, ran in runs.summary.iterrows():
        on_bandit, tail = ran["task"].startswith("bandit"), ran.get("override.penalty.top_k_tail")
        name = tail if on_bandit else f"k1 {ran['override.penalty.credit']}" if ran["estimator"] == "k1" else "top_k reward"
        yield from points("run kl" if on_bandit else "run sequences", name, [ran["seed"]], [ran["kl_pi_ref"]])
        if on_bandit:
            with numerics.pinned():
                pi = np.exp(np.asarray(table_of(checkpoint.load_policy(runs.root / ran["run"])), float))[0, 0]
            yield from points("run mass", name, [ran["seed"]], [pi[top(Q, TRAINED_K)].sum()])
            of = end(name, np.zeros(COUNT), Q, top(Q, TRAINED_K))
            yield from points("run to its end", name, [ran["seed"]], [np.abs(pi - of).max()])
