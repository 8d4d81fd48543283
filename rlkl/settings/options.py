"""The declarations of all options: static (each value is compiled anew) or traced (free to sweep), with their allowed values.

This module does not import jax, so that the command can check and explain settings before anything heavy is imported. Names of
registered tasks, policies, divergences and algorithms are checked in `config.resolve`.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from rlkl.errors import SettingsError, nearest

Traced = Any  # a number; inside of a compiled program an array
Resolved = Any  # may be null; `config.resolve` then chooses a value
SCHEDULES = ("linear", "cosine", "exponential")  # schedules of beta, from penalty.beta to penalty.beta_end
STEERED = ("adaptive", "lagrangian")  # controllers that steer beta to a target KL
CONTROLLERS = ("fixed", *STEERED, *SCHEDULES)
SEED_LIMIT = 2**32
MOST_COUNT = 10**8  # largest number of steps and the like, which are 32-bit integers
BETA_LIMITS = (1e-12, 1e12)  # beyond these, rounding would determine the optimum, not the penalty
AGGREGATIONS = ("seq-mean-token-sum", "seq-mean-token-mean", "token-mean")


def static(default: Any, allowed: tuple | None = None, kind: type | None = None, **limits: int | float):
    """Declare a static field: each value is compiled anew. limits: above, at_least, below, at_most."""
    return _field(default, traced=False, allowed=allowed, kind=kind, **limits)


def traced(
    default: Any, above: int | float | None = None, at_least: int | float | None = None, below: int | float | None = None
):
    """Declare a traced number: it is an input of compiled programs, so that a sweep over it compiles once."""
    return _field(default, traced=True, kind=float, above=above, at_least=at_least, below=below)


def _field(default, **metadata):
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """The settings of the policy."""

    name: str = static("tabular", kind=str)
    init: Resolved = static(None, kind=str)
    support: Resolved = static(None, allowed=("reference", "all"))
    init_scale: Traced = traced(1.0, at_least=0.0)  # standard deviation of the logits at init=random
    mean: Traced = traced(0.0)  # initial mean of a Gaussian, in units of the task's coordinates
    scale: Traced = traced(1.0, above=0.0)  # initial scale of a Gaussian, in the same units
    order: int = static(2, kind=int, at_least=1)  # number of context tokens of an ngram policy
    width: int = static(64, kind=int, at_least=1)  # number of hidden units of a network
    layers: int = static(2, kind=int, at_least=1)  # number of blocks of a transformer
    heads: int = static(4, kind=int, at_least=1)  # number of attention heads of a transformer


@dataclasses.dataclass(frozen=True)
class AlgorithmSettings:
    """The settings of the algorithm."""

    name: str = static("exact", kind=str)
    baseline_decay: Traced = traced(0.9, at_least=0.0, below=1.0)  # decay of reinforce's moving-average baseline
    loss_aggregation: Resolved = static(None, allowed=AGGREGATIONS)
    epochs: int = static(4, kind=int, at_least=1, at_most=MOST_COUNT)  # updates of ppo on each batch
    clip: Traced = traced(0.2, above=0.0, below=1.0)  # clip range of ppo's probability ratio
    entropy_coef: Traced = traced(None, above=0.0)  # coefficient of an entropy bonus; objective and regret ignore it


@dataclasses.dataclass(frozen=True)
class PenaltySettings:
    """The settings of the penalty: its divergence, its coefficient, and how it enters the gradient."""

    divergence: str = static("kl_pi_ref", kind=str)
    beta: Traced = traced(0.1)  # above 0, or 0 without a penalty: checked where the divergence is known
    estimator: Resolved = static(None, kind=str)
    placement: Resolved = static(None, allowed=("reward", "loss"))
    level: Resolved = static(
        None, allowed=("token", "sequence")
    )  # whether an estimator reads log-ratios of tokens or of sequences
    credit: Resolved = static(
        None, allowed=("reward_to_go", "immediate")
    )  # whether a term in the reward counts for earlier tokens too
    gradient: str = static("naive", allowed=("naive", "unbiased", "straight_through"))  # gradient of an estimator in the loss
    gradient_estimator: str = static("k2", kind=str)  # the estimator whose gradient straight_through uses
    future_kl: bool = static(False, kind=bool)  # add the KL of later tokens to each token's return
    sampler: Resolved = static(None, allowed=("exact", "reference", "policy"))  # source of the estimator's samples
    clamp: Traced = traced(None, above=0.0)  # largest |log-ratio| that an estimator reads, in nats
    importance_correction: str = static("none", allowed=("none", "token", "sequence"))  # if the sampler is not the policy
    truncation: Traced = traced(None, above=0.0)  # largest importance weight
    allow_biased: bool = static(False, kind=bool)  # allow an expected gradient that is not the divergence's
    controller: str = static("fixed", allowed=CONTROLLERS)  # controller or schedule of beta
    beta_end: Traced = traced(None, above=0.0)  # final beta of a schedule
    target_kl: Traced = traced(None, above=0.0)  # KL(pi‖pi_ref) of a sequence, in nats, that a controller steers to
    horizon: Traced = traced(10_000.0, above=0.0)  # number of sequences over which `adaptive` corrects
    controller_rate: Traced = traced(0.005, above=0.0)  # step size of `lagrangian`
    alpha: Traced = traced(0.5)  # of the divergence `alpha`
    weights: Traced = dataclasses.field(default=(0.5, 0.5), metadata={"traced": True, "kind": tuple})  # of both KLs in `mixed`


@dataclasses.dataclass(frozen=True)
class ReferenceSettings:
    """The settings of the reference: the task's own, or a model trained by maximum likelihood on samples of it."""

    name: str = static("task", allowed=("task", "pretrained"))
    samples: int = static(10_000, kind=int, at_least=2)  # number of training sequences; a text task trains on its text instead
    steps: int = static(2_000, kind=int, at_least=1, at_most=MOST_COUNT)
    batch_size: int = static(128, kind=int, at_least=1)
    learning_rate: float = static(3e-3, kind=float, above=0.0)
    seed: int = static(0, kind=int, at_least=0, below=SEED_LIMIT)
    update: str = static(
        "none", allowed=("none", "ema", "reset")
    )  # update of the reference in the penalty; the one for grading stays fixed
    sync_steps: int = static(100, kind=int, at_least=1, at_most=MOST_COUNT)  # number of steps between updates
    mixup_alpha: Traced = traced(0.6, above=0.0, below=1.0)  # weight of the policy in an ema update of the parameters
    temperature: Traced = traced(None, above=0.0)  # pi_ref^(1/temperature) in the penalty; pi_ref for grading


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """The differences between the sampler and the policy that is trained."""

    staleness: int = static(0, kind=int, at_least=0)  # age of the sampling policy, in batches
    log_prob_dtype: Resolved = static(None, allowed=("bfloat16", "float16"))  # dtype that its log-probabilities are rounded to


@dataclasses.dataclass(frozen=True)
class RewardShapingSettings:
    """A shaped reward for training; grading uses the task's reward."""

    name: str = static("none", allowed=("none", "mara", "typicality"))
    threshold: Traced = traced(None)  # of mara: outcomes with at least this reward are to be equally likely
    variant: int = static(1, allowed=(1, 2))  # of mara: algorithm 1 or 2 of the paper
    weight: Traced = traced(None)  # of typicality: weight of the log pi_ref subtracted; null: as estimated from the preferences


@dataclasses.dataclass(frozen=True)
class DecodingSettings:
    """The decoding rules for a second grade of the trained policy; null omits a rule, and all null the second grade."""

    temperature: Traced = traced(None, above=0.0)
    top_k: Resolved = static(None, kind=int, at_least=1, at_most=MOST_COUNT)
    top_p: Traced = traced(None, above=0.0, below=1.0)
    min_p: Traced = traced(None, above=0.0, below=1.0)

    @property
    def on(self) -> bool:
        """Whether any decoding rule is set."""
        return any(rule is not None for rule in (self.temperature, self.top_k, self.top_p, self.min_p))


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The settings of the optimiser; `decay` is the final share of steps over which the learning rate falls to zero."""

    name: str = static("adam", allowed=("adam", "sgd"))
    learning_rate: Traced = traced(None, above=0.0)
    b1: Traced = traced(0.9, at_least=0.0, below=1.0)
    b2: Traced = traced(None, above=0.0, below=1.0)
    schedule: Resolved = static(None, allowed=("constant", "linear", "cosine"))
    decay: Resolved = static(None, kind=float, at_least=0.0)
    max_grad_norm: Traced = traced(None, above=0.0)


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
    seed: Traced = dataclasses.field(default=0, metadata={"traced": True, "kind": int, "at_least": 0, "below": SEED_LIMIT})
    steps: Resolved = static(None, kind=int, at_least=1, at_most=MOST_COUNT)
    batch_size: Resolved = static(None, kind=int, at_least=2)
    log_every: Resolved = static(None, kind=int, at_least=1, at_most=MOST_COUNT)
    dtype: Resolved = static(None, allowed=("float32", "float64"))
    stop_kl: Traced = traced(None, above=0.0)  # stop at the first logged row with a KL(pi‖pi_ref) above this, in nats


@dataclasses.dataclass(frozen=True)
class Tracking:
    """The settings of experiment tracking, which change no result. Null is resolved by `runs.tracking`."""

    name: Resolved = static(None, allowed=("wandb_offline", "wandb", "none"))
    project: str | None = static(None, kind=str)
    entity: str | None = static(None, kind=str)
    tags: tuple = static((), kind=tuple)
    dir: str | None = static(None, kind=str)  # parent of wandb's folder; null: the run's own folder


@dataclasses.dataclass(frozen=True)
class Execution:
    """The settings of execution, which change no result. They are top-level keys, as `seed` is."""

    store: str = static("outputs/.rlkl", kind=str)  # folder of finished and unfinished runs, and of references
    resume: bool = static(True, kind=bool)  # reuse runs in the store
    fail_fast: bool = static(False, kind=bool)  # stop a sweep at the first run that diverges


@dataclasses.dataclass(frozen=True)
class Engine:
    """The settings of where the groups of a sweep are trained."""

    name: str = static("local", allowed=("local", "submitit"))
    cluster: str | None = static(None, kind=str)  # submitit's executor: slurm, local or debug; null: the one available
    runs_per_job: int = static(64, kind=int, at_least=1)  # number of runs in one cluster job
    parameters: Any = dataclasses.field(default_factory=dict)  # parameters of submitit: timeout_min, slurm_partition, ...


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
    """`value` converted to the field's type; raises `SettingsError` if it is not allowed."""
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
    expected = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingsError(key, value, f"must be {expected}")
    if not abs(value) <= sys.float_info.max:
        raise SettingsError(key, value, "must be finite")
    if kind is int and value != int(value):
        raise SettingsError(key, value, f"must be {expected}")
    return kind(value)


def from_mapping(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build the settings class `cls` from a mapping; raises `SettingsError` for unknown keys and bad values."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise SettingsError(prefix + key, values[key], "unknown option; " + nearest(key, fields))
    return cls(**{key: check(prefix + key, value, fields[key]) for key, value in values.items()})


def known_keys() -> set[str]:
    """All dotted keys of the configuration, except a task's own options."""
    nested = {f"{group}.{field.name}" for group, cls in GROUPS.items() for field in dataclasses.fields(cls)}
    tracking = {f"tracking.{field.name}" for field in dataclasses.fields(Tracking)}
    top = {field.name for field in dataclasses.fields(Settings) if field.name not in GROUPS}
    execution = {field.name for field in dataclasses.fields(Execution)}
    engine = {f"engine.{field.name}" for field in dataclasses.fields(Engine)}
    return nested | tracking | top | execution | engine | {"task.name", "task.export", "plugins"}
