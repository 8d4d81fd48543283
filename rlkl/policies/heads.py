"""Parts shared by the networks: shifted input tokens, random weights, and the head from features to log-probabilities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl import settings
from rlkl.policies.base import finite_log_reference, normalise
from rlkl.policies.matrix import Matrix
from rlkl.policies.rounding import round_to
from rlkl.tasks.automaton import Task

INITS = ("reference", "uniform", "random")


class Head(eqx.Module):
    """The output layer: log-softmax of base[state] + features @ weight + bias over the supported tokens of the state.

    base: the reference's log-probabilities, made finite, or zeros; it is not trained. With zero weight and bias the network is
    the reference (or uniform). rounding: the dtype that the logits are rounded to before they are normalised; None: none.
    """

    weight: Matrix  # [H, V]
    bias: Float[Array, " V"]
    base: Float[Array, "D V"]
    support: Bool[Array, "D V"]
    rounding: str | None = eqx.field(static=True, default=None)

    def __call__(self, features: Float[Array, "*n H"], state: Int[Array, "*n"]) -> Float[Array, "*n V"]:
        row = jnp.minimum(state, self.base.shape[0] - 1)  # after the end of a sequence any row will do
        added = self.weight.product(features.reshape(-1, features.shape[-1])).reshape(*state.shape, -1)
        logits = jax.lax.stop_gradient(self.base)[row] + added + jnp.broadcast_to(self.bias, added.shape)
        logits = logits if self.rounding is None else round_to(logits, self.rounding)
        return normalise(logits, self.support[row])


def head(
    policy_settings: settings.PolicySettings,
    task: Task,
    support: Bool[Array, "D V"],
    key: PRNGKeyArray,
    width: int,
    dtype: jnp.dtype,
) -> Head:
    """The initial head for `policy.init`: reference or uniform (zero weights), or random with logits of scale `init_scale`."""
    shape = (width, task.automaton.vocabulary)
    weight = jnp.zeros(shape, dtype)
    if policy_settings.init == "random":
        weight = jnp.asarray(policy_settings.init_scale, dtype) * normal(key, shape, dtype)
    reference = jnp.asarray(task.log_reference, dtype)
    base = finite_log_reference(reference, support) if policy_settings.init == "reference" else jnp.zeros_like(reference)
    return Head(Matrix(weight), jnp.zeros(shape[1:], dtype), base, support)


def normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Normal weights of variance 1/fan-in, where fan-in is the size of the last axis but one."""
    return jax.random.normal(key, shape, dtype) * jnp.asarray(shape[-2] ** -0.5, dtype)


def prompt_of(task: Task) -> Int[np.ndarray, " D"] | None:
    """The prompt of each decision state, as a network stores it; None where there is one prompt."""
    automaton = task.automaton
    return automaton.prompt_of[: automaton.decisions] if automaton.prompts > 1 else None


def fed(
    tokens: Int[Array, "N T"],
    states: Int[Array, "N T1"],
    vocabulary: int,
    prompt: Int[Array | np.ndarray, " D"] | None,
) -> Int[Array, "N T"]:
    """The input tokens of a network: at each position the token before it, and V plus the prompt's number at the first.

    prompt: as `prompt_of` returns it.
    """
    if prompt is None:
        return jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=vocabulary)
    return jnp.concatenate([vocabulary + jnp.asarray(prompt)[states[:, :1]], tokens[:, :-1]], axis=1)
