"""Exact training on a flat reward from starts of one's own: training's own steps, the logits set before the first."""

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from rlkl import exact
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.settings import numerics
from rlkl.training import blocks, loop, spec

REFERENCE = (0.4, 0.25, 0.15, 0.1, 0.06, 0.04)
LOST = (5, 10, 20, 40)  # nats that the likeliest arm's logit is short of
DIRECTIONS = {"kl_pi_ref": "reverse_kl", "kl_ref_pi": "forward_kl"}
RATES = {"sgd": 1.0, "adam": 0.1}
LOGGED = (0, *np.unique(np.geomspace(1, 30_000, 46).round().astype(int)).tolist())
COLUMNS = ["optimizer", "direction", "start", "step", "kl_pi_ref", "kl_ref_pi", "gradient_norm"]


def starts() -> Mapping[str, np.ndarray]:
    """Logits by the start's name."""
    log_ref = np.log(REFERENCE)
    short = {f"lost {far}": log_ref - far * np.eye(len(log_ref))[0] for far in LOST}
    return {"reference": log_ref, "uniform": np.zeros_like(log_ref)} | short


def follow(optimizer: str, direction: str, steps: Sequence[int] = LOGGED) -> pd.DataFrame:
    """A row a start and logged step: both exact KLs and the norm of the exact objective's gradient, at beta 1."""
    given = [
        "task=bandit/custom", f"task.reward={[0.0] * len(REFERENCE)}", f"task.reference={list(REFERENCE)}",
        f"penalty={DIRECTIONS[direction]}", "penalty.beta=1", "algorithm=exact", f"optimizer={optimizer}",
        f"optimizer.learning_rate={RATES[optimizer]}", "optimizer.schedule=constant", f"steps={max(steps)}", "tracking=none",
    ]  # fmt: skip
    with numerics.pinned():
        run, named = build(compose(given)).run, starts()
        block = blocks.stack([run], len(named))
        found = jax.jit(jax.vmap(_path, in_axes=(0, 0, None)))(
            block, np.stack([*named.values()])[:, None, None], np.array(steps)
        )
    rows = pd.DataFrame(np.stack([np.asarray(x).ravel() for x in found], axis=1), columns=COLUMNS[-len(found) :])
    at = pd.MultiIndex.from_product([[optimizer], [direction], named, steps], names=COLUMNS[:4]).to_frame(index=False)
    return pd.concat([at, rows], axis=1)


def _path(run: spec.Run, logits, steps):
    state = loop.start(run)
    policy = eqx.tree_at(lambda p: p.logits, state.policy, logits)
    objective = spec.objective(run)

    def worth(policy):
        values = exact.values(objective, policy.table())
        return -run.settings.penalty.beta * values.divergence, values

    def onward(state, count):
        state = loop.steps(run, state, count)
        slope, values = eqx.filter_grad(worth, has_aux=True)(state.policy)
        return state, (values.kl_pi_ref, values.kl_ref_pi, jnp.linalg.norm(slope.logits))

    return jax.lax.scan(onward, state._replace(policy=policy), jnp.diff(steps, prepend=0))[1]
