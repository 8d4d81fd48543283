"""Check the settings of groups of samples, of scaled advantages and of the utility that they maximise."""

import dataclasses

import numpy as np

from rlkl import algorithms, policies, settings, tasks
from rlkl.errors import SettingsError
from rlkl.penalties import options


def batch_size(run_settings: settings.Settings, default: int) -> int:
    """Return the batch size: by default the largest multiple of the group size up to `default`, or one group.

    Raises `SettingsError` where the group size does not divide it.
    """
    size = run_settings.algorithm.group_size
    if run_settings.batch_size is None:
        return default if size is None else max(size, default // size * size)
    if size is not None and run_settings.batch_size % size:
        rule = f"must divide the {run_settings.batch_size} sequences of a batch (batch_size)"
        raise SettingsError("algorithm.group_size", size, rule)
    return run_settings.batch_size


def resolve_groups(run_settings: settings.Settings, size_of_batch: int | None) -> settings.AlgorithmSettings:
    """Fill in the unset settings of groups and of scaled advantages; raises `SettingsError` for those without effect."""
    algorithm, utility = run_settings.algorithm, run_settings.objective == "utility"
    registered = algorithms.REGISTRY.get(algorithm.name)
    if registered is None:
        exact_utility = utility and algorithm.name == "exact"
        unused = {"scale_advantages": algorithm.scale_advantages}
        unused |= {} if exact_utility else {"group_size": algorithm.group_size, "std": algorithm.std}
        for key, value in unused.items():
            if value is not None:
                raise SettingsError(
                    f"algorithm.{key}", value, f"is of sampled algorithms; algorithm={algorithm.name} draws none"
                )
        if algorithm.zero_std != "keep":
            raise SettingsError("algorithm.zero_std", algorithm.zero_std, "is of sampled algorithms, which draw groups")
        if algorithm.pass_k is not None and not exact_utility:
            rule = "is of sampled algorithms, and of algorithm=exact with objective=utility"
            raise SettingsError("algorithm.pass_k", algorithm.pass_k, rule)
        if algorithm.pass_k is not None and (algorithm.group_size is not None or algorithm.std is not None):
            key = "std" if algorithm.group_size is None else "group_size"
            rule = f"does not change the exact pass@k (algorithm.pass_k={algorithm.pass_k})"
            raise SettingsError(f"algorithm.{key}", getattr(algorithm, key), rule)
        if exact_utility and algorithm.group_size is None and algorithm.std is not None:
            raise SettingsError("algorithm.std", algorithm.std, "is one and the same for the infinite group of group_size=null")
        if exact_utility and algorithm.group_size == 1:
            raise SettingsError("algorithm.group_size", 1, "must be at least 2: samples of a group are compared")
        std = "sample" if exact_utility and algorithm.group_size is not None else None
        return dataclasses.replace(algorithm, std=algorithm.std or std)
    size = algorithm.group_size or size_of_batch
    assert size is not None
    scale = algorithm.scale_advantages or registered.scale
    least = 2 if scale != "none" or algorithm.zero_std != "keep" else registered.smallest_group
    if size < least:
        raise SettingsError("algorithm.group_size", size, f"must be at least {least}: samples of a group are compared")
    if algorithm.pass_k is not None and algorithm.pass_k > size:
        raise SettingsError("algorithm.pass_k", algorithm.pass_k, f"must be at most the {size} samples of a group")
    if algorithm.pass_k is not None and scale != "none":
        rule = "weighs advantages that are divided by nothing: algorithm=rloo, or algorithm.scale_advantages=none"
        raise SettingsError("algorithm.pass_k", algorithm.pass_k, rule)
    if algorithm.std is not None and scale == "none":
        raise SettingsError("algorithm.std", algorithm.std, "divides no advantages here (algorithm.scale_advantages=none)")
    std = None if scale == "none" else algorithm.std or "sample"
    return dataclasses.replace(algorithm, group_size=size, scale_advantages=scale, std=std)


def has_two_rewards(task: tasks.Task) -> bool:
    """Whether the rewards are a success and a failure: two values, and no reward for typical text."""
    rewards = np.unique(np.asarray(task.reward)[task.automaton.outcomes])
    return rewards.size == 2 and float(task.typicality) == 0.0 and task.reward_model is None


def check_pass_at_k(run_settings: settings.Settings, task: tasks.Task) -> None:
    """Check that resolved settings can train for pass@k (algorithm.pass_k); raises `SettingsError`."""
    if run_settings.algorithm.pass_k is None or run_settings.algorithm.name in algorithms.EXACT:
        return

    def refuse(rule: str) -> SettingsError:
        return SettingsError("algorithm.pass_k", run_settings.algorithm.pass_k, rule)

    if not has_two_rewards(task) or set(np.asarray(task.reward)[task.automaton.outcomes]) != {0.0, 1.0}:
        raise refuse("counts successes: rewards must be 0 and 1")
    if run_settings.reward_shaping.name != "none":
        raise refuse(f"counts successes by the task's own reward; reward_shaping={run_settings.reward_shaping.name} changes it")
    if run_settings.penalty.divergence != "none" and run_settings.penalty.placement == "reward":
        raise refuse("would weigh a penalty in the reward, too: penalty.placement=loss")


def check_utility(run_settings: settings.Settings, task: tasks.Task) -> None:
    """Check that resolved settings train a utility of the success probability (objective=utility); raises `SettingsError`."""
    if run_settings.objective != "utility":
        return
    algorithm, penalty, automaton = run_settings.algorithm, run_settings.penalty, task.automaton

    def refuse(rule: str) -> SettingsError:
        return SettingsError("objective", "utility", rule)

    if not has_two_rewards(task):
        count = np.unique(np.asarray(task.reward)[automaton.outcomes]).size
        raise refuse(f"needs a reward of two values, a success and a failure; this task's has {count} values or more")
    if penalty.divergence == "none":
        raise refuse("is maximised by every policy without failures where there is no penalty (penalty=reverse_kl has one)")
    div = options.divergence(penalty)
    if div is not None and div.root:
        raise refuse(f"is graded under the f-divergences, and {div.formula} is the root of one")
    network = policies.REGISTRY[run_settings.policy.name].network or run_settings.reference.name == "pretrained"
    if network and not automaton.is_enumerable:
        raise refuse(f"needs exact success probabilities, and {automaton.unlisted} for policy={run_settings.policy.name}")
    if run_settings.reward_shaping.name != "none":
        raise refuse(f"is of the task's own reward; reward_shaping={run_settings.reward_shaping.name} changes it")
    if algorithm.name == "exact":
        return
    registered = algorithms.REGISTRY.get(algorithm.name)
    standardised = registered is not None and registered.factor is algorithms.centring_factor
    standardised = standardised and algorithm.scale_advantages == "group"
    weighted = registered is not None and registered.factor is None and algorithm.pass_k is not None
    if not (standardised or weighted):
        rule = "is of advantages divided by their group's standard deviation (algorithm=grpo), or of algorithm=exact"
        raise refuse(rule + ", or of pass@k (algorithm=rloo with algorithm.pass_k)")
    if penalty.placement == "reward":
        raise refuse("is of a penalty in the loss: one in the reward is divided by the standard deviation, too")
    if algorithm.zero_std != "keep":
        raise refuse(f"counts groups of equal rewards; algorithm.zero_std={algorithm.zero_std} leaves them out")
    if algorithm.loss_aggregation != settings.AGGREGATIONS[0] and automaton.horizon > 1:
        raise refuse(f"sums over the tokens of a sequence: algorithm.loss_aggregation={settings.AGGREGATIONS[0]}")
