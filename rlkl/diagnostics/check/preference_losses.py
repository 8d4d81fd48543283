"""The expected gradients of losses on preferences, from their definitions: what DPO's and KTO's steps are compared to.

Their penalty stands inside of a sigmoid, so that no divergence's gradient is expected. The pairs are two independent draws of
the policy, and the one with the larger reward is chosen (the first, where they are equal).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl.diagnostics.check.worlds import World
from rlkl.divergences import REGISTRY, Params
from rlkl.settings import numerics

# TRL's names of the divergence that DPO's implied penalty is, and how many of rlkl's they are.
F_DIVERGENCES = {"reverse_kl": ("kl_pi_ref", 1.0), "forward_kl": ("kl_ref_pi", 1.0), "js_divergence": ("jensen_shannon", 2.0)}


def dpo(
    world: World, beta: float, loss_type: str = "sigmoid", f_divergence_type: str = "reverse_kl"
) -> Float[np.ndarray, "D V"]:
    """The gradient of E[-log sigmoid(beta (s(chosen) - s(rejected)))], s = f'(pi/pi_ref); for ipo of a square of the margin.

    Rafailov et al. 2023, "Direct preference optimization", arXiv 2305.18290; Wang et al. 2024, "Beyond reverse KL", arXiv
    2309.16240, for other divergences; Azar et al. 2024, "A general theoretical paradigm", arXiv 2310.12036, for ipo.
    """
    name, times = F_DIVERGENCES[f_divergence_type]
    log_ref, reward = world.sequences.log_ref.sum(axis=1), world.reward
    chosen_first = reward[:, None] >= reward[None, :]
    together = world.probability[:, None] * world.probability[None, :]

    def loss(log_pi: Float[Array, " Y"]) -> Float[Array, ""]:
        score = times * REGISTRY[name].both(log_pi - log_ref, Params())[1]
        margin = jnp.where(chosen_first, 1.0, -1.0) * (score[:, None] - score[None, :])
        each = jnp.square(margin - 0.5 / beta) if loss_type == "ipo" else jax.nn.softplus(-beta * margin)
        return jnp.sum(together * each)

    return _gradient(world, loss)


def kto(world: World, beta: float) -> Float[np.ndarray, "D V"]:
    """The gradient of E[1 - sigmoid(+-beta (log(pi/pi_ref) - z))], z = KL(pi‖pi_ref) held fixed; + at or above the mean reward.

    Ethayarajh et al. 2024, "KTO: model alignment as prospect theoretic optimization", arXiv 2402.01306.
    """
    log_ratio = (world.sequences.log_pi - world.sequences.log_ref).sum(axis=1)
    kl = world.probability @ log_ratio
    sign = np.where(world.reward >= world.probability @ world.reward, 1.0, -1.0)

    def loss(log_pi: Float[Array, " Y"]) -> Float[Array, ""]:
        margin = log_pi - world.sequences.log_ref.sum(axis=1) - kl
        return jnp.sum(world.probability * jax.nn.sigmoid(-sign * beta * margin))

    return _gradient(world, loss)


def _gradient(world: World, loss: Any) -> Float[np.ndarray, "D V"]:
    """The gradient by the logits of a loss of the log-probabilities of all sequences."""
    with numerics.pinned():
        weights = np.asarray(jax.grad(loss)(jnp.asarray(world.sequences.log_pi.sum(axis=1))))
    return world.gradient(np.repeat(weights[:, None], world.automaton.horizon, axis=1))
