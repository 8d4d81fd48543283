"""Checks that the loss and gradient of a penalty are finite and correct at extreme log-ratios."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import settings
from rlkl.diagnostics.audit.gradients import loss_and_penalty, penalty_run, with_reference, with_weight
from rlkl.penalties import options
from rlkl.policies import base
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.tasks.automaton import Automaton
from rlkl.training import spec

FAR = 200.0  # an extreme log-ratio
ROUNDING = 64.0  # tolerance for a zero, in machine epsilons


class Check(NamedTuple):
    """The result of one check at extreme log-ratios."""

    name: str
    horizon: int
    dtype: str
    passed: bool


# Log-probabilities of three tokens, the first of which is likely, rare (LIKELY less FAR) or impossible.
LIKELY = np.log([0.5, 0.3, 0.2])
RARE, GONE = (np.append(first, np.log([0.6, 0.4])) for first in (LIKELY[0] - FAR, -np.inf))
# (policy, reference) of each check of `scores.extreme_ratios`.
CASES = {
    f"+{FAR:g}": (LIKELY, RARE),
    f"-{FAR:g}": (RARE, LIKELY),
    "equal": (LIKELY, LIKELY),
    "off the reference": (LIKELY, GONE),
}
# A fourth token is illegal in the first state. In TWO the first token is extreme; the second is the same under both policies.
ONE = Automaton(np.array([[1, 2, 3, -1]]), states=4, horizon=1)
TWO = Automaton(np.array([[1, 1, 1, -1], [2, 3, 4, 5]]), states=6, horizon=2)
SECOND = np.log([0.4, 0.3, 0.2, 0.1])


def run_checks(run_settings: settings.Settings, horizon: int) -> list[Check]:
    """The checks of `scores.extreme_ratios` on a bandit (horizon 1) or on sequences of two tokens.

    The batch holds every sequence with equal weight; for equal policies it is weighted by its probability. Needs x64.
    """
    run, div = penalty_run(run_settings, TWO if horizon > 1 else ONE), options.divergence(run_settings.penalty)
    assert div is not None
    first = np.array([[np.append(row, -np.inf) for row in pair] for pair in CASES.values()])
    second = np.broadcast_to(SECOND, (*first.shape[:2], run.task.automaton.decisions - 1, 4))
    rows = np.concatenate([first[:, :, None], second], axis=2)
    infinite = np.isinf(float(div.limit("infinity", options.parameters(run_settings.penalty, jnp.float64), jnp.float64)))
    checks = []
    for dtype in ("float32", "float64"):
        results = _extreme(run, rows.astype(dtype), np.array([name == "equal" for name in CASES]))
        for name, loss, value, gradient in zip(CASES, *map(np.asarray, results), strict=True):
            passed = bool(np.isfinite(loss) & np.isfinite(value) & np.isfinite(gradient).all())
            if name == "equal":
                passed &= max(abs(value), np.abs(gradient).max()) <= ROUNDING * np.finfo(dtype).eps
            elif name == "off the reference" and infinite:
                passed = bool(value == np.inf)
            checks.append(Check(name, horizon, dtype, bool(passed)))
    return checks


@jax.jit
def _extreme(run: spec.Run, rows: Float[Array, "C 2 D V"], likely) -> tuple[Array, Array, Array]:
    """Loss, penalty and gradient of each case, in the dtype of the rows."""
    automaton, dtype = run.task.automaton, rows.dtype
    legal, cast_run = jnp.asarray(automaton.legal), base.cast(run, dtype)

    def check_one(pair, likely):
        logits = jnp.broadcast_to(jnp.where(legal, pair[0], 0.0), (automaton.horizon, *pair[0].shape))
        sequences = enumerate_all(automaton)
        probability = jnp.exp(scoring.log_probability(Tabular(logits, legal), sequences))
        batch = with_weight(sequences, jnp.where(likely, probability, jnp.asarray(1.0 / sequences.size, dtype)))
        checked_run = with_reference(cast_run, pair[1])
        function = jax.value_and_grad(lambda x: loss_and_penalty(checked_run, Tabular(x, legal), batch), has_aux=True)
        (loss, value), gradient = function(logits)
        return loss, value, gradient

    return jax.vmap(check_one)(rows, likely)
