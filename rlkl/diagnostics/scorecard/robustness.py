"""Checks that a penalty stays finite and right where log-ratios are extreme."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import settings
from rlkl.diagnostics.audit.gradients import _beside, _descended, _run, _weighted
from rlkl.penalties import options
from rlkl.policies import base
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.tasks.automaton import Automaton
from rlkl.training import spec

FAR = 200.0  # an extreme log-ratio
ROUNDING = 64.0  # machine epsilons that a zero may be off by


class Check(NamedTuple):
    """One check of robustness, by name."""

    name: str
    horizon: int
    dtype: str
    passed: bool


# Log-probabilities of three tokens: whose first is likely, next to impossible, or impossible.
LIKELY = np.log([0.5, 0.3, 0.2])
RARE, GONE = (np.append(first, np.log([0.6, 0.4])) for first in (LIKELY[0] - FAR, -np.inf))
# Of a policy and its reference, as in `scores.robustness`.
CASES = {
    f"+{FAR:g}": (LIKELY, RARE),
    f"-{FAR:g}": (RARE, LIKELY),
    "equal": (LIKELY, LIKELY),
    "off the reference": (LIKELY, GONE),
}
# A fourth token is illegal in the first state. Of two tokens the first is extreme, and the second as the reference has it.
ONE = Automaton(np.array([[1, 2, 3, -1]]), states=4, horizon=1)
TWO = Automaton(np.array([[1, 1, 1, -1], [2, 3, 4, 5]]), states=6, horizon=2)
SECOND = np.log([0.4, 0.3, 0.2, 0.1])


def robust(chosen: settings.Settings, horizon: int) -> list[Check]:
    """The checks of `scores.robustness` on a bandit (horizon 1) or on sequences of two tokens. Every sequence is in the batch
    once, however unlikely; where policies are equal, as often as it is likely. Needs x64."""
    run, div = _run(chosen, TWO if horizon > 1 else ONE), options.divergence(chosen.penalty)
    assert div is not None
    first = np.array([[np.append(row, -np.inf) for row in pair] for pair in CASES.values()])
    second = np.broadcast_to(SECOND, (*first.shape[:2], run.task.automaton.decisions - 1, 4))
    rows = np.concatenate([first[:, :, None], second], axis=2)
    infinite = np.isinf(float(div.limit("infinity", options.parameters(chosen.penalty, jnp.float64), jnp.float64)))
    checks = []
    for dtype in ("float32", "float64"):
        found = _extreme(run, rows.astype(dtype), np.array([name == "equal" for name in CASES]))
        for name, loss, value, gradient in zip(CASES, *map(np.asarray, found), strict=True):
            passed = bool(np.isfinite(loss) & np.isfinite(value) & np.isfinite(gradient).all())
            if name == "equal":
                passed &= max(abs(value), np.abs(gradient).max()) <= ROUNDING * np.finfo(dtype).eps
            elif name == "off the reference" and infinite:
                passed = bool(value == np.inf)
            checks.append(Check(name, horizon, dtype, bool(passed)))
    return checks


@jax.jit
def _extreme(run: spec.Run, rows: Float[Array, "C 2 D V"], likely) -> tuple[Array, Array, Array]:
    """Loss, value and gradient of each case, in the rows' dtype."""
    automaton, dtype = run.task.automaton, rows.dtype
    legal, low = jnp.asarray(automaton.legal), base.cast(run, dtype)

    def one(pair, likely):
        logits = jnp.broadcast_to(jnp.where(legal, pair[0], 0.0), (automaton.horizon, *pair[0].shape))
        listed = enumerate_all(automaton)
        own = jnp.exp(scoring.log_probability(Tabular(logits, legal), listed))
        batch = _weighted(listed, jnp.where(likely, own, jnp.asarray(1.0 / listed.size, dtype)))
        held = _beside(low, pair[1])
        of = lambda x: _descended(held, Tabular(x, legal), batch)  # noqa: E731
        (loss, value), gradient = jax.value_and_grad(of, has_aux=True)(logits)
        return loss, value, gradient

    return jax.vmap(one)(rows, likely)
