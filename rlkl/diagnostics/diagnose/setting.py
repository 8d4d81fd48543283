"""The user's penalty: the settings of a run, resolved, what they descend, and the nearest settings that descend their name."""

from collections.abc import Sequence
from typing import NamedTuple

from rlkl import algorithms
from rlkl.config.compose import compose
from rlkl.config.presets import preset_overrides
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.penalties import options
from rlkl.penalties.expected_gradient import ExpectedGradient, expected_gradient, formula, semi
from rlkl.settings import AlgorithmSettings, PenaltySettings, checks

SEVERAL = 2  # a horizon of several tokens, for what penalties descend on sequences
NEAREST = 3
SETTINGS = ("estimator", "placement", "level", "credit", "gradient", "future_kl", "sampler")  # that differ between penalties


class Setting(NamedTuple):
    """A penalty as a run has it.

    aggregation: how token losses are averaged. descends: its expected gradient on sequences, summed over their tokens. library:
    the preset that it comes from, if any.
    """

    penalty: PenaltySettings
    algorithm: str
    aggregation: str
    descends: ExpectedGradient
    library: str | None

    @property
    def wanted(self) -> str:
        """The formula of the divergence that the setting names."""
        return formula({self.penalty.divergence: 1.0})

    @property
    def is_scaled(self) -> bool:
        """Whether the penalty stands beside advantages that are scaled, so that beta is worth another coefficient."""
        return self.penalty.placement == "loss" and algorithms.gradient_kind(self.algorithm) == "scaled"

    @property
    def is_its_own(self) -> bool:
        """Whether it descends the divergence that it names, or each token's of it (a semi-gradient)."""
        return self.descends.kind == "exact" or self.descends == semi({self.penalty.divergence: 1.0})


def resolve_setting(overrides: Sequence[str], library: str | None = None) -> Setting:
    """The setting of overrides as a run takes them (`penalty.estimator=k3 algorithm=grpo`), after those of a preset.

    Raises `SettingsError` for overrides that no run takes, for exact gradients, which read no samples, and where neither an
    estimator nor a preset is named.
    """
    if "penalty=none" in overrides:
        raise SettingsError("penalty", "none", "there is no penalty to diagnose")
    preset = preset_overrides(library) if library is not None else []
    start = [] if any(each.startswith("algorithm=") for each in (*preset, *overrides)) else ["algorithm=rloo"]
    config = compose(["task=sequence/motif", *start, *preset, *overrides, "penalty.allow_biased=true"])
    algorithm: AlgorithmSettings = checks.from_mapping(AlgorithmSettings, config["algorithm"], "algorithm.")
    penalty: PenaltySettings = checks.from_mapping(PenaltySettings, config["penalty"], "penalty.")
    if penalty.divergence in REGISTRY and REGISTRY[penalty.divergence].root:
        rule = "is no mean over samples, so that rollouts cannot estimate it; pearson, its square, can be diagnosed"
        raise SettingsError("penalty.divergence", penalty.divergence, rule)
    checks.check_penalty(penalty)
    kind = algorithms.gradient_kind(algorithm.name)
    if kind == "exact":
        raise SettingsError("algorithm", algorithm.name, "has exact gradients, and rollouts are samples (grpo, rloo, ppo, ...)")
    if penalty.estimator is None:
        raise SettingsError("penalty.estimator", "null", "must be named, as in penalty.estimator=k3, or library=trl_grpo")
    resolved = options.resolve_penalty(kind, penalty, SEVERAL)
    if resolved.sampler == "exact":
        raise SettingsError("penalty.estimator", "exact", "reads no samples, and rollouts are samples (k1, k2, k3, ...)")
    aggregation = algorithm.loss_aggregation or algorithms.REGISTRY[algorithm.name].aggregation
    return Setting(resolved, algorithm.name, aggregation, expected_gradient(resolved, SEVERAL), library)


def nearest_exact(setting: Setting) -> list[str]:
    """The settings nearest to this one that descend the divergence it names, as overrides of what changes; the nearest first.

    Nearest is what changes the fewest settings. Under an algorithm that scales advantages, penalties in the loss are left out:
    beside them beta is worth another coefficient. seq-mean-token-mean is changed, too: where lengths differ it changes every
    gradient.
    """
    by_sequence = setting.aggregation == "seq-mean-token-mean"
    aggregation = ["algorithm.loss_aggregation=token-mean"] if by_sequence else []
    scaled = algorithms.gradient_kind(setting.algorithm) == "scaled"
    changes = {}
    for penalty in options.combinations(setting.penalty.divergence, SEVERAL):
        if expected_gradient(penalty, SEVERAL, scaled).kind == "exact":
            change = [*_change(setting.penalty, penalty), *aggregation]
            changes[" ".join(change)] = len(change)
    return sorted((text for text in changes if text), key=lambda text: (changes[text], text))[:NEAREST]


def _change(now: PenaltySettings, then: PenaltySettings) -> list[str]:
    """The overrides that make one penalty another; settings that mean nothing beside the others are left out."""
    idle = {"credit"} if then.placement == "loss" or then.level == "sequence" else set()
    keys = [key for key in SETTINGS if key not in idle and getattr(now, key) != getattr(then, key)]
    return [f"penalty.{key}={_text(getattr(then, key))}" for key in keys]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
