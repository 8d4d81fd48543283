"""An order-k model: a row of logits for each context of the last k tokens, shared over positions and states."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlkl.policies.base import Policy, finite_log_reference, normalise, register


class Ngram(Policy):
    """pi(v | last k tokens), over the tokens that the state admits: a restricted family, exact by dynamic programming on an
    automaton whose states remember those tokens."""

    logits: Float[Array, "C V"]
    context: Int[Array | np.ndarray, " D"]
    support: Bool[Array, "D V"]
    horizon: int = eqx.field(static=True)

    def rows(self) -> Float[Array, "one D V"]:
        return normalise(self.logits[self.context], self.support)[None]

    def table(self) -> Float[Array, "T D V"]:
        rows = self.rows()
        return jnp.broadcast_to(rows, (self.horizon, *rows.shape[1:]))


@register("ngram", inits=("fitted", "uniform", "random"), restricted=True, memory=lambda chosen: chosen.order)
def ngram(chosen, task, support, key, dtype) -> Ngram:
    """Start at each context's mean of the reference's rows (fitted), uniform, or at logits drawn from N(0, init_scale^2).

    fitted weighs the rows by how often the reference stands there: the maximum-likelihood model of order k where all states
    of a context admit the same tokens.
    """
    automaton = task.automaton
    count = int(automaton.context.max()) + 1
    shape = (count, automaton.vocabulary)
    if chosen.init == "random":
        logits = jnp.asarray(chosen.init_scale, dtype) * jax.random.normal(key, shape, dtype)
    elif chosen.init == "uniform":
        logits = jnp.zeros(shape, dtype)
    else:
        logits = _fitted(task, count, dtype)
    return Ngram(logits, automaton.context, support, automaton.horizon)


def _fitted(task, count: int, dtype) -> Float[Array, "C V"]:
    automaton, rows = task.automaton, jnp.exp(jnp.asarray(task.log_reference, dtype))
    following = jnp.asarray(automaton.inner_next.ravel())

    def onward(at, _):
        flow = at[:, None] * rows
        return jax.ops.segment_sum(flow.ravel(), following, automaton.decisions + 1)[:-1], flow

    start = jnp.zeros((automaton.decisions,), dtype).at[automaton.start].set(1.0)
    _, flows = jax.lax.scan(onward, start, None, length=automaton.horizon)
    visits = jax.ops.segment_sum(jnp.sum(flows, axis=0), jnp.asarray(automaton.context), count)
    share = visits / jnp.maximum(jnp.sum(visits, axis=-1, keepdims=True), jnp.finfo(dtype).tiny)
    inside = share > 0.0
    log_share = jnp.where(inside, jnp.log(jnp.where(inside, share, 1.0)), -jnp.inf)
    return finite_log_reference(log_share, jnp.ones(share.shape, bool))
