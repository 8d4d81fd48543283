"""Shaped rewards against the loss of diversity: training uses them, while grades use the task's own reward."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import algorithms, policies, settings
from rlkl.errors import SettingsError
from rlkl.exact import Objective, optimal_policy, utility
from rlkl.policies import AnyPolicy, Fixed, Policy, table_of
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, at_last_token, enumerate_all
from rlkl.tasks import Card
from rlkl.tasks.automaton import Task
from rlkl.training.likelihood_rewards import REWARDS


def resolve_shaping(run_settings: settings.Settings, card: Card) -> settings.RewardShapingSettings:
    """Check a shaped reward against the task and the other settings, and fill in the recovered typicality weight."""
    shaping, task = run_settings.reward_shaping, card.task
    if shaping.name == "typicality" and shaping.weight is None:
        recovered = card.facts.get("recovered_typicality")
        if recovered is None:
            rule = "needs a number: this task has no preferences that tell one (task=preference/...)"
            raise SettingsError("reward_shaping.weight", "null", rule)
        return dataclasses.replace(shaping, weight=float(recovered))
    if shaping.name in REWARDS:
        _check_likelihood_reward(run_settings, task)
    if shaping.name != "mara":
        return shaping
    if task.automaton.prompts > 1:
        raise SettingsError("reward_shaping", "mara", "has one anchor, and this task has several prompts")
    if shaping.threshold is None:
        raise SettingsError("reward_shaping.threshold", "null", "mara needs the reward from which outcomes are to be alike")
    best = float(np.max(np.asarray(task.reward)[task.automaton.outcomes]))
    if float(task.typicality) == 0.0 and task.reward_model is None and best < shaping.threshold:
        raise SettingsError(
            "reward_shaping.threshold", shaping.threshold, f"no outcome earns it; the largest reward is {best:.6g}"
        )
    if run_settings.penalty.divergence not in ("kl_pi_ref", "kl_ref_pi"):
        rule = "is of KL(pi‖pi_ref) and KL(pi_ref‖pi) (penalty=reverse_kl, forward_kl)"
        raise SettingsError("reward_shaping", "mara", rule)
    moves = run_settings.reference.name != "task" or run_settings.reference.update != "none"
    network = run_settings.policy.name in policies.REGISTRY and policies.REGISTRY[run_settings.policy.name].network
    if shaping.variant == 2 and network and moves and not by_batch(shaping, task):
        raise SettingsError("reward_shaping.variant", 2, "flattens the reference, which must be a table (reference=task does)")
    return shaping


def _check_likelihood_reward(run_settings: settings.Settings, task: Task) -> None:
    """Check that a reward that reads the policy's log-probabilities has samples, successes and a weight."""
    name, weight = run_settings.reward_shaping.name, run_settings.reward_shaping.weight
    if run_settings.algorithm.name in algorithms.EXACT:
        rule = f"reads the log-probabilities of samples, and algorithm={run_settings.algorithm.name} draws none (rloo does)"
        raise SettingsError("reward_shaping", name, rule)
    if weight is None or (name == "unlikeliness" and not 0.0 <= weight <= 1.0):
        rule = "must be a number from 0 to 1" if name == "unlikeliness" else "must be a number"
        raise SettingsError("reward_shaping.weight", "null" if weight is None else weight, rule)
    if np.unique(np.asarray(task.reward)[task.automaton.outcomes]).size != 2 or task.reward_model is not None:
        raise SettingsError("reward_shaping", name, "is of successes, and needs a reward of two values")


def by_batch(shaping: settings.RewardShapingSettings, task: Task) -> bool:
    """Whether rewards are shaped batch by batch: by the policy's log-probabilities, or by mara with its anchor from each batch,
    where the sequences are too many to enumerate."""
    many = task.automaton.horizon > 1 and not task.automaton.is_enumerable
    return shaping.name in REWARDS or (shaping.name == "mara" and many)


def shaped(shaping: settings.RewardShapingSettings, objective: Objective) -> Objective:
    """The objective with its reward shaped; `resolve_shaping` has checked the settings.

    Where `by_batch` holds, it is returned as it is: `on_batch` shapes the rewards of each batch.
    """
    task = objective.task
    if shaping.name == "typicality":
        typicality = jnp.asarray(task.typicality)
        task = dataclasses.replace(task, typicality=typicality - jnp.asarray(shaping.weight, typicality.dtype))
        return dataclasses.replace(objective, task=task)
    if shaping.name == "mara" and not by_batch(shaping, task):
        return _mara_objective(shaping, objective)
    return objective


def _mara_objective(shaping: settings.RewardShapingSettings, objective: Objective) -> Objective:
    """The objective of mode-anchored reward augmentation, where each sequence has its own end state (GX-Chen et al. 2025,
    "KL-regularized reinforcement learning is designed to mode collapse", arXiv 2510.20817).

    The anchor z is the reference's likeliest sequence whose reward R reaches the threshold, among all sequences. For each
    sequence y whose reward reaches it, variant 1 replaces the reward by R(z) + beta (log pi_ref(z) - log pi_ref(y)). Variant 2
    replaces the reward by R(z) and pi_ref(y) by pi_ref(z). That reference p = Z q sums to Z, which is more than 1:
    KL(p‖pi) is Z KL(q‖pi) plus a constant, and KL(pi‖p) is KL(pi‖q) plus a constant.
    """
    task, reference, beta, div = objective.task, objective.reference, objective.beta, objective.divergence
    log_p = end_log_probability(task, reference)
    reward, gap = _anchor(shaping, _total_reward(task), log_p)
    plain = dataclasses.replace(task, typicality=jnp.zeros_like(jnp.asarray(task.typicality)))
    if shaping.variant == 1:
        return dataclasses.replace(objective, task=dataclasses.replace(plain, reward=reward + beta * gap))
    automaton = task.automaton
    tilt = jnp.where(automaton.ends, gap[np.maximum(automaton.next_state, 0)][None], 0.0)
    flattened = Fixed(optimal_policy.pull_back(automaton, table_of(reference) + tilt), automaton.horizon)
    total = jnp.exp(jax.nn.logsumexp(log_p + gap))
    weight = beta * total if div is not None and div.name == "kl_ref_pi" else beta
    return dataclasses.replace(objective, task=dataclasses.replace(plain, reward=reward), reference=flattened, beta=weight)


def _anchor(
    shaping: settings.RewardShapingSettings, reward: Float[Array, " N"], log_p: Float[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Replace the rewards that reach the threshold by R(z); also returns the gaps log pi_ref(z) - log pi_ref(y).

    reward, log_p: reward and log pi_ref of each sequence. The anchor z is the likeliest sequence whose reward reaches the
    threshold. For a sequence y whose reward does not, the reward is kept and the gap is 0.
    """
    above = (reward >= jnp.asarray(shaping.threshold, reward.dtype)) & (log_p > -jnp.inf)
    anchor = jnp.argmax(jnp.where(above, log_p, -jnp.inf))
    gap = jnp.where(above, log_p[anchor] - jnp.where(above, log_p, 0.0), 0.0)
    return jnp.where(above, reward[anchor], reward), gap


def on_batch(
    run_settings: settings.Settings,
    task: Task,
    beta: Float[Array, ""] | float,
    rewards: Float[Array, "N T"],
    log_pi: Float[Array, " N"],
    log_ref: Float[Array, " N"],
    batch: Batch,
) -> Float[Array, "N T"]:
    """The rewards of a batch as `likelihood_rewards` change them, or as mode-anchored reward augmentation does.

    log_pi, log_ref: of whole sequences. The augmentation has the batch's own anchor, as published. Its variant 2 replaces
    pi_ref(y) by pi_ref(z). Under KL(pi‖pi_ref) this is variant 1. The gradient of -beta KL(pi_ref‖pi) is that of a reward
    beta pi_ref(y)/pi(y), held fixed; its change is added here.
    """
    shaping = run_settings.reward_shaping
    if shaping.name in REWARDS:
        success = utility.successes(task)[jnp.asarray(batch.states)[:, -1]].astype(log_pi.dtype)
        return rewards + at_last_token(batch, REWARDS[shaping.name](shaping.weight, log_pi, success, batch))
    reward, gap = _anchor(shaping, jnp.sum(rewards, axis=1), log_ref)
    if shaping.variant == 2 and run_settings.penalty.divergence == "kl_ref_pi":
        gap = jnp.expm1(gap) * jnp.exp(log_ref - log_pi)
    return at_last_token(batch, reward + beta * gap)


def end_log_probability(task: Task, policy: AnyPolicy) -> Float[Array, " S"]:
    """The log-probability of each end state, where each sequence has its own; -inf for all other states."""
    automaton = task.automaton
    if isinstance(policy, Policy) and automaton.horizon == 1:
        start = int(automaton.starts[0])
        ends, log_pi = automaton.next_state[start], policy.table()[0, start]
    else:
        listed = enumerate_all(automaton)
        ends, log_pi = listed.states[:, -1], scoring.log_probability(policy, listed)
    end = jnp.asarray(np.where(ends >= 0, ends, automaton.states))  # an illegal token leads past the last state
    return jnp.full((automaton.states + 1,), -jnp.inf, log_pi.dtype).at[end].set(log_pi)[:-1]


def _total_reward(task: Task) -> Float[Array, " S"]:
    """The reward of each end state, including the typicality reward."""
    reward, weight = jnp.asarray(task.reward), jnp.asarray(task.typicality)
    log_p = end_log_probability(task, Fixed(jnp.asarray(task.log_reference), task.automaton.horizon))
    impossible = log_p == -jnp.inf
    return reward + jnp.where((weight == 0.0) | impossible, 0.0, weight * jnp.where(impossible, 0.0, log_p))
