"""The declarations of all options: static (each value is compiled anew) or traced (free to sweep), with their allowed values.

This module does not import jax, so that the command can check and explain settings before anything heavy is imported. Names of
registered tasks, policies, divergences and algorithms are checked in `config.resolve`.
"""

import dataclasses
from typing import Any

Traced = Any  # a number; inside of a compiled program an array
Resolved = Any  # may be null; `config.resolve` then chooses a value
SCHEDULES = ("linear", "cosine", "exponential")  # schedules of beta, from penalty.beta to penalty.beta_end
STEERED = ("adaptive", "lagrangian")  # controllers that steer beta to a target KL
CONTROLLERS = ("fixed", *STEERED, *SCHEDULES)
SEED_LIMIT = 2**32
MOST_COUNT = 10**8  # largest number of steps and the like, which are 32-bit integers
BETA_LIMITS = (1e-12, 1e12)  # beyond these, rounding would determine the optimum, not the penalty
KL_MASKS = (
    "opsm", "token_k1", "token_k2", "token_k3", "seq_sum_k1", "seq_sum_k2", "seq_sum_k3", "seq_mean_k1", "seq_mean_k2",
    "seq_mean_k3", "seq_max_k2", "seq_max_k3",
)  # fmt: skip
AGGREGATIONS = ("seq-mean-token-sum", "seq-mean-token-mean", "token-mean")


def static(default: Any, about: str, allowed: tuple | None = None, kind: type | None = None, **limits: int | float):
    """Declare a static field: each value is compiled anew. about: its meaning; limits: above, at_least, below, at_most."""
    return _field(default, about=about, traced=False, allowed=allowed, kind=kind, **limits)


def traced(
    default: Any,
    about: str,
    above: int | float | None = None,
    at_least: int | float | None = None,
    below: int | float | None = None,
    at_most: int | float | None = None,
):
    """Declare a traced number: it is an input of compiled programs, so that a sweep over it compiles once."""
    return _field(default, about=about, traced=True, kind=float, above=above, at_least=at_least, below=below, at_most=at_most)


def _field(default, **metadata):
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """The settings of the policy."""

    name: str = static("tabular", "policy family", kind=str)
    init: Resolved = static(
        None, "initial policy: reference, uniform, random, ...; the family says which it can start from", kind=str
    )
    support: Resolved = static(
        None,
        "tokens it may take; null: reference where the divergence is infinite on all others, else all",
        allowed=("reference", "all"),
    )
    init_scale: Traced = traced(1.0, "standard deviation of the logits with init=random", at_least=0.0)
    mean: Traced = traced(0.0, "initial mean of a Gaussian, in units of the task's coordinates")
    scale: Traced = traced(1.0, "initial scale of a Gaussian, in the same units", above=0.0)
    order: int = static(2, "number of previous tokens that an ngram policy reads", kind=int, at_least=1)
    width: int = static(64, "number of hidden units of a network", kind=int, at_least=1)
    layers: int = static(2, "number of blocks of a transformer", kind=int, at_least=1)
    heads: int = static(4, "number of attention heads of a transformer", kind=int, at_least=1)


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
    entropy_coef: Traced = traced(
        None, "coefficient of an entropy bonus, which objective and regret ignore; null: none", above=0.0
    )


@dataclasses.dataclass(frozen=True)
class PenaltySettings:
    """The settings of the penalty: its divergence, its coefficient, and how it enters the gradient."""

    divergence: str = static("kl_pi_ref", "divergence D that is penalised; none: no penalty", kind=str)
    beta: Traced = traced(0.1, "coefficient of the penalty: > 0; 0 only with penalty=none")
    estimator: Resolved = static(
        None, "estimator of the divergence; null: one that is unbiased with unscaled advantages and sums over tokens", kind=str
    )
    placement: Resolved = static(None, "whether the estimate is part of the reward or of the loss", allowed=("reward", "loss"))
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


@dataclasses.dataclass(frozen=True)
class ReferenceSettings:
    """The settings of the reference: the task's own, or a model trained by maximum likelihood on samples of it."""

    name: str = static(
        "task",
        "the task's own reference, or a network trained by maximum likelihood on samples of it",
        allowed=("task", "pretrained"),
    )
    samples: int = static(10_000, "number of training sequences; a text task trains on its text instead", kind=int, at_least=2)
    steps: int = static(2_000, "number of training steps of the reference", kind=int, at_least=1, at_most=MOST_COUNT)
    batch_size: int = static(128, "batch size of its training", kind=int, at_least=1)
    learning_rate: float = static(3e-3, "initial learning rate of its training", kind=float, above=0.0)
    seed: int = static(0, "seed of its training", kind=int, at_least=0, below=SEED_LIMIT)
    update: str = static(
        "none", "update of the reference in the penalty; the one for grading stays fixed", allowed=("none", "ema", "reset")
    )
    sync_steps: int = static(100, "number of steps between updates", kind=int, at_least=1, at_most=MOST_COUNT)
    mixup_alpha: Traced = traced(0.6, "weight of the policy in an ema update of the parameters", above=0.0, below=1.0)
    temperature: Traced = traced(
        None, "pi_ref^(1/temperature), renormalised token by token, in the penalty; pi_ref for grading", above=0.0
    )
    penalising: str = static(
        "graded",
        "reference in the penalty: the graded one, uniform over legal tokens, the policy at step 0, or the policy itself",
        allowed=("graded", "uniform", "start", "policy"),
    )


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """The differences between the sampler and the policy that is trained.

    The sampler is the policy of `staleness` batches ago, then rounded, then tempered and truncated, token by token.
    """

    staleness: int = static(0, "age of the sampling policy, in batches", kind=int, at_least=0)
    dtype: Resolved = static(
        None,
        "dtype that the sampler is rounded to; null: none. float8_e4m3: as of OCP, without infinities; beyond ±448 it is ±448",
        allowed=("bfloat16", "float16", "float8_e4m3"),
    )
    rounded: Resolved = static(
        None,
        "what is rounded: log-probabilities (not normalised after), logits (normalised after) or parameters; null: log_probs",
        allowed=("log_probs", "logits", "weights"),
    )
    temperature: Traced = traced(None, "temperature that samples: pi^(1/temperature), renormalised token by token", above=0.0)
    top_k: Resolved = static(None, "number of most likely tokens sampled from", kind=int, at_least=1, at_most=MOST_COUNT)
    top_p: Traced = traced(None, "probability mass of most likely tokens sampled from", above=0.0, below=1.0)
    min_p: Traced = traced(None, "least probability sampled from, relative to the most likely token", above=0.0, below=1.0)
    reported: Resolved = static(
        None,
        "log-probabilities that the trainer is told: before temperature and truncation (raw) or after (processed); null: raw",
        allowed=("raw", "processed"),
    )
    dropout: Resolved = static(
        None,
        "share of a transformer's units that the trainer drops in an update, and the sampler does not; null: none",
        kind=float,
        above=0.0,
        below=1.0,
    )

    @property
    def truncates(self) -> bool:
        """Whether the sampler leaves out tokens that the policy may take."""
        return any(rule is not None for rule in (self.top_k, self.top_p, self.min_p))

    @property
    def processes(self) -> bool:
        """Whether the sampler changes the distribution that it reads: by temperature or truncation."""
        return self.temperature is not None or self.truncates

    @property
    def off_policy(self) -> bool:
        """Whether the sampler is not the policy that is trained."""
        return self.staleness > 0 or self.processes or self.dtype is not None or self.dropout is not None


@dataclasses.dataclass(frozen=True)
class RewardShapingSettings:
    """A shaped reward for training; grading uses the task's reward."""

    name: str = static(
        "none", "reward shaping for training; grading uses the task's reward", allowed=("none", "mara", "typicality")
    )
    threshold: Traced = traced(None, "of mara: outcomes with at least this reward are to be equally likely")
    variant: int = static(1, "of mara: algorithm 1 or 2 of the paper", allowed=(1, 2))
    weight: Traced = traced(
        None, "of typicality: weight of the log pi_ref that is subtracted; null: as estimated from the preferences"
    )


@dataclasses.dataclass(frozen=True)
class DecodingSettings:
    """The decoding rules for a second grade of the trained policy; null omits a rule, and all null the second grade."""

    temperature: Traced = traced(None, "temperature of the second grade, which is of the policy as it is decoded", above=0.0)
    top_k: Resolved = static(None, "number of most likely tokens kept", kind=int, at_least=1, at_most=MOST_COUNT)
    top_p: Traced = traced(None, "probability mass of most likely tokens kept", above=0.0, below=1.0)
    min_p: Traced = traced(None, "least probability kept, relative to the most likely token", above=0.0, below=1.0)

    @property
    def on(self) -> bool:
        """Whether any decoding rule is set."""
        return any(rule is not None for rule in (self.temperature, self.top_k, self.top_p, self.min_p))


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The settings of the optimiser; `decay` is the final share of steps over which the learning rate falls to zero."""

    name: str = static("adam", "optimiser", allowed=("adam", "sgd"))
    learning_rate: Traced = traced(None, "initial learning rate; null: by algorithm, task and policy", above=0.0)
    b1: Traced = traced(0.9, "decay of Adam's first moment", at_least=0.0, below=1.0)
    b2: Traced = traced(None, "decay of Adam's second moment", above=0.0, below=1.0)
    schedule: Resolved = static(None, "schedule of the learning rate", allowed=("constant", "linear", "cosine"))
    decay: Resolved = static(
        None, "final share of the steps over which the learning rate falls to zero", kind=float, at_least=0.0
    )
    max_grad_norm: Traced = traced(None, "largest global norm of the gradient; null: no clipping", above=0.0)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one run, without its task (whose options are its builder's arguments) and its tracking."""

    policy: PolicySettings = PolicySettings()
    algorithm: AlgorithmSettings = AlgorithmSettings()
    penalty: PenaltySettings = PenaltySettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    reference: ReferenceSettings = ReferenceSettings()
    rollout: RolloutSettings = RolloutSettings()
    reward_shaping: RewardShapingSettings = RewardShapingSettings()
    decoding: DecodingSettings = DecodingSettings()
    seed: Traced = dataclasses.field(
        default=0,
        metadata={
            "about": "seed of the run; runs of equal seeds see the same random numbers",
            "traced": True,
            "kind": int,
            "at_least": 0,
            "below": SEED_LIMIT,
        },
    )
    objective: str = static(
        "reward",
        "what else grades a run, and what exact gradients maximise: E[reward], or the utility of the success probability that "
        "group-standardised advantages maximise",
        allowed=("reward", "utility"),
    )
    steps: Resolved = static(None, "number of training steps", kind=int, at_least=1, at_most=MOST_COUNT)
    batch_size: Resolved = static(None, "number of sequences in a batch", kind=int, at_least=2)
    log_every: Resolved = static(None, "number of steps between logged rows", kind=int, at_least=1, at_most=MOST_COUNT)
    dtype: Resolved = static(
        None,
        "precision of training; null: float32 for sampled, float64 for exact algorithms. bfloat16: float32, with a network's "
        "matrix products in bfloat16",
        allowed=("float32", "float64", "bfloat16"),
    )
    stop_kl: Traced = traced(
        None, "stop at the first logged row with a KL(pi‖pi_ref) above this, in nats; null: never", above=0.0
    )


@dataclasses.dataclass(frozen=True)
class Tracking:
    """The settings of experiment tracking, which change no result. Null is resolved by `runs.tracking.resolve`."""

    name: Resolved = static(
        None,
        "tracker; null: as wandb's environment variables say, else wandb offline",
        allowed=("wandb_offline", "wandb", "tensorboard", "none"),
    )
    project: str | None = static(None, "project in wandb; null: WANDB_PROJECT, else rlkl", kind=str)
    entity: str | None = static(None, "user or team in wandb; null: WANDB_ENTITY", kind=str)
    tags: tuple = static((), "tags of the run; empty: WANDB_TAGS", kind=tuple)
    notes: str | None = static(None, "notes on the run; null: WANDB_NOTES", kind=str)
    dir: str | None = static(None, "parent of the tracker's folder; null: WANDB_DIR, else the run's own folder", kind=str)
    figures: bool = static(False, "log the run's figure, as `rlkl plot` draws it", kind=bool)
    artifacts: bool = static(False, "log the files of the run's folder, in wandb", kind=bool)


@dataclasses.dataclass(frozen=True)
class Execution:
    """The settings of execution, which change no result. They are top-level keys, as `seed` is."""

    store: str = static("outputs/.rlkl", "folder of finished and unfinished runs, and of pretrained references", kind=str)
    resume: bool = static(True, "reuse runs in the store; false: train anew", kind=bool)
    fail_fast: bool = static(False, "stop a sweep at the first run that diverges", kind=bool)


@dataclasses.dataclass(frozen=True)
class Engine:
    """The settings of where the groups of a sweep are trained."""

    name: str = static(
        "local", "where a sweep is trained: on this machine, or as jobs of a cluster", allowed=("local", "submitit")
    )
    cluster: str | None = static(None, "submitit's executor: slurm, local or debug; null: the one available", kind=str)
    runs_per_job: int = static(64, "number of runs in one cluster job", kind=int, at_least=1)
    parameters: Any = dataclasses.field(
        default_factory=dict, metadata={"about": "parameters of submitit: timeout_min, slurm_partition, ..."}
    )


GROUPS = {
    "policy": PolicySettings,
    "algorithm": AlgorithmSettings,
    "penalty": PenaltySettings,
    "optimizer": OptimizerSettings,
    "reference": ReferenceSettings,
    "rollout": RolloutSettings,
    "reward_shaping": RewardShapingSettings,
    "decoding": DecodingSettings,
}
