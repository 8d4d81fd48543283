"""The declarations of all options of a run, and the jax settings under which rlkl computes."""

from rlkl.settings.algorithm import AGGREGATIONS, AlgorithmSettings
from rlkl.settings.checks import check, check_penalty, check_settings, from_mapping, group, known_keys
from rlkl.settings.execution import Engine, Execution, Tracking
from rlkl.settings.fields import MOST_COUNT, SEED_LIMIT, Resolved, Traced, static, traced
from rlkl.settings.options import (
    GROUPS,
    DecodingSettings,
    OptimizerSettings,
    PolicySettings,
    ReferenceSettings,
    RewardShapingSettings,
    RolloutSettings,
    Settings,
)
from rlkl.settings.penalty import BETA_LIMITS, CONTROLLERS, KL_MASKS, SCHEDULES, STEERED, PenaltySettings

__all__ = [
    "AGGREGATIONS",
    "BETA_LIMITS",
    "CONTROLLERS",
    "GROUPS",
    "KL_MASKS",
    "MOST_COUNT",
    "SCHEDULES",
    "SEED_LIMIT",
    "STEERED",
    "AlgorithmSettings",
    "DecodingSettings",
    "Engine",
    "Execution",
    "OptimizerSettings",
    "PenaltySettings",
    "PolicySettings",
    "ReferenceSettings",
    "Resolved",
    "RewardShapingSettings",
    "RolloutSettings",
    "Settings",
    "Traced",
    "Tracking",
    "check",
    "check_penalty",
    "check_settings",
    "from_mapping",
    "group",
    "known_keys",
    "static",
    "traced",
]
