"""A recurrent policy: gated recurrent units over the history of tokens."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlkl.policies import heads
from rlkl.policies.base import Network, register
from rlkl.policies.heads import Head
from rlkl.policies.matrix import Matrix


class Gru(Network):
    """One layer of H gated recurrent units (Cho et al. 2014, arXiv 1406.1078), whose input weights are the embedding."""

    stepwise: ClassVar[bool] = True

    embedding: Float[Array, "VP G"]  # V tokens, then P prompts; G = 3H: reset, update, candidate
    recurrent: Matrix  # [H, G]
    bias: Float[Array, " G"]
    head: Head
    prompt: Int[Array | np.ndarray, " D"] | None = None

    def start(self, size: int) -> Float[Array, "n H"]:
        return jnp.zeros((size, self.bias.shape[0] // 3), self.bias.dtype)

    def _cell(self, hidden: Float[Array, "n H"], embedded: Float[Array, "n G"]) -> Float[Array, "n H"]:
        reset_in, update_in, new_in = jnp.split(embedded, 3, axis=-1)
        carried = self.recurrent.product(hidden)
        reset, update, new = jnp.split(carried + jnp.broadcast_to(self.bias, carried.shape), 3, axis=-1)
        gate = jax.nn.sigmoid(update_in + update)
        return gate * hidden + (1.0 - gate) * jnp.tanh(new_in + jax.nn.sigmoid(reset_in + reset) * new)

    def step(self, carry: Float[Array, "n H"], token: Int[Array, " n"], state: Int[Array, " n"]) -> tuple[Any, Any]:
        hidden = self._cell(carry, self.embedding[token])
        return hidden, self.head(hidden, state)

    def score(self, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        embedded = self.embedding[heads.fed(tokens, states, self.head.bias.shape[0], self.prompt)]

        def along(hidden, inputs):
            hidden = self._cell(hidden, inputs)
            return hidden, hidden

        _, hidden = jax.lax.scan(along, self.start(tokens.shape[0]), jnp.swapaxes(embedded, 0, 1))
        return self.head(jnp.swapaxes(hidden, 0, 1), states[:, :-1])


@register("gru", inits=heads.INITS, restricted=True, network=True)
def gru(settings, task, support, key, dtype) -> Gru:
    """A layer of `policy.width` gated recurrent units; weights have variance 1/fan-in, the head follows `policy.init`."""
    width, vocabulary = settings.width, task.automaton.vocabulary
    embedding, recurrent, out = jax.random.split(key, 3)
    return Gru(
        jax.random.normal(embedding, (vocabulary + task.automaton.prompts, 3 * width), dtype),
        Matrix(heads.normal(recurrent, (width, 3 * width), dtype)),
        jnp.zeros((3 * width,), dtype),
        heads.head(settings, task, support, out, width, dtype),
        heads.prompt_of(task),
    )
