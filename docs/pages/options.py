"""The reference of the options, from their declarations in `rlkl.settings`."""

import dataclasses
from pathlib import Path

import yaml

from pages import markdown
from rlkl import algorithms, policies, settings
from rlkl.config.resolve import RECIPES, Recipe
from rlkl.penalties import options as penalties

TOP_LEVEL = (settings.Settings, settings.Execution)
PAGES = {  # of the values that are registered names
    "policy.name": "policies.md",
    "algorithm.name": "algorithms.md",
    "algorithm.surrogate": "algorithms.md#surrogates",
    "penalty.divergence": "divergences.md",
    "penalty.estimator": "estimators.md",
    "penalty.gradient_estimator": "estimators.md",
}
CONFIGS = Path(__file__).parents[2] / "configs"
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


def presets_of_groups() -> str:
    """A row for each group of presets: its default, and the others; tasks and penalties have pages of their own."""
    defaults = yaml.safe_load((CONFIGS / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    chosen = {key: value for each in defaults if isinstance(each, dict) for key, value in each.items()}
    pages = {"task": "[tasks](tasks.md)", "penalty": "[shipped penalties](../penalties/presets.md)"}
    rows = []
    for group, default in chosen.items():
        names = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
        if names and group != "hydra":
            others = ", ".join(f"`{name}`" for name in names if name != default)
            rows.append((f"`{group}`", f"`{default or 'none'}`", pages.get(group, others)))
    return markdown.table(("group", "default", "others"), rows)


def defaults() -> str:
    """What the options that are null stand for, from the table that resolves them: a row for each kind of run."""
    tasks: dict[tuple[str, str, Recipe], list[str]] = {}
    for kind in ("exact", "sampled"):
        for policy in ("table", "network"):
            for task in ("bandit", "sequence"):
                matches = (key for key in RECIPES if key[0] == kind and key[1] in (None, task) and key[2] in (None, policy))
                tasks.setdefault((kind, policy, RECIPES[next(matches)]), []).append(task)
    header = ("algorithm", "policy", "task", "`steps`", "`batch_size`", "`log_every`", "`dtype`")
    of_optimizer = ("learning_rate", "b2", "schedule", "decay")
    rows = [
        (
            kind,
            policy,
            ", ".join(which),
            str(recipe.steps),
            str(recipe.batch_size or "none"),
            f"steps/{recipe.rows}",
            recipe.dtype,
            *(str(getattr(recipe, key)) for key in of_optimizer),
        )
        for (kind, policy, recipe), which in tasks.items()
    ]
    return markdown.table((*header, *(f"`optimizer.{key}`" for key in of_optimizer)), rows)


def aggregations() -> str:
    """The default of `algorithm.loss_aggregation` for each sampled algorithm."""
    by_default: dict[str, list[str]] = {}
    for name, algorithm in algorithms.REGISTRY.items():
        by_default.setdefault(algorithm.aggregation, []).append(f"`{name}`")
    return markdown.table(
        ("`algorithm`", "`algorithm.loss_aggregation`"),
        [(", ".join(names), f"`{default}`") for default, names in by_default.items()],
    )


def default_estimators() -> str:
    """The default estimator and placement, for each kind of algorithm, task and divergence."""
    kinds: dict[str, list[str]] = {}
    for name in algorithms.names():
        kinds.setdefault(algorithms.gradient_kind(name), []).append(f"`{name}`")
    rows = []
    for kind, names in kinds.items():
        for task, horizon in (("bandit", 1), ("sequence", 2)):
            for divergence, key in (("KL(pi‖pi_ref)", "kl_pi_ref"), ("any other", "alpha")):
                estimator, placement = penalties.default(kind, key, horizon)
                rows.append((", ".join(names), task, divergence, f"`{estimator}`", f"`{placement}`"))
    merged: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for names, task, divergence, *result in rows:
        merged.setdefault((names, *result), []).append((task, divergence))
    lines = []
    for (names, *result), which in merged.items():
        on = dict.fromkeys(task for task, _ in which)
        of = dict.fromkeys(divergence for _, divergence in which)
        lines.append((names, "any" if len(on) == 2 else ", ".join(on), "any" if len(of) == 2 else ", ".join(of), *result))
    return markdown.table(("`algorithm`", "task", "divergence", "`penalty.estimator`", "`penalty.placement`"), lines)


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return "`{}`"
    return {None: "null"}.get(field.default) or f"`{str(field.default).replace('True', 'true').replace('False', 'false')}`"


def _allowed(key: str, field: dataclasses.Field) -> str:
    rules = field.metadata
    if key == "policy.init":  # the union over families; each has its own
        inits = dict.fromkeys(init for family in policies.REGISTRY.values() for init in family.inits)
        return ", ".join(f"`{init}`" for init in inits) + ", [by family](policies.md)"
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
