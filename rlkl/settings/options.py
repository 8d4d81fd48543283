"""The options of a run, by group.

These modules do not import jax, so that the command can check and explain settings before anything heavy is imported. Names of
registered tasks, policies, divergences and algorithms are checked in `config.resolve`.
"""

import dataclasses

from rlkl.settings.algorithm import AlgorithmSettings
from rlkl.settings.fields import MOST_COUNT, SEED_LIMIT, Resolved, Traced, static, traced
from rlkl.settings.penalty import PenaltySettings


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
        "none",
        "reward shaping for training; grading uses the task's reward",
        allowed=("none", "mara", "typicality", "smoothing", "unlikeliness"),
    )
    threshold: Traced = traced(None, "of mara: outcomes with at least this reward are to be equally likely")
    variant: int = static(1, "of mara: algorithm 1 or 2 of the paper", allowed=(1, 2))
    weight: Traced = traced(
        None,
        "of typicality: weight of the log pi_ref that is subtracted; null: as estimated from the preferences. Of smoothing: "
        "weight of the log pi that is subtracted from a success; of unlikeliness: share that the likeliest success loses",
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
        "group-standardised advantages, or those for pass@k, maximise",
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
