"""Settings checked against the registries, and nulls resolved from one table."""

import dataclasses
import math
from typing import NamedTuple

from rlkl import algorithms, divergences, exact, policies, settings, tasks
from rlkl.errors import SettingsError, nearest
from rlkl.penalties import controllers, estimators, options
from rlkl.rollouts import batch
from rlkl.tasks import automaton
from rlkl.training import reward_shaping


class Recipe(NamedTuple):
    """What unset settings become; rows are the logged ones."""

    steps: int
    learning_rate: float
    b2: float
    schedule: str
    decay: float
    dtype: str
    batch_size: int | None = None
    rows: int = 100


# (kind of algorithm, kind of task, kind of policy): the first row that fits is taken; None fits all.
RECIPES: dict[tuple[str, str | None, str | None], Recipe] = {
    ("exact", "bandit", "table"): Recipe(2000, 0.3, 0.99, "linear", 0.3, "float64"),
    ("exact", None, "table"): Recipe(2000, 0.1, 0.99, "linear", 0.3, "float64"),
    ("exact", None, "network"): Recipe(1000, 0.01, 0.99, "linear", 0.3, "float64", rows=20),
    ("sampled", "bandit", "table"): Recipe(5000, 0.1, 0.999, "linear", 1.0, "float32", batch_size=64),
    ("sampled", None, "table"): Recipe(5000, 0.01, 0.999, "linear", 1.0, "float32", batch_size=64),
    ("sampled", None, "network"): Recipe(1000, 0.002, 0.999, "linear", 1.0, "float32", batch_size=128, rows=20),
}


def resolve(chosen: settings.Settings, task: tasks.Task) -> settings.Settings:
    """Check names against the registries, and fill what is unset."""
    for key, value, registry in (
        ("policy.name", chosen.policy.name, policies.REGISTRY),
        ("algorithm.name", chosen.algorithm.name, algorithms.names()),
        ("penalty.divergence", chosen.penalty.divergence, [*divergences.REGISTRY, "none"]),
        ("penalty.estimator", chosen.penalty.estimator, [*options.ESTIMATORS, *estimators.ALIASES]),
    ):
        if value is not None and value not in registry:
            raise SettingsError(key, value, nearest(value, registry))
    chosen = dataclasses.replace(chosen, penalty=_weighed(chosen.penalty))
    kind = "exact" if algorithms.gradient_kind(chosen.algorithm.name) == "exact" else "sampled"
    length = "bandit" if task.automaton.horizon == 1 else "sequence"
    row = (kind, length, "network" if policies.REGISTRY[chosen.policy.name].network else "table")
    recipe = next(RECIPES[key] for key in RECIPES if all(k in (None, r) for k, r in zip(key, row, strict=True)))
    steps = chosen.steps or recipe.steps
    batch_size = None if kind == "exact" else chosen.batch_size or recipe.batch_size
    unset = {key for key, value in vars(chosen.optimizer).items() if value is None and key in Recipe._fields}
    if chosen.optimizer.decay is not None and chosen.optimizer.decay > 1:
        raise SettingsError("optimizer.decay", chosen.optimizer.decay, "must be at most 1, a part of the steps")
    return dataclasses.replace(
        chosen,
        policy=_policy(chosen, task),
        algorithm=_algorithm(chosen),
        penalty=_penalty(chosen, task, batch_size),
        optimizer=dataclasses.replace(chosen.optimizer, **{key: getattr(recipe, key) for key in unset}),
        steps=steps,
        batch_size=batch_size,
        log_every=chosen.log_every or max(1, steps // recipe.rows),
        dtype=chosen.dtype or recipe.dtype,
    )


def _penalty(chosen: settings.Settings, task: tasks.Task, batch_size: int | None) -> settings.PenaltySettings:
    given = chosen.penalty
    if given.divergence == "none":
        if given.beta != 0.0:
            raise SettingsError("penalty.beta", given.beta, "must be 0 without a penalty (penalty=reverse_kl has one)")
    elif given.beta <= 0.0:
        raise SettingsError("penalty.beta", given.beta, "must be above 0 (penalty=none trains without a penalty)")
    else:
        _within_limits("penalty.beta", given.beta)
    if given.controller != "fixed":
        if given.divergence == "none":
            raise SettingsError("penalty.controller", given.controller, "there is no penalty for it to steer")
        scheduled = given.controller in settings.SCHEDULES
        key, what = ("beta_end", "coefficient that it ends at") if scheduled else ("target_kl", "KL that it steers to")
        if getattr(given, key) is None:
            raise SettingsError(f"penalty.{key}", "null", f"controller={given.controller} needs the {what}")
        if scheduled:
            _within_limits("penalty.beta_end", given.beta_end)
    if given.controller == "adaptive" and given.horizon <= controllers.least_horizon(batch_size):
        rule = f"must be above {controllers.CLIP:g} times the {batch_size or 1} sequences of a step, or adaptive's factor "
        raise SettingsError("penalty.horizon", given.horizon, rule + "1 - 0.2 sequences/horizon could make beta negative")
    if chosen.algorithm.name in ("exact", "natural") or "exact" in (given.estimator, given.sampler):
        _exactly_known(chosen, task, options.divergence(given))
    if algorithms.gradient_kind(chosen.algorithm.name) == "exact" and chosen.rollout != settings.RolloutSettings():
        key, value = (
            ("staleness", chosen.rollout.staleness)
            if chosen.rollout.staleness
            else ("log_prob_dtype", chosen.rollout.log_prob_dtype)
        )
        raise SettingsError(f"rollout.{key}", value, "is of sampled algorithms; exact gradients sample nothing")
    return options.resolve_penalty(algorithms.gradient_kind(chosen.algorithm.name), given, task.automaton.horizon)


def _within_limits(key: str, beta: float) -> None:
    least, most = settings.BETA_LIMITS
    if not least <= beta <= most:
        rule = f"must be between {least:g} and {most:g}: beyond, rounding and not the penalty decides what is optimal"
        raise SettingsError(key, beta, rule)


def _weighed(given: settings.PenaltySettings) -> settings.PenaltySettings:
    """The weights of `mixed` as two numbers."""
    weights = given.weights
    numbers = all(isinstance(w, (int, float)) and not isinstance(w, bool) and math.isfinite(w) and w >= 0 for w in weights)
    if len(weights) != 2 or not numbers or sum(weights) == 0:
        raise SettingsError("penalty.weights", list(weights), "must be two numbers of at least 0, not both 0")
    return dataclasses.replace(given, weights=tuple(map(float, weights)))


def _exactly_known(chosen: settings.Settings, task: tasks.Task, div: divergences.Divergence | None) -> None:
    """Exact gradients need the objective, or the penalty, without sampling."""
    key = "algorithm" if chosen.algorithm.name in ("exact", "natural") else "penalty.sampler"
    many = f"{task.automaton.count} sequences, and at most {automaton.MOST_SEQUENCES} can be listed"
    shaped = reward_shaping.by_batch(chosen.reward_shaping, task)
    if key == "algorithm" and (shaped or task.reward_model is not None):
        rule = f"{'mara' if shaped else 'the reward model'} reads the whole history of {many}; samples (rloo, ...) can train"
        raise SettingsError(key, chosen.algorithm.name, rule)
    if batch.is_enumerable(task.automaton):
        return
    if policies.REGISTRY[chosen.policy.name].network:
        rule = (
            f"policy={chosen.policy.name} reads the whole history of {many}; samples (rloo, ...; sampler=policy) can train it"
        )
        raise SettingsError(key, "exact", rule)
    if div is not None and not exact.has_exact_divergence(task.automaton, div):
        rule = f"{div.formula} has no dynamic program over {many}; samples (rloo, ...; sampler=policy) can train under it"
        raise SettingsError("penalty.divergence", chosen.penalty.divergence, rule)


def _algorithm(chosen: settings.Settings) -> settings.AlgorithmSettings:
    given = chosen.algorithm
    if given.name == "natural" and chosen.policy.name != "tabular":
        raise SettingsError("algorithm", "natural", f"takes policy=tabular alone, and policy is {chosen.policy.name}")
    own = algorithms.REGISTRY[given.name].aggregation if given.name in algorithms.REGISTRY else settings.AGGREGATIONS[0]
    return dataclasses.replace(given, loss_aggregation=given.loss_aggregation or own)


def _policy(chosen: settings.Settings, task: tasks.Task) -> settings.PolicySettings:
    given, family = chosen.policy, policies.REGISTRY[chosen.policy.name]
    copied = given.init == "reference" and chosen.reference.name == "pretrained"
    if given.init is not None and given.init not in family.inits and not copied:
        raise SettingsError("policy.init", given.init, f"policy={given.name} starts at: " + ", ".join(family.inits))
    div = options.divergence(chosen.penalty)
    forbids = div is not None and _is_infinite_off_support(div, chosen.penalty)
    if (
        div is not None
        and forbids
        and given.support == "all"
        and (task.automaton.legal & (task.log_reference == -math.inf)).any()
    ):
        rule = f"{div.formula} is infinite off the reference's support, and this task has such tokens; use reference"
        raise SettingsError("policy.support", "all", rule)
    if chosen.reference.name == "pretrained" and "uniform" not in family.inits:
        raise SettingsError("reference", "pretrained", f"policy={given.name} cannot be trained from a uniform start")
    inits = family.inits
    if chosen.reference.name == "pretrained" and given.init is None:
        inits = ("reference",)
    if chosen.reference.update != "none":
        _can_be_moved(chosen, task, family)
    filled = dataclasses.replace(
        given, init=given.init or inits[0], support=given.support or ("reference" if forbids else "all")
    )
    if family.check is not None:
        family.check(filled, task)
    return filled


def _can_be_moved(chosen: settings.Settings, task: tasks.Task, family: policies.Family) -> None:
    """A moving reference starts as a member of the policy's family that equals the reference."""
    update, zeros = chosen.reference.update, (task.automaton.legal & (task.log_reference == -math.inf)).any()
    if chosen.reference.name == "task" and "reference" not in family.inits:
        rule = f"no policy={chosen.policy.name} equals the reference to start from (reference=pretrained is one)"
        raise SettingsError("reference.update", update, rule)
    if zeros and chosen.policy.support == "all":
        rule = "policy.support=all has tokens that the reference never takes; no policy that may take them equals it"
        raise SettingsError("reference.update", update, rule)


def _is_infinite_off_support(div: divergences.Divergence, given: settings.PenaltySettings) -> bool:
    params = divergences.Params(given.alpha, given.weights)
    number = div.infinity(params) if callable(div.infinity) else div.infinity
    return not math.isfinite(float(number))
