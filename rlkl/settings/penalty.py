"""The options of the penalty: its divergence, estimator, coefficient and importance weights."""

import dataclasses

from rlkl.settings.fields import Resolved, Traced, static, traced

SCHEDULES = ("linear", "cosine", "exponential")  # schedules of beta, from penalty.beta to penalty.beta_end
STEERED = ("adaptive", "lagrangian")  # controllers that steer beta to a target KL
CONTROLLERS = ("fixed", *STEERED, *SCHEDULES)
BETA_LIMITS = (1e-12, 1e12)  # beyond these, rounding would determine the optimum, not the penalty
KL_MASKS = (
    "opsm", "token_k1", "token_k2", "token_k3", "seq_sum_k1", "seq_sum_k2", "seq_sum_k3", "seq_mean_k1", "seq_mean_k2",
    "seq_mean_k3", "seq_max_k2", "seq_max_k3",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PenaltySettings:
    """The settings of the penalty: its divergence, its coefficient, and how it enters the gradient."""

    divergence: str = static("kl_pi_ref", "divergence D that is penalised; none: no penalty", kind=str)
    beta: Traced = traced(0.1, "coefficient of the penalty: > 0; 0 only with penalty=none")
    estimator: Resolved = static(
        None, "estimator of the divergence; null: one that is unbiased with unscaled advantages and sums over tokens", kind=str
    )
    placement: Resolved = static(None, "whether the estimate is part of the reward or of the loss", allowed=("reward", "loss"))
    top_k: Resolved = static(None, "number of tokens that estimator=top_k sums over", kind=int, at_least=1)
    top_k_of: Resolved = static(None, "whose most likely tokens top_k are", allowed=("policy", "reference"))
    top_k_tail: Resolved = static(
        None,
        "the tokens outside of top_k: dropped, or both distributions renormalised, or these tokens merged into one",
        allowed=("dropped", "renormalised", "bucket"),
    )
    level: Resolved = static(
        None, "whether an estimator reads log-ratios of tokens or of sequences", allowed=("token", "sequence")
    )
    credit: Resolved = static(
        None, "whether a term in the reward counts for earlier tokens too", allowed=("reward_to_go", "immediate")
    )
    gradient: str = static(
        "naive",
        "gradient of an estimator in the loss: as it is, times pi/stopped(pi), or that of gradient_estimator",
        allowed=("naive", "unbiased", "straight_through"),
    )
    gradient_estimator: str = static("k2", "estimator whose gradient gradient=straight_through uses", kind=str)
    future_kl: bool = static(False, "subtract the KL of later tokens from each token's return", kind=bool)
    sampler: Resolved = static(
        None,
        "source of the estimator's sequences: policy, reference, or none (exact)",
        allowed=("exact", "reference", "policy"),
    )
    clamp: Traced = traced(None, "largest |log-ratio| that an estimator reads, in nats; null: no limit", above=0.0)
    importance_correction: str = static(
        "none",
        "importance weights of a sampler that is not the policy: ratios of tokens or sequences, or their geometric mean",
        allowed=("none", "token", "sequence", "geometric"),
    )
    importance_limit: str = static(
        "truncate", "importance weights beyond their limits: set to the limit, or to 0", allowed=("truncate", "mask")
    )
    importance_min: Traced = traced(None, "smallest importance weight of importance_correction; null: no limit", above=0.0)
    truncation: Traced = traced(
        None,
        "largest importance weight: of importance_correction, and pi_ref/pi of score under KL(pi_ref‖pi); null: no limit",
        above=0.0,
    )
    kl_mask: str = static(
        "none",
        "estimate of KL(sampler‖pi) by which tokens or sequences lose their gradient; opsm: of negative advantages alone",
        allowed=("none", *KL_MASKS),
    )
    kl_mask_limit: Traced = traced(None, "largest estimate that kl_mask keeps, in nats", above=0.0)
    allow_biased: bool = static(False, "allow an expected gradient that is not the divergence's", kind=bool)
    controller: str = static("fixed", "controller or schedule of beta", allowed=CONTROLLERS)
    beta_end: Traced = traced(None, "final beta of a schedule", above=0.0)
    target_kl: Traced = traced(None, "KL(pi‖pi_ref) of a sequence that a controller steers to, in nats", above=0.0)
    horizon: Traced = traced(10_000.0, "number of sequences over which controller=adaptive corrects", above=0.0)
    controller_rate: Traced = traced(0.005, "step size of controller=lagrangian", above=0.0)
    alpha: Traced = traced(0.5, "parameter of the divergence alpha")
    weights: Traced = dataclasses.field(
        default=(0.5, 0.5), metadata={"about": "weights of both KLs in the divergence mixed", "traced": True, "kind": tuple}
    )
