"""N-gram policies: a row of logits for each context of the last k tokens, shared over positions and states."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlkl.policies.base import Policy, finite_log_reference, normalise, register


class Ngram(Policy):
    """pi(v | last k tokens) over the supported tokens of the state.

    It is a restricted family. Its values are exact on an automaton whose states include the last k tokens.
    """

    logits: Float[Array, "C V"]
    context: Int[Array | np.ndarray, " D"]
    support: Bool[Array, "D V"]
    horizon: int = eqx.field(static=True)

    def rows(self) -> Float[Array, "one D V"]:
        return normalise(self.logits[self.context], self.support)[None]

    def table(self) -> Float[Array, "T D V"]:
        rows = self.rows()
        return jnp.broadcast_to(rows, (self.horizon, *rows.shape[1:]))


@register("ngram", inits=("fitted", "uniform", "random"), restricted=True, memory=lambda settings: settings.order)
def ngram(settings, task, support, key, dtype) -> Ngram:
    """An n-gram model of `policy.order` tokens of context; starts fitted, uniform, or at logits from N(0, init_scale^2).

    fitted: the reference's rows averaged in each context, weighted by their visits under the reference. This is the
    maximum-likelihood n-gram model if all states of a context have the same legal tokens.
    """
    automaton = task.automaton
    contexts = int(automaton.context.max()) + 1
    shape = (contexts, automaton.vocabulary)
    if settings.init == "random":
        logits = jnp.asarray(settings.init_scale, dtype) * jax.random.normal(key, shape, dtype)
    elif settings.init == "uniform":
        logits = jnp.zeros(shape, dtype)
    else:
        logits = _fitted(task, contexts, dtype)
    return Ngram(logits, automaton.context, support, automaton.horizon)


def _fitted(task, contexts: int, dtype) -> Float[Array, "C V"]:
    automaton, rows = task.automaton, jnp.exp(jnp.asarray(task.log_reference, dtype))
    following = jnp.asarray(automaton.inner_next.ravel())

    def onward(occupancy, _):
        flow = occupancy[:, None] * rows
        return jax.ops.segment_sum(flow.ravel(), following, automaton.decisions + 1)[:-1], flow

    start = jnp.asarray(automaton.initial, dtype)
    _, flows = jax.lax.scan(onward, start, None, length=automaton.horizon)
    visits = jax.ops.segment_sum(jnp.sum(flows, axis=0), jnp.asarray(automaton.context), contexts)
    share = visits / jnp.maximum(jnp.sum(visits, axis=-1, keepdims=True), jnp.finfo(dtype).tiny)
    inside = share > 0.0
    log_share = jnp.where(inside, jnp.log(jnp.where(inside, share, 1.0)), -jnp.inf)
    return finite_log_reference(log_share, jnp.ones(share.shape, bool))
