"""What is trained: a run's settings, task and reference as one tree, whose structure is all that is static."""

from dataclasses import fields, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from rlkl import algorithms, descent, penalty, policies, settings, shaping
from rlkl.policies import AnyPolicy
from rlkl.tasks.automaton import Task

for _cls in (*settings.GROUPS.values(), settings.Settings):
    _data = [f.name for f in fields(_cls) if f.metadata.get("traced") or f.name in settings.GROUPS]
    jax.tree_util.register_dataclass(_cls, _data, [f.name for f in fields(_cls) if f.name not in _data])


class Run(eqx.Module):
    """What is trained: everything traced is a leaf, everything static is in the tree's structure.

    code: the registered functions behind the settings' names, so that a plugin that was edited is compiled anew. typical:
    whether the task has a typicality reward, which decides how its optimum is found. reference: fixed; it grades the run.
    """

    settings: settings.Settings
    task: Task
    reference: AnyPolicy
    code: tuple = eqx.field(static=True)
    typical: bool = eqx.field(static=True)


def make(chosen: settings.Settings, task: Task, reference: AnyPolicy | None = None) -> Run:
    """The run of resolved settings on a task (its arrays on the host); without a reference, the task's own grades it."""
    code = (
        penalty.divergence(chosen.penalty),
        policies.REGISTRY[chosen.policy.name],
        algorithms.REGISTRY.get(chosen.algorithm.name),
    )
    own = policies.Fixed(task.log_reference, task.automaton.horizon)
    return Run(chosen, task, own if reference is None else reference, code, bool(np.any(np.asarray(task.typicality) != 0.0)))


def descends(run: Run) -> descent.Descent:
    """What the run's penalty descends in expectation."""
    if run.settings.algorithm.name == "dpo":
        return descent.Descent("exact", "the log-loss of the preferences, at its least where E[r] - beta KL(pi‖pi_ref) is best")
    scaled = algorithms.kind(run.settings.algorithm.name) == "scaled"
    return descent.of(run.settings.penalty, run.task.automaton.horizon, scaled)


def caveats(run: Run) -> list[str]:
    """What else keeps a sampled step from descending what its penalty does, in words."""
    chosen, found = run.settings, []
    samples, given = algorithms.kind(chosen.algorithm.name) != "exact", chosen.reward_shaping
    if chosen.rollout.staleness or chosen.rollout.log_prob_dtype:
        stale = f"{chosen.rollout.staleness} batches old" if chosen.rollout.staleness else ""
        rounded = f"rounded to {chosen.rollout.log_prob_dtype}" if chosen.rollout.log_prob_dtype else ""
        by = chosen.penalty.importance_correction
        corrected = "uncorrected" if by == "none" else f"corrected by each {by}'s importance weight"
        found.append(f"off-policy: samples of a policy {' and '.join(filter(None, (stale, rounded)))}, {corrected}")
    if chosen.penalty.truncation is not None:
        found.append(f"truncated: importance weights are at most {chosen.penalty.truncation:g} (batch_truncated: how often)")
    if chosen.penalty.clamp is not None:
        found.append(f"clamped: log-ratios are read within ±{chosen.penalty.clamp:g} (batch_clamped: how often)")
    normalised = samples and chosen.algorithm.loss_aggregation != settings.AGGREGATIONS[0]
    if normalised and run.task.automaton.lengths_vary:
        found.append(f"weighed: {chosen.algorithm.loss_aggregation} weighs sequences by their lengths, which differ here")
    if chosen.algorithm.entropy_coef is not None:
        how = "of each next token, the states held fixed" if samples else "of the policy"
        found.append(f"bonus: {chosen.algorithm.entropy_coef:g} times the entropy {how}; no objective or regret counts it")
    if chosen.algorithm.name == "natural" and chosen.optimizer.name != "sgd":
        found.append(
            f"rescaled: {chosen.optimizer.name} changes the natural gradient's steps; optimizer=sgd takes them as they are"
        )
    if chosen.algorithm.name == "dpo":
        found.append("offline: learns from the preferences alone, never from the reward fitted to them, which grades it")
    if given.name == "mara":
        rule = f"mara, variant {given.variant}, makes rewards from {given.threshold:g} on equally likely"
        anchor = "; its anchor is each batch's likeliest" if shaping.by_batch(given, run.task) else ""
        found.append(f"shaped: {rule}{anchor}; no objective or regret counts it")
    if given.name == "typicality":
        found.append(f"shaped: {given.weight:g} log pi_ref is taken off the reward; no objective or regret counts it")
    if chosen.reference.temperature is not None:
        power = f"pi_ref^(1/{chosen.reference.temperature:g}), token by token,"
        found.append(f"tempered: {power} penalises; objective and regret are against pi_ref")
    if chosen.stop_kl is not None:
        found.append(f"stops at the first logged row whose KL(pi‖pi_ref) is above {chosen.stop_kl:g}")
    return found


def cast(tree: Any, dtype) -> Any:
    """Every floating-point leaf in `dtype`."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x, tree)


def support(run: Run) -> Array:
    """Bool["D V"]: the tokens that the policy may take."""
    legal = jnp.asarray(run.task.automaton.legal)
    return legal & (jnp.asarray(run.task.log_reference) > -jnp.inf) if run.settings.policy.support == "reference" else legal


def first_policy(run: Run, key: PRNGKeyArray, init: str | None = None) -> AnyPolicy:
    """Where `policy.init`, or another `init`, starts, in the run's dtype; beside a pretrained reference, `reference` is its
    copy."""
    chosen, dtype = run.settings, jnp.dtype(run.settings.dtype)
    low, init = cast(run, dtype), init or chosen.policy.init
    if chosen.reference.name == "pretrained" and init == "reference":
        return low.reference
    start = replace(low.settings.policy, init=init)
    return policies.REGISTRY[chosen.policy.name].build(start, low.task, support(run), key, dtype)
