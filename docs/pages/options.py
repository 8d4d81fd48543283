"""The reference of the options, from their declarations in `rlkl.settings`."""

import dataclasses

from pages import markdown
from rlkl import settings

TOP_LEVEL = (settings.Settings, settings.Execution)
PAGES = {  # of the values that are registered names
    "policy.name": "policies.md",
    "algorithm.name": "algorithms.md",
    "penalty.divergence": "divergences.md",
    "penalty.estimator": "estimators.md",
    "penalty.gradient_estimator": "estimators.md",
}
LIMITS = {"above": ">", "at_least": ">=", "below": "<", "at_most": "<="}


def options(group: str) -> str:
    """A table of a group's options ("" for the top-level keys): name, default, allowed values, what it means."""
    classes = {**settings.GROUPS, "tracking": settings.Tracking, "engine": settings.Engine}
    fields = [
        field
        for cls in ([classes[group]] if group else TOP_LEVEL)
        for field in dataclasses.fields(cls)
        if group or field.name not in settings.GROUPS
    ]
    prefix = f"{group}." if group else ""
    rows = [
        (
            f"`{prefix}{field.name}`",
            _default(field),
            _allowed(prefix + field.name, field),
            markdown.cell(field.metadata["about"]),
        )
        for field in fields
    ]
    return markdown.table(("option", "default", "allowed", "meaning"), rows)


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return "`{}`"
    return {None: "null"}.get(field.default) or f"`{str(field.default).replace('True', 'true').replace('False', 'false')}`"


def _allowed(key: str, field: dataclasses.Field) -> str:
    rules = field.metadata
    if key in PAGES:
        return f"[one of these]({PAGES[key]})"
    if rules.get("allowed"):
        return ", ".join(f"`{each}`" for each in rules["allowed"])
    kind = {int: "a whole number", float: "a number", bool: "`true`, `false`", str: "a name", tuple: "a list"}.get(
        rules.get("kind"), ""
    )
    limits = " and ".join(f"{sign} {_number(rules[rule])}" for rule, sign in LIMITS.items() if rules.get(rule) is not None)
    return " ".join(filter(None, (kind, limits)))


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
