"""Rewards that are learned from in place of the task's own, which still grades: remedies against lost diversity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import policies, settings
from rlkl.errors import SettingsError
from rlkl.exact import Objective, optimal_policy
from rlkl.policies import AnyPolicy, Fixed, Policy, table_of
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, at_last, enumerate_all
from rlkl.tasks import Card
from rlkl.tasks.automaton import Task


def resolve_shaping(chosen: settings.Settings, card: Card) -> settings.RewardShapingSettings:
    """Check what goes with a shaped reward, and fill in the recovered typicality weight."""
    given, task = chosen.reward_shaping, card.task
    if given.name == "typicality" and given.weight is None:
        told = card.facts.get("recovered_typicality")
        if told is None:
            rule = "needs a number: this task has no preferences that tell one (task=preference/...)"
            raise SettingsError("reward_shaping.weight", "null", rule)
        return dataclasses.replace(given, weight=float(told))
    if given.name != "mara":
        return given
    if given.threshold is None:
        raise SettingsError("reward_shaping.threshold", "null", "mara needs the reward from which outcomes are to be alike")
    best = float(np.max(np.asarray(task.reward)[task.automaton.outcomes]))
    if float(task.typicality) == 0.0 and task.reward_model is None and best < given.threshold:
        raise SettingsError(
            "reward_shaping.threshold", given.threshold, f"no outcome earns it; the largest reward is {best:.6g}"
        )
    if chosen.penalty.divergence not in ("kl_pi_ref", "kl_ref_pi"):
        rule = "is of KL(pi‖pi_ref) and KL(pi_ref‖pi) (penalty=reverse_kl, forward_kl)"
        raise SettingsError("reward_shaping", "mara", rule)
    moves = chosen.reference.name != "task" or chosen.reference.update != "none"
    network = chosen.policy.name in policies.REGISTRY and policies.REGISTRY[chosen.policy.name].network
    if given.variant == 2 and network and moves and not by_batch(given, task):
        raise SettingsError("reward_shaping.variant", 2, "flattens the reference, which must be a table (reference=task does)")
    return given


def by_batch(chosen: settings.RewardShapingSettings, task: Task) -> bool:
    """Whether mara goes by each batch: where the sequences are too many to list."""
    return chosen.name == "mara" and task.automaton.horizon > 1 and not task.automaton.is_enumerable


def shaped(chosen: settings.RewardShapingSettings, objective: Objective) -> Objective:
    """The objective with its reward shaped; `resolve_shaping` checked that the settings go together."""
    task = objective.task
    if chosen.name == "typicality":
        own = jnp.asarray(task.typicality)
        reward = dataclasses.replace(task, typicality=own - jnp.asarray(chosen.weight, own.dtype))
        return dataclasses.replace(objective, task=reward)
    if chosen.name == "mara" and not by_batch(chosen, task):
        return _mara(chosen, objective)
    return objective


def _mara(chosen: settings.RewardShapingSettings, objective: Objective) -> Objective:
    """Mode-anchored reward augmentation (GX-Chen et al. 2025, "KL-regularized reinforcement learning is designed to mode
    collapse", arXiv 2510.20817) on an automaton where each sequence has its own end state.

    The anchor z is the reference's likeliest sequence, of all (not of a batch), whose reward R reaches the threshold. Of each
    sequence y that does, variant 1 makes the reward R(z) + beta (log pi_ref(z) - log pi_ref(y)); variant 2 makes it R(z), and
    the reference pi_ref(z), which then sums to more than 1: KL(p‖pi) of p = Z q is Z KL(q‖pi) plus a constant, and KL(pi‖p)
    KL(pi‖q) plus one.
    """
    task, reference, beta, div = objective.task, objective.reference, objective.beta, objective.divergence
    log_p = end_log_probability(task, reference)
    level, gap = _anchored(chosen, _whole_reward(task), log_p)
    still = dataclasses.replace(task, typicality=jnp.zeros_like(jnp.asarray(task.typicality)))
    if chosen.variant == 1:
        return dataclasses.replace(objective, task=dataclasses.replace(still, reward=level + beta * gap))
    automaton = task.automaton
    tilt = jnp.where(automaton.ends, gap[np.maximum(automaton.next_state, 0)][None], 0.0)
    flattened = Fixed(optimal_policy.pull_back(automaton, table_of(reference) + tilt), automaton.horizon)
    total = jnp.exp(jax.nn.logsumexp(log_p + gap))
    weight = beta * total if div is not None and div.name == "kl_ref_pi" else beta
    return dataclasses.replace(objective, task=dataclasses.replace(still, reward=level), reference=flattened, beta=weight)


def _anchored(
    chosen: settings.RewardShapingSettings, reward: Float[Array, " N"], log_p: Float[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Of sequences with these rewards and log pi_ref: R(z) in place of the rewards that reach the threshold, and by how much
    log pi_ref(z) is above log pi_ref of each such sequence (0 elsewhere), z the likeliest of them."""
    above = (reward >= jnp.asarray(chosen.threshold, reward.dtype)) & (log_p > -jnp.inf)
    anchor = jnp.argmax(jnp.where(above, log_p, -jnp.inf))
    gap = jnp.where(above, log_p[anchor] - jnp.where(above, log_p, 0.0), 0.0)
    return jnp.where(above, reward[anchor], reward), gap


def on_batch(
    chosen: settings.Settings,
    beta: Float[Array, ""] | float,
    earned: Float[Array, "N T"],
    log_pi: Float[Array, " N"],
    log_ref: Float[Array, " N"],
    batch: Batch,
) -> Float[Array, "N T"]:
    """What the tokens of a batch earn in place of the reward under mode-anchored reward augmentation, the anchor being the
    batch's own, as published.

    Variant 2 has pi_ref(z) in place of pi_ref(y): under KL(pi‖pi_ref) that is variant 1, and the gradient of
    -beta KL(pi_ref‖pi) is that of the reward beta pi_ref(y)/pi(y), held fixed, to which the difference is added here.
    """
    level, gap = _anchored(chosen.reward_shaping, jnp.sum(earned, axis=1), log_ref)
    if chosen.reward_shaping.variant == 2 and chosen.penalty.divergence == "kl_ref_pi":
        gap = jnp.expm1(gap) * jnp.exp(log_ref - log_pi)
    return at_last(batch, level + beta * gap)


def end_log_probability(task: Task, policy: AnyPolicy) -> Float[Array, " S"]:
    """log-probability of each end state, where each sequence has its own; -inf of every other state."""
    automaton = task.automaton
    if isinstance(policy, Policy) and automaton.horizon == 1:
        row = policy.table()[0, automaton.start]
        ends, found = automaton.next_state[automaton.start], row
    else:
        listed = enumerate_all(automaton)
        ends, found = listed.states[:, -1], scoring.log_probability(policy, listed)
    kept = jnp.asarray(np.where(ends >= 0, ends, automaton.states))  # an illegal token leads past the last state
    return jnp.full((automaton.states + 1,), -jnp.inf, found.dtype).at[kept].set(found)[:-1]


def _whole_reward(task: Task) -> Float[Array, " S"]:
    """The reward of each end state, the typicality reward included."""
    reward, weight = jnp.asarray(task.reward), jnp.asarray(task.typicality)
    log_p = end_log_probability(task, Fixed(jnp.asarray(task.log_reference), task.automaton.horizon))
    typical = jnp.where((weight == 0.0) | (log_p == -jnp.inf), 0.0, weight * jnp.where(log_p == -jnp.inf, 0.0, log_p))
    return reward + typical
