"""The user's penalty: the settings of a run, resolved, what they descend, and the nearest settings that descend their name."""

from collections.abc import Sequence
from typing import NamedTuple

from rlkl import algorithms
from rlkl.config.compose import compose
from rlkl.config.presets import preset_overrides
from rlkl.errors import SettingsError
from rlkl.penalties import options
from rlkl.penalties.expected_gradient import ExpectedGradient, expected_gradient, formula
from rlkl.settings import AlgorithmSettings, PenaltySettings, checks

SEVERAL = 2  # a horizon of several tokens, for what penalties descend on sequences
NEAREST = 3
SETTINGS = ("estimator", "placement", "level", "credit", "gradient", "future_kl", "sampler")  # that differ between penalties


class Setting(NamedTuple):
    """A penalty as a run has it. aggregation: how token losses are averaged. descends: its expected gradient on sequences."""

    penalty: PenaltySettings
    algorithm: str
    aggregation: str
    descends: ExpectedGradient

    @property
    def wanted(self) -> str:
        """The formula of the divergence that the setting names."""
        return formula({self.penalty.divergence: 1.0})


def resolve_setting(overrides: Sequence[str], library: str | None = None) -> Setting:
    """The setting of overrides as a run takes them (`penalty.estimator=k3 algorithm=grpo`), after those of a preset.

    Raises `SettingsError` for overrides that no run takes, and for exact gradients, which read no samples.
    """
    if "penalty=none" in overrides:
        raise SettingsError("penalty", "none", "there is no penalty to diagnose")
    preset = preset_overrides(library) if library is not None else []
    start = [] if any(each.startswith("algorithm=") for each in (*preset, *overrides)) else ["algorithm=rloo"]
    config = compose(["task=sequence/motif", *start, *preset, *overrides, "penalty.allow_biased=true"])
    algorithm: AlgorithmSettings = checks.from_mapping(AlgorithmSettings, config["algorithm"], "algorithm.")
    penalty: PenaltySettings = checks.from_mapping(PenaltySettings, config["penalty"], "penalty.")
    checks.check_penalty(penalty)
    kind = algorithms.gradient_kind(algorithm.name)
    resolved = options.resolve_penalty(kind, penalty, SEVERAL)
    if kind == "exact" or resolved.sampler == "exact":
        raise SettingsError("algorithm", algorithm.name, "has exact gradients, and rollouts are samples (grpo, rloo, ppo, ...)")
    aggregation = algorithm.loss_aggregation or algorithms.REGISTRY[algorithm.name].aggregation
    return Setting(resolved, algorithm.name, aggregation, expected_gradient(resolved, SEVERAL, kind == "scaled"))


def nearest_exact(setting: Setting) -> list[str]:
    """The settings nearest to this one that descend the divergence it names, as overrides of what changes; the nearest first.

    Nearest is what changes the fewest settings. Under an algorithm that scales advantages, penalties in the loss are left out:
    beside them beta is worth another coefficient.
    """
    scaled = algorithms.gradient_kind(setting.algorithm) == "scaled"
    changes = {}
    for penalty in options.combinations(setting.penalty.divergence, SEVERAL):
        if expected_gradient(penalty, SEVERAL, scaled).kind == "exact":
            change = _change(setting.penalty, penalty)
            changes[" ".join(change)] = len(change)
    return sorted((text for text in changes if text), key=lambda text: (changes[text], text))[:NEAREST]


def _change(now: PenaltySettings, then: PenaltySettings) -> list[str]:
    """The overrides that make one penalty another; settings that mean nothing beside the others are left out."""
    idle = {"credit"} if then.placement == "loss" or then.level == "sequence" else set()
    keys = [key for key in SETTINGS if key not in idle and getattr(now, key) != getattr(then, key)]
    return [f"penalty.{key}={_text(getattr(then, key))}" for key in keys]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
