"""The options of the algorithm: its groups, advantages, updates and surrogate loss."""

import dataclasses

from rlkl.settings.fields import MOST_COUNT, Resolved, Traced, static, traced

AGGREGATIONS = ("seq-mean-token-sum", "seq-mean-token-mean", "token-mean")


@dataclasses.dataclass(frozen=True)
class AlgorithmSettings:
    """The settings of the algorithm."""

    name: str = static("exact", "algorithm", kind=str)
    baseline_decay: Traced = traced(0.9, "decay of reinforce's moving-average baseline", at_least=0.0, below=1.0)
    loss_aggregation: Resolved = static(
        None, "how token losses are averaged over a batch; null: the algorithm's own", allowed=AGGREGATIONS
    )
    group_size: Resolved = static(
        None,
        "number of samples of one prompt whose returns are compared; null: the batch is one group, or with algorithm=exact, of "
        "objective=utility, infinitely many",
        kind=int,
        at_least=1,
    )
    scale_advantages: Resolved = static(
        None,
        "what advantages are divided by: the standard deviation of their group's or of the batch's returns; null: the "
        "algorithm's own",
        allowed=("group", "batch", "none"),
    )
    std: Resolved = static(
        None,
        "standard deviation that scales advantages: with the divisor G - 1 (sample; null) or G (population)",
        allowed=("sample", "population"),
    )
    pass_k: Resolved = static(
        None,
        "k of pass@k, which is maximised in place of the success rate; null: the success rate",
        kind=int,
        at_least=1,
        at_most=MOST_COUNT,
    )
    zero_std: str = static(
        "keep",
        "groups of equal rewards: kept with advantages of zero, dropped from the batch, or drawn again",
        allowed=("keep", "drop", "resample"),
    )
    epochs: Resolved = static(
        None, "number of updates on each batch; null: 4 of ppo, 1 of the others", kind=int, at_least=1, at_most=MOST_COUNT
    )
    surrogate: Resolved = static(None, "surrogate loss of a token; null: ppo of ppo, none of the others", kind=str)
    old_log_probs: str = static(
        "recomputed",
        "old policy of the surrogate's ratio: the policy before the step, or the sampler, as it reports itself",
        allowed=("recomputed", "reported"),
    )
    clip_low: Traced = traced(
        None, "limit below of the surrogate's ratio (1 - clip_low) or move; null: the surrogate's own", above=0.0, at_most=1.0
    )
    clip_high: Traced = traced(
        None, "limit above of the surrogate's ratio (1 + clip_high) or move; null: the surrogate's own", above=0.0
    )
    clip_ratio_c: Traced = traced(None, "of dual_clip: largest ratio where the advantage is negative; null: 3", above=1.0)
    tau_pos: Traced = traced(None, "of sapo: temperature where the advantage is positive; null: 1", above=0.0)
    tau_neg: Traced = traced(None, "of sapo: temperature where it is not; null: 1.05", above=0.0)
    cov_share: Traced = traced(
        None, "of clip_cov and kl_cov: share of the tokens that they act on; null: 0.0002", above=0.0, at_most=1.0
    )
    cov_low: Traced = traced(None, "of clip_cov: smallest covariance that it acts on; null: 1")
    cov_high: Traced = traced(None, "of clip_cov: largest covariance that it acts on; null: 5")
    kl_coef: Traced = traced(None, "of kl_cov: coefficient of |log ratio|; null: 1", above=0.0)
    max_log_odds: Traced = traced(
        None, "of dpo: largest |log-odds| of a pair, beyond which it has no gradient; null: no limit", above=0.0
    )
    entropy_coef: Traced = traced(
        None, "coefficient of an entropy bonus, which objective and regret ignore; null: none", above=0.0
    )
