"""Faults that diagnoses look for: thresholds, their reasons, and pages in the docs that say what to change."""

from typing import NamedTuple

SURE = 4.0  # standard errors from which a difference counts
SMALL_KL = 1e-3  # nats a token


class Warning(NamedTuple):
    """A warning. value: the number that is beyond the threshold. says: both in a sentence."""

    name: str
    value: float
    threshold: float
    says: str
    page: str


class Fault(NamedTuple):
    """A fault that diagnoses look for. limit: where its warning is raised, {} for the threshold. page: of docs/warnings."""

    title: str
    threshold: float
    limit: str
    why: str
    page: str

    @property
    def rule(self) -> str:
        """Where the warning is raised, in words."""
        return self.limit.format(f"{self.threshold:g}")


FAULTS = {
    "zero_probability": Fault(
        "sampled tokens have probability zero under the policy or the reference",
        0.0,
        "with more than {} such tokens",
        "one such token makes a KL infinite, or its weight 0",
        "k1_k3",
    ),
    "negative_kl": Fault(
        "k1 is below 0 by more than noise",
        -SURE,
        "below {} standard errors",
        "the mean of k1 over the policy's own samples estimates a KL, and no KL is negative",
        "negative_kl",
    ),
    "k1_k3_disagree": Fault(
        "k1 and k3 disagree",
        0.1,
        "where they differ by more than {} of k3 and by 4 standard errors",
        "their difference is the mean of pi_ref/pi less 1, which is 0 on samples of the policy",
        "k1_k3",
    ),
    "heavy_tails": Fault(
        "the mean of k3 rests on a few sequences",
        50.0,
        "below an effective number of {} sequences, or groups, behind the mean of k3, of at least 100",
        "with so few, 95% intervals of lognormal values cover 90 to 93% (measured), and the sum of a rarer token "
        "may be missing altogether",
        "k1_k3",
    ),
    "kl_at_start": Fault(
        "the KL is not 0 at the first step",
        SMALL_KL,
        "above {} nats a token by k3 at step 0 or 1, and 4 standard errors",
        "a policy that starts at its reference has a KL of 0",
        "step_1",
    ),
    "sampler_mismatch": Fault(
        "the sampler is another distribution than the policy",
        SMALL_KL,
        "above {} nats a token of KL(mu‖pi) by k3, and 4 standard errors",
        "there the weights pi/mu of whole sequences of 1,000 tokens have an effective sample size of about e^-2, or 14%",
        "sampler_mismatch",
    ),
    "mismatch_grows": Fault(
        "the mismatch of sampler and policy grows over the run",
        2.0,
        "where KL(mu‖pi) in the last fifth of the steps is above {} times that in the first, and 4 standard errors",
        "a mismatch of rounding stays as it is; one that grows comes from the weights or from the policy",
        "sampler_mismatch",
    ),
    "truncated_sampling": Fault(
        "the mean of pi/mu is not 1",
        0.005,
        "where it is further than {} from 1, and 4 standard errors",
        "it is 1 where mu gives every token of pi some probability, and the kept mass under top-p or top-k",
        "top_p",
    ),
    "raw_log_probs": Fault(
        "the sampler's log-probabilities are not those that tokens were drawn with",
        0.0,
        "with more than {} settings of temperature, top_p and top_k, where reported=raw",
        "raw log-probabilities are those of the model before these settings",
        "top_p",
    ),
    "clamped": Fault(
        "a clamp of log-ratios at ±10 would change the penalty",
        0.1,
        "above a share of {} of the sum of k3 in tokens beyond ±10",
        "beyond a clamp a penalty in the loss has no gradient",
        "clamps",
    ),
    "clipped": Fault(
        "many ratios pi/mu are outside of a clip range of .2",
        0.1,
        "above a share of {} of the tokens",
        "PPO's range is meant for the few tokens that several updates moved far",
        "clamps",
    ),
    "zero_std_groups": Fault(
        "most groups have no signal",
        0.5,
        "above a share of {} of groups whose rewards are all equal",
        "their advantages are 0, and only the penalty moves the policy there",
        "zero_std",
    ),
    "entropy_collapse": Fault(
        "the entropy has collapsed",
        0.5,
        "where the entropy a token in the last fifth of the steps is below {} of that in the first, and 4 standard errors",
        "a policy that has lost it draws the same answers again and again",
        "entropy",
    ),
    "length_bias": Fault(
        "averaging by sequences changes the KL",
        0.1,
        "where the mean over sequences of their KL a token differs from the KL a token by more than {} of it, and"
        " 4 standard errors",
        "tokens then count by the length of their sequence, in the reward's gradient too",
        "lengths",
    ),
    "descends_other": Fault(
        "the penalty does not descend what its name says",
        1.0,
        "where the setting's expected gradient is another one; the number is the ratio of the pulls, {} for the "
        "named divergence",
        "the value of an estimator and its gradient are two things (`rlkl audit` measures both)",
        "penalty",
    ),
}
