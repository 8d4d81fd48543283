"""Every option, declared once: static (a compilation each) or traced (free to sweep), with what it may be.

This floor loads no jax, so that the command can check and explain settings before anything heavy is imported.
Names that live in registries (tasks, policies, divergences, algorithms) are checked where the registries are, in
`config.resolve`.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from rlkl.errors import SettingsError, nearest

Traced = Any  # a number; inside a compiled program, an array of it
Resolved = Any  # null until `config.resolve` resolves it
SCHEDULES = ("linear", "cosine", "exponential")  # of beta, from penalty.beta to penalty.beta_end
STEERED = ("adaptive", "lagrangian")  # controllers that go by the KL
CONTROLLERS = ("fixed", *STEERED, *SCHEDULES)
SEED_LIMIT = 2**32
MOST_COUNT = 10**8  # of steps and the like, which are counted in 32 bits
BETA_LIMITS = (1e-12, 1e12)  # beyond which rounding, not the penalty, would decide what the optimum is
AGGREGATIONS = ("seq-mean-token-sum", "seq-mean-token-mean", "token-mean")


def static(default: Any, allowed: tuple | None = None, kind: type | None = None, **limits: int | float):
    """A field whose every value is compiled anew; limits: above, at_least, below, at_most."""
    return _field(default, traced=False, allowed=allowed, kind=kind, **limits)


def traced(
    default: Any, above: int | float | None = None, at_least: int | float | None = None, below: int | float | None = None
):
    """A number that a compiled program takes as its input."""
    return _field(default, traced=True, kind=float, above=above, at_least=at_least, below=below)


def _field(default, **metadata):
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """Settings of the policy; null is resolved by `config.resolve` (see its table)."""

    name: str = static("tabular", kind=str)
    init: Resolved = static(None, kind=str)
    support: Resolved = static(None, allowed=("reference", "all"))
    init_scale: Traced = traced(1.0, at_least=0.0)  # standard deviation of the logits of init=random
    mean: Traced = traced(0.0)  # where a Gaussian starts, in the units of the task's coordinates
    scale: Traced = traced(1.0, above=0.0)
    order: int = static(2, kind=int, at_least=1)  # tokens of context of an ngram
    width: int = static(64, kind=int, at_least=1)  # units of a network
    layers: int = static(2, kind=int, at_least=1)  # blocks of a transformer
    heads: int = static(4, kind=int, at_least=1)


@dataclasses.dataclass(frozen=True)
class AlgorithmSettings:
    """Settings of the algorithm."""

    name: str = static("exact", kind=str)
    baseline_decay: Traced = traced(0.9, at_least=0.0, below=1.0)  # of reinforce's moving average
    loss_aggregation: Resolved = static(None, allowed=AGGREGATIONS)
    epochs: int = static(4, kind=int, at_least=1, at_most=MOST_COUNT)  # of ppo on each batch
    clip: Traced = traced(0.2, above=0.0, below=1.0)  # of ppo's ratio
    entropy_coef: Traced = traced(None, above=0.0)  # of an entropy bonus, which no objective or regret counts


@dataclasses.dataclass(frozen=True)
class PenaltySettings:
    """Settings of the penalty: what is penalised, by how much, and how it enters the gradient."""

    divergence: str = static("kl_pi_ref", kind=str)
    beta: Traced = traced(0.1)  # above 0, and 0 without a penalty: checked where the divergence is known
    estimator: Resolved = static(None, kind=str)
    placement: Resolved = static(None, allowed=("reward", "loss"))
    level: Resolved = static(None, allowed=("token", "sequence"))  # whose log-ratio an estimator reads
    credit: Resolved = static(None, allowed=("reward_to_go", "immediate"))  # which tokens pay for a term in the reward
    gradient: str = static("naive", allowed=("naive", "unbiased", "straight_through"))  # of a term in the loss
    gradient_estimator: str = static("k2", kind=str)  # whose gradient straight_through takes
    future_kl: bool = static(False, kind=bool)  # put back what token by token losses leave out
    sampler: Resolved = static(None, allowed=("exact", "reference", "policy"))  # whose sequences the estimate is read on
    clamp: Traced = traced(None, above=0.0)  # the largest |log-ratio| that an estimator reads, in nats
    importance_correction: str = static("none", allowed=("none", "token", "sequence"))  # for a sampler that is not the policy
    truncation: Traced = traced(None, above=0.0)  # the largest importance weight
    allow_biased: bool = static(False, kind=bool)  # run what descends something else than its name
    controller: str = static("fixed", allowed=CONTROLLERS)  # of beta
    beta_end: Traced = traced(None, above=0.0)  # where a schedule ends
    target_kl: Traced = traced(None, above=0.0)  # KL(pi‖pi_ref) of a sequence, in nats, that a controller steers to
    horizon: Traced = traced(10_000.0, above=0.0)  # sequences over which `adaptive` corrects
    controller_rate: Traced = traced(0.005, above=0.0)  # of `lagrangian`
    alpha: Traced = traced(0.5)
    weights: Traced = dataclasses.field(default=(0.5, 0.5), metadata={"traced": True, "kind": tuple})  # of both KLs in `mixed`


@dataclasses.dataclass(frozen=True)
class ReferenceSettings:
    """Which model the policy is held to: the task's own, or one trained by maximum likelihood on samples of it."""

    name: str = static("task", allowed=("task", "pretrained"))
    samples: int = static(10_000, kind=int, at_least=2)  # sequences to learn from; a task with a text of its own learns from it
    steps: int = static(2_000, kind=int, at_least=1, at_most=MOST_COUNT)
    batch_size: int = static(128, kind=int, at_least=1)
    learning_rate: float = static(3e-3, kind=float, above=0.0)
    seed: int = static(0, kind=int, at_least=0, below=SEED_LIMIT)
    update: str = static("none", allowed=("none", "ema", "reset"))  # of the reference that penalises; the one that grades stays
    sync_steps: int = static(100, kind=int, at_least=1, at_most=MOST_COUNT)  # between updates
    mixup_alpha: Traced = traced(0.6, above=0.0, below=1.0)  # the policy's share in an ema update of the parameters
    temperature: Traced = traced(None, above=0.0)  # pi_ref^(1/temperature), renormalised a token, penalises; pi_ref grades


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """How the sampler differs from the policy that learns from it."""

    staleness: int = static(0, kind=int, at_least=0)  # how many batches old the policy is that samples
    log_prob_dtype: Resolved = static(None, allowed=("bfloat16", "float16"))  # what its log-probabilities are rounded to


@dataclasses.dataclass(frozen=True)
class RewardShapingSettings:
    """What is learned from in place of the reward; the reward itself grades."""

    name: str = static("none", allowed=("none", "mara", "typicality"))
    threshold: Traced = traced(None)  # of mara: what earns at least that is to be equally likely
    variant: int = static(1, allowed=(1, 2))  # of mara: the paper's algorithm 1 or 2
    weight: Traced = traced(None)  # of typicality, taken off times log pi_ref; null: what was recovered from the preferences


@dataclasses.dataclass(frozen=True)
class DecodingSettings:
    """How a trained policy is decoded when it is graded a second time; null leaves out a rule, all null the second grade."""

    temperature: Traced = traced(None, above=0.0)
    top_k: Resolved = static(None, kind=int, at_least=1, at_most=MOST_COUNT)
    top_p: Traced = traced(None, above=0.0, below=1.0)
    min_p: Traced = traced(None, above=0.0, below=1.0)

    @property
    def on(self) -> bool:
        """Whether any rule is set."""
        return any(rule is not None for rule in (self.temperature, self.top_k, self.top_p, self.min_p))


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the optimiser; `decay` is the last part of the steps over which the rate falls to zero."""

    name: str = static("adam", allowed=("adam", "sgd"))
    learning_rate: Traced = traced(None, above=0.0)
    b1: Traced = traced(0.9, at_least=0.0, below=1.0)
    b2: Traced = traced(None, above=0.0, below=1.0)
    schedule: Resolved = static(None, allowed=("constant", "linear", "cosine"))
    decay: Resolved = static(None, kind=float, at_least=0.0)
    max_grad_norm: Traced = traced(None, above=0.0)


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run's settings, but for its task (whose options are its builder's arguments) and its tracking."""

    policy: PolicySettings = PolicySettings()
    algorithm: AlgorithmSettings = AlgorithmSettings()
    penalty: PenaltySettings = PenaltySettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    reference: ReferenceSettings = ReferenceSettings()
    rollout: RolloutSettings = RolloutSettings()
    reward_shaping: RewardShapingSettings = RewardShapingSettings()
    decoding: DecodingSettings = DecodingSettings()
    seed: Traced = dataclasses.field(default=0, metadata={"traced": True, "kind": int, "at_least": 0, "below": SEED_LIMIT})
    steps: Resolved = static(None, kind=int, at_least=1, at_most=MOST_COUNT)
    batch_size: Resolved = static(None, kind=int, at_least=2)
    log_every: Resolved = static(None, kind=int, at_least=1, at_most=MOST_COUNT)
    dtype: Resolved = static(None, allowed=("float32", "float64"))
    stop_kl: Traced = traced(None, above=0.0)  # nats of KL(pi‖pi_ref), beyond which a run stops at the logged row that shows it


@dataclasses.dataclass(frozen=True)
class Tracking:
    """Where a run is logged beside its own folder; nothing here changes a number. Null is resolved by `runs.tracking`."""

    name: Resolved = static(None, allowed=("wandb_offline", "wandb", "none"))
    project: str | None = static(None, kind=str)
    entity: str | None = static(None, kind=str)
    tags: tuple = static((), kind=tuple)
    dir: str | None = static(None, kind=str)  # where wandb makes its folder; else in the run's own


@dataclasses.dataclass(frozen=True)
class Execution:
    """How runs are carried out; nothing here changes a number. These are top-level keys, as `seed` is."""

    store: str = static("outputs/.rlkl", kind=str)  # the folder of finished and unfinished runs, and of references
    resume: bool = static(True, kind=bool)  # take from the store what it has
    fail_fast: bool = static(False, kind=bool)  # stop a sweep at the first run that diverges


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where a sweep's groups are trained."""

    name: str = static("local", allowed=("local", "submitit"))
    cluster: str | None = static(None, kind=str)  # of submitit: slurm, local, debug; null takes what there is
    runs_per_job: int = static(64, kind=int, at_least=1)  # runs that one job of the cluster trains
    parameters: Any = dataclasses.field(default_factory=dict)  # submitit's own: timeout_min, slurm_partition, ...


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


def check(key: str, value: Any, field: dataclasses.Field) -> Any:
    """`value` as the field's type, or a `SettingsError` that says what is allowed."""
    rules = field.metadata
    if value is None:
        if field.default is None:
            return None
        raise SettingsError(f"{key}=null", "", "must have a value")
    allowed, kind = rules.get("allowed"), rules.get("kind")
    if allowed is not None and value not in allowed:
        raise SettingsError(key, value, nearest(str(value), map(str, allowed)))
    if kind is bool and not isinstance(value, bool):
        raise SettingsError(key, value, "must be true or false")
    if kind is tuple:
        if not isinstance(value, (list, tuple)):
            raise SettingsError(key, value, "must be a list, as in [a,b]")
        return tuple(value)
    if kind is str and not isinstance(value, str):
        raise SettingsError(key, value, "must be a name")
    if kind in (int, float):
        value = _number(key, value, kind)
        limits = {
            "above": ("above", value.__gt__),
            "at_least": ("at least", value.__ge__),
            "below": ("below", value.__lt__),
            "at_most": ("at most", value.__le__),
        }
        for rule, (words, holds) in limits.items():
            bound = rules.get(rule)
            if bound is not None and not holds(kind(bound)):
                raise SettingsError(key, value, f"must be {words} {bound if isinstance(bound, int) else format(bound, 'g')}")
    return value


def _number(key, value, kind):
    what = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingsError(key, value, f"must be {what}")
    if not abs(value) <= sys.float_info.max:
        raise SettingsError(key, value, "must be finite")
    if kind is int and value != int(value):
        raise SettingsError(key, value, f"must be {what}")
    return kind(value)


def from_mapping(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """An instance of the settings class from a mapping; unknown keys are refused with the nearest valid one."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise SettingsError(prefix + key, values[key], "unknown option; " + nearest(key, fields))
    return cls(**{key: check(prefix + key, value, fields[key]) for key, value in values.items()})


def known_keys() -> set[str]:
    """Every dotted key that is declared here (a task's own options are its builder's)."""
    nested = {f"{group}.{field.name}" for group, cls in GROUPS.items() for field in dataclasses.fields(cls)}
    tracking = {f"tracking.{field.name}" for field in dataclasses.fields(Tracking)}
    top = {field.name for field in dataclasses.fields(Settings) if field.name not in GROUPS}
    execution = {field.name for field in dataclasses.fields(Execution)}
    engine = {f"engine.{field.name}" for field in dataclasses.fields(Engine)}
    return nested | tracking | top | execution | engine | {"task.name", "task.export", "plugins"}
