"""The state of a run while it is trained."""

from typing import NamedTuple

import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from rlkl.policies import AnyPolicy
from rlkl.training.sampled_losses import BatchStats


class State(NamedTuple):
    """The training state of a run. After the first step that is not finite, nothing changes any more, `step` included.

    anchor: the reference of the penalty, where it moves or is the start; else None. stale_policies: the last
    `rollout.staleness` policies on a leading axis, that of step t at index t mod staleness; None where samples are on-policy.
    baseline: moving average of the batches' returns, started at zero and not corrected for that start. key: the words of the
    run's random key (`threefry.wrap`). batch_stats: those of the last batch. controller_kl: moving average of
    `BatchStats.controller_kl`, not corrected either. stopped: whether KL(pi‖pi_ref) went beyond `stop_kl`, after which nothing
    changes either; None without such a limit.
    """

    policy: AnyPolicy
    anchor: AnyPolicy | None
    stale_policies: AnyPolicy | None
    optimizer: optax.OptState
    baseline: Float[Array, ""]
    key: UInt32[Array, "2"]
    step: Int[Array, ""]
    gradient_norm: Float[Array, ""]
    batch_stats: BatchStats
    beta: Float[Array, ""]
    controller_kl: Float[Array, ""]
    stopped: Bool[Array, ""] | None
