"""The registry of surrogate losses, with their formulas, their options, and their names in other libraries."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl.rollouts.batch import Batch
from rlkl.settings import AlgorithmSettings


class TokenLoss(NamedTuple):
    """A loss of each token, and the share of the token's gradient that the surrogate changed.

    touched: between 0 and 1, against the same surrogate without its limits: 1 where the token is clipped or masked.
    """

    loss: Float[Array, "N T"]
    touched: Float[Array, "N T"]


Loss = Callable[[Float[Array, "N T"], Float[Array, "N T"], Float[Array, "N T"], Batch, AlgorithmSettings], TokenLoss]


class Surrogate(NamedTuple):
    """A registered surrogate.

    loss: (log_pi, old_log_pi, advantages, batch, options) -> `TokenLoss`; only log_pi is differentiated. formula: the loss of a
    token. options: the options of `algorithm` that it reads, with their defaults. libraries: their names of it, by library.
    """

    loss: Loss
    formula: str
    options: Mapping[str, float]
    libraries: Mapping[str, str]


REGISTRY: dict[str, Surrogate] = {}


def register(name: str, formula: str, libraries: Mapping[str, str], **options: float) -> Callable[[Loss], Loss]:
    """Decorator that registers a loss as the surrogate `name`; `options` are the options that it reads and their defaults."""

    def add(loss: Loss) -> Loss:
        REGISTRY[name] = Surrogate(loss, formula, options, libraries)
        return loss

    return add


def option_names() -> tuple[str, ...]:
    """The options of `algorithm` that some surrogate reads."""
    return tuple(dict.fromkeys(option for surrogate in REGISTRY.values() for option in surrogate.options))


def token_loss(
    log_pi: Float[Array, "N T"],
    old_log_pi: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    batch: Batch,
    options: AlgorithmSettings,
) -> TokenLoss:
    """The loss of each token under `algorithm.surrogate`. No gradient flows through the advantages or the old policy.

    log_pi, old_log_pi: log-probabilities of the tokens of the batch, 0 at padding.
    """
    fixed = jax.lax.stop_gradient((old_log_pi, advantages))
    return REGISTRY[options.surrogate].loss(log_pi, *fixed, batch, options)


@register(
    "none",
    "-A log pi",
    {
        "verl": "rollout_correction.bypass_mode=true, rollout_correction.loss_type=reinforce",
        "NeMo RL": "disable_ppo_ratio=true",
    },
)
def score_loss(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """No ratio and no limit: minus the gradient is the score-function estimate of the gradient of the expected return."""
    return TokenLoss(-advantages * log_pi, jnp.zeros_like(log_pi))
