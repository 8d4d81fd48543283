"""Check settings against the registries, and resolve those that are null from one table."""

import dataclasses
import math
from typing import Any, NamedTuple

from rlkl import algorithms, divergences, exact, policies, settings, surrogates, tasks
from rlkl.config import groups
from rlkl.errors import SettingsError, nearest
from rlkl.penalties import controllers, estimators, options
from rlkl.tasks import automaton
from rlkl.training import reward_shaping, spec


class Recipe(NamedTuple):
    """Default values of the settings that are left unset. rows: how many rows are logged."""

    steps: int
    learning_rate: float
    b2: float
    schedule: str
    decay: float
    dtype: str
    batch_size: int | None = None
    rows: int = 100


# Keys: (kind of algorithm, kind of task, kind of policy), where None matches all. The first key that matches is used.
RECIPES: dict[tuple[str, str | None, str | None], Recipe] = {
    ("exact", "bandit", "table"): Recipe(2000, 0.3, 0.99, "linear", 0.3, "float64"),
    ("exact", None, "table"): Recipe(2000, 0.1, 0.99, "linear", 0.3, "float64"),
    ("exact", None, "network"): Recipe(1000, 0.01, 0.99, "linear", 0.3, "float64", rows=20),
    ("sampled", "bandit", "table"): Recipe(5000, 0.1, 0.999, "linear", 1.0, "float32", batch_size=64),
    ("sampled", None, "table"): Recipe(5000, 0.01, 0.999, "linear", 1.0, "float32", batch_size=64),
    ("sampled", None, "network"): Recipe(1000, 0.002, 0.999, "linear", 1.0, "float32", batch_size=128, rows=20),
}


def resolve(run_settings: settings.Settings, task: tasks.Task) -> settings.Settings:
    """Check settings against the registries and the task, and fill in those that are unset; raises `SettingsError`."""
    for key, value, registry in (
        ("policy.name", run_settings.policy.name, policies.REGISTRY),
        ("algorithm.name", run_settings.algorithm.name, algorithms.names()),
        ("penalty.divergence", run_settings.penalty.divergence, [*divergences.REGISTRY, "none"]),
        ("penalty.estimator", run_settings.penalty.estimator, [*options.ESTIMATORS, *estimators.ALIASES]),
    ):
        if value is not None and value not in registry:
            raise SettingsError(key, value, nearest(value, registry))
    run_settings = dataclasses.replace(run_settings, penalty=_check_weights(run_settings.penalty))
    kind = "exact" if algorithms.gradient_kind(run_settings.algorithm.name) == "exact" else "sampled"
    length = "bandit" if task.automaton.horizon == 1 else "sequence"
    kinds = (kind, length, "network" if policies.REGISTRY[run_settings.policy.name].network else "table")
    recipe = next(RECIPES[key] for key in RECIPES if all(k in (None, actual) for k, actual in zip(key, kinds, strict=True)))
    steps = run_settings.steps or recipe.steps
    batch_size = None if recipe.batch_size is None else groups.batch_size(run_settings, recipe.batch_size)
    if run_settings.dtype == "bfloat16" and kinds[-1] == "table":
        rule = "is for networks: a table has no matrix products, and its log-probabilities would be too coarse"
        raise SettingsError("dtype", "bfloat16", f"{rule}; float32 or float64 can train policy={run_settings.policy.name}")
    unset = {key for key, value in vars(run_settings.optimizer).items() if value is None and key in Recipe._fields}
    if run_settings.optimizer.decay is not None and run_settings.optimizer.decay > 1:
        raise SettingsError("optimizer.decay", run_settings.optimizer.decay, "must be at most 1, a part of the steps")
    resolved = dataclasses.replace(
        run_settings,
        policy=_resolve_policy(run_settings, task),
        algorithm=_resolve_algorithm(run_settings, batch_size),
        penalty=_resolve_penalty(run_settings, task, batch_size),
        rollout=_resolve_rollout(run_settings, task),
        optimizer=dataclasses.replace(run_settings.optimizer, **{key: getattr(recipe, key) for key in unset}),
        steps=steps,
        batch_size=batch_size,
        log_every=run_settings.log_every or max(1, steps // recipe.rows),
        dtype=run_settings.dtype or recipe.dtype,
    )
    groups.check_pass_at_k(resolved, task)
    groups.check_utility(resolved, task)
    return resolved


def _resolve_penalty(run_settings: settings.Settings, task: tasks.Task, batch_size: int | None) -> settings.PenaltySettings:
    penalty = run_settings.penalty
    settings.check_penalty(penalty)
    if penalty.controller == "adaptive" and penalty.horizon <= controllers.least_horizon(batch_size):
        rule = f"must be above {controllers.CLIP:g} times the {batch_size or 1} sequences of a step, or adaptive's factor "
        raise SettingsError("penalty.horizon", penalty.horizon, rule + "1 - 0.2 sequences/horizon could make beta negative")
    div = options.divergence(penalty)
    if div is not None and div.root and not exact.has_exact_divergence(task.automaton, div):
        rule = f"{div.formula} is the root of a mean over {task.automaton.count} sequences, which no sample estimates "
        rule += f"without bias; at most {automaton.MOST_SEQUENCES} are listed"
        raise SettingsError("penalty.divergence", penalty.divergence, rule)
    if run_settings.algorithm.name in ("exact", "natural") or "exact" in (penalty.estimator, penalty.sampler):
        _check_exact_gradients(run_settings, task, div)
    return options.resolve_penalty(spec.gradient_kind(run_settings), penalty, task.automaton.horizon)


def _resolve_rollout(run_settings: settings.Settings, task: tasks.Task) -> settings.RolloutSettings:
    """Fill in what the sampler rounds and reports; raises `SettingsError` for settings without an effect."""
    rollout, default, policy = run_settings.rollout, settings.RolloutSettings(), run_settings.policy.name
    if algorithms.gradient_kind(run_settings.algorithm.name) == "exact":
        for key, value in vars(rollout).items():
            if value != getattr(default, key):
                raise SettingsError(f"rollout.{key}", value, "is of sampled algorithms; exact gradients sample nothing")
    if rollout.rounded is not None and rollout.dtype is None:
        raise SettingsError("rollout.rounded", rollout.rounded, "needs the dtype that it is rounded to (rollout.dtype)")
    if rollout.rounded == "logits" and not policies.REGISTRY[policy].logits:
        raise SettingsError(
            "rollout.rounded", "logits", f"policy={policy} keeps no logits; log_probs or weights can be rounded"
        )
    if rollout.reported is not None and not rollout.processes:
        rule = "differs only where the sampler processes: rollout.temperature, top_k, top_p or min_p"
        raise SettingsError("rollout.reported", rollout.reported, rule)
    if rollout.top_k is not None and rollout.top_k >= task.automaton.vocabulary:
        rule = f"keeps all of the {task.automaton.vocabulary} tokens; must be below that"
        raise SettingsError("rollout.top_k", rollout.top_k, rule)
    if rollout.dropout is not None and policy != "transformer":
        raise SettingsError("rollout.dropout", rollout.dropout, f"takes policy=transformer alone, and policy is {policy}")
    return dataclasses.replace(
        rollout,
        rounded=None if rollout.dtype is None else rollout.rounded or "log_probs",
        reported=None if not rollout.processes else rollout.reported or "raw",
    )


def _check_weights(penalty: settings.PenaltySettings) -> settings.PenaltySettings:
    """Check the weights of the divergence `mixed`, and return the penalty with them as two floats."""
    weights = penalty.weights
    numbers = all(isinstance(w, (int, float)) and not isinstance(w, bool) and math.isfinite(w) and w >= 0 for w in weights)
    if len(weights) != 2 or not numbers or sum(weights) == 0:
        raise SettingsError("penalty.weights", list(weights), "must be two numbers of at least 0, not both 0")
    return dataclasses.replace(penalty, weights=tuple(map(float, weights)))


def _check_exact_gradients(run_settings: settings.Settings, task: tasks.Task, div: divergences.Divergence | None) -> None:
    """Check that the exact gradient of the objective, or of the penalty, can be computed; raises `SettingsError`."""
    key = "algorithm" if run_settings.algorithm.name in ("exact", "natural") else "penalty.sampler"
    many = f"{task.automaton.count} sequences, and at most {automaton.MOST_SEQUENCES} can be listed"
    shaped = reward_shaping.by_batch(run_settings.reward_shaping, task)
    if key == "algorithm" and (shaped or task.reward_model is not None):
        rule = f"{'mara' if shaped else 'the reward model'} reads the whole history of {many}; samples (rloo, ...) can train"
        raise SettingsError(key, run_settings.algorithm.name, rule)
    if task.automaton.is_enumerable:
        return
    name = run_settings.policy.name
    if policies.REGISTRY[name].network:
        rule = f"policy={name} reads the whole history of {many}; samples (rloo, ...; sampler=policy) can train it"
        raise SettingsError(key, "exact", rule)
    if div is not None and not exact.has_exact_divergence(task.automaton, div):
        rule = f"{div.formula} has no dynamic program over {many}; samples (rloo, ...; sampler=policy) can train under it"
        raise SettingsError("penalty.divergence", run_settings.penalty.divergence, rule)


def _resolve_algorithm(run_settings: settings.Settings, batch_size: int | None) -> settings.AlgorithmSettings:
    algorithm = groups.resolve_groups(run_settings, batch_size)
    if algorithm.name == "natural" and run_settings.policy.name != "tabular":
        raise SettingsError("algorithm", "natural", f"takes policy=tabular alone, and policy is {run_settings.policy.name}")
    if algorithm.max_log_odds is not None and algorithm.name != "dpo":
        raise SettingsError("algorithm.max_log_odds", algorithm.max_log_odds, "is of algorithm=dpo, which learns from pairs")
    registered = algorithms.REGISTRY.get(algorithm.name)
    if registered is None:
        only = {"surrogate": "none", "epochs": 1, "old_log_probs": "recomputed"}
        for key, value in only.items():
            if getattr(algorithm, key) not in (None, value):
                rule = f"is of sampled algorithms; algorithm={algorithm.name} has no ratio to an old policy"
                raise SettingsError(f"algorithm.{key}", getattr(algorithm, key), rule)
        algorithm = dataclasses.replace(algorithm, surrogate="none", epochs=1)
        aggregation = settings.AGGREGATIONS[0]
    else:
        algorithm = dataclasses.replace(
            algorithm,
            surrogate=algorithm.surrogate or registered.surrogate,
            epochs=algorithm.epochs or registered.epochs,
        )
        aggregation = registered.aggregation
    algorithm = dataclasses.replace(algorithm, loss_aggregation=algorithm.loss_aggregation or aggregation)
    return _resolve_surrogate(algorithm, run_settings.penalty)


def _resolve_surrogate(algorithm: settings.AlgorithmSettings, penalty: settings.PenaltySettings) -> settings.AlgorithmSettings:
    """Fill in the options of the surrogate; raises `SettingsError` for those that it does not read."""
    name = str(algorithm.surrogate)
    if name not in surrogates.REGISTRY:
        raise SettingsError("algorithm.surrogate", name, nearest(name, surrogates.REGISTRY))
    defaults = surrogates.REGISTRY[name].options
    for key in surrogates.option_names():
        value = getattr(algorithm, key)
        if value is not None and key not in defaults:
            readers = ", ".join(each for each, surrogate in surrogates.REGISTRY.items() if key in surrogate.options)
            raise SettingsError(f"algorithm.{key}", value, f"is of algorithm.surrogate={readers}; this is {name}")
    unset: dict[str, Any] = {key: value for key, value in defaults.items() if getattr(algorithm, key) is None}
    filled = dataclasses.replace(algorithm, **unset)
    if "cov_low" in defaults and not filled.cov_low < filled.cov_high:
        raise SettingsError("algorithm.cov_low", filled.cov_low, f"must be below cov_high={filled.cov_high:g}")
    if filled.old_log_probs == "reported":
        if name == "none":
            raise SettingsError("algorithm.old_log_probs", "reported", "algorithm.surrogate=none has no ratio to an old policy")
        if penalty.importance_correction != "none":
            rule = "is in the surrogate's ratio already (old_log_probs=reported), and would count twice; kl_mask would not"
            raise SettingsError("penalty.importance_correction", penalty.importance_correction, rule)
    return filled


def _resolve_policy(run_settings: settings.Settings, task: tasks.Task) -> settings.PolicySettings:
    policy, family = run_settings.policy, policies.REGISTRY[run_settings.policy.name]
    copies_reference = policy.init == "reference" and run_settings.reference.name == "pretrained"
    if policy.init is not None and policy.init not in family.inits and not copies_reference:
        raise SettingsError("policy.init", policy.init, f"policy={policy.name} starts at: " + ", ".join(family.inits))
    div = options.divergence(run_settings.penalty)
    keeps_support = div is not None and _is_infinite_off_support(div, run_settings.penalty)
    if (
        div is not None
        and keeps_support
        and policy.support == "all"
        and (task.automaton.legal & (task.log_reference == -math.inf)).any()
    ):
        rule = f"{div.formula} is infinite off the reference's support, and this task has such tokens; use reference"
        raise SettingsError("policy.support", "all", rule)
    if run_settings.reference.name == "pretrained" and "uniform" not in family.inits:
        raise SettingsError("reference", "pretrained", f"policy={policy.name} cannot be trained from a uniform start")
    default_init = "reference" if run_settings.reference.name == "pretrained" else family.inits[0]
    if run_settings.reference.update != "none":
        _check_moving_reference(run_settings, task, family)
    _check_penalising_reference(run_settings, task, policy.init or default_init)
    support = policy.support or ("reference" if keeps_support else "all")
    resolved = dataclasses.replace(policy, init=policy.init or default_init, support=support)
    if family.check is not None:
        family.check(resolved, task)
    return resolved


def _check_moving_reference(run_settings: settings.Settings, task: tasks.Task, family: policies.Family) -> None:
    """Check that a member of the policy's family equals the reference, so that a moving reference can start as it."""
    update, zeros = run_settings.reference.update, (task.automaton.legal & (task.log_reference == -math.inf)).any()
    if run_settings.reference.name == "task" and "reference" not in family.inits:
        rule = f"no policy={run_settings.policy.name} equals the reference to start from (reference=pretrained is one)"
        raise SettingsError("reference.update", update, rule)
    if zeros and run_settings.policy.support == "all":
        rule = "policy.support=all has tokens that the reference never takes; no policy that may take them equals it"
        raise SettingsError("reference.update", update, rule)


def _is_uniform(task: tasks.Task) -> bool:
    """Whether the task's reference is uniform over all legal tokens of each state."""
    likeliest = task.log_reference >= task.log_reference.max(axis=1, keepdims=True) - 1e-9
    return bool((likeliest == task.automaton.legal).all())


def _check_penalising_reference(run_settings: settings.Settings, task: tasks.Task, init: str) -> None:
    """Check that another penalising reference than the graded one has an effect, and that nothing moves or tempers it."""
    reference, key = run_settings.reference, "reference.penalising"
    if reference.penalising == "graded":
        return
    if run_settings.penalty.divergence == "none":
        raise SettingsError(key, reference.penalising, "there is no penalty (penalty=none)")
    if run_settings.algorithm.name == "dpo":
        raise SettingsError(key, reference.penalising, "algorithm=dpo takes the graded reference alone")
    if reference.update != "none" or reference.temperature is not None:
        raise SettingsError(key, reference.penalising, "goes with reference.update=none and reference.temperature=null")
    if reference.penalising == "uniform" and _is_uniform(task):
        raise SettingsError(key, "uniform", "the graded reference is uniform over its tokens")
    if reference.penalising == "start" and init == "reference":
        raise SettingsError(key, "start", "policy.init=reference starts at the graded reference")


def _is_infinite_off_support(div: divergences.Divergence, penalty: settings.PenaltySettings) -> bool:
    params = divergences.Params(penalty.alpha, penalty.weights)
    limit = div.infinity(params) if callable(div.infinity) else div.infinity
    return not math.isfinite(float(limit))
