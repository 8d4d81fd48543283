"""Preference tasks: the reward of any bandit or sequence task is replaced by a reward model fitted to preferences."""

import dataclasses
from typing import Any

import numpy as np
import scipy

from rlkl.errors import SettingsError
from rlkl.tasks.automaton import Task
from rlkl.tasks.checks import choice, fits, number, whole
from rlkl.tasks.preferences import annotators, bradley_terry, reward_network
from rlkl.tasks.preferences.annotators import Preferences
from rlkl.tasks.preferences.reward_network import RewardNetwork
from rlkl.tasks.registry import Card, build, register
from rlkl.tasks.transforms import unfold

MODELS = ("tabular", "features", "network")
MOMENTS = 2**16  # sample size for the reward's mean and standard deviation where sequences cannot be enumerated
FLAT = 1e-12  # standard deviation below which a reward counts as constant


@register("preference/any")
def preference(
    base,
    pairs=1000,
    typicality=0.0,
    temperature=1.0,
    model="tabular",
    ridge=0.01,
    standardise=False,
    width=32,
    fit_steps=1000,
    seed=0,
) -> Card:
    """A reward fitted to `pairs` preferences (null: infinitely many) between sequences of the reference. It replaces the reward
    of the task `base`, which becomes the gold reward.

    Annotators follow a Bradley-Terry model with scores (gold + `typicality` log pi_ref)/`temperature`. The reward model is
    fitted by maximum likelihood. It is tabular (a value for each end state), features (these and a coefficient on log pi_ref)
    or network (a recurrent network of `width` units over the tokens, trained for `fit_steps` steps). The first two have a
    penalty of `ridge`/2 times the sum of squares, so that the fit to separated pairs is finite (0: no penalty); an end state in
    no pair gets the mean of all values. The reward is `temperature` times the fitted score, shifted to mean 0 under the
    reference and, with `standardise`, scaled to standard deviation 1. For a network over more sequences than can be enumerated,
    both are estimated from 65,536 samples, and only sampled algorithms can train on it. On a task with several prompts both
    sequences of a pair answer one prompt, and a network's rewards are refused: it reads no prompt.
    """
    card = _base(base, choice("task.model", model, MODELS))
    preferences = Preferences(number("task.typicality", typicality), number("task.temperature", temperature, above=0.0))
    seed, ridge = whole("task.seed", seed, at_least=0), number("task.ridge", ridge, at_least=0.0)
    sizes = whole("task.width", width, at_least=1), whole("task.fit_steps", fit_steps, at_least=1)
    fits("task.width", width, 6 * sizes[0] ** 2)
    fits("task.fit_steps", fit_steps, 3 * sizes[1] * reward_network.BATCH)
    if not isinstance(standardise, bool):
        raise SettingsError("task.standardise", standardise, "must be true or false")
    if pairs is not None:
        fits("task.pairs", pairs, 2 * whole("task.pairs", pairs, at_least=1) * card.task.automaton.horizon)
        preferences = annotators.ask(card.task, preferences, whole("task.pairs", pairs, at_least=1), seed)
    task = card.task
    task = _by_network(task, preferences, *sizes, seed) if model == "network" else _by_values(task, preferences, model, ridge)
    task, factor = _centred(task, standardise, seed)
    preferences = dataclasses.replace(preferences, scale=factor / preferences.temperature)
    return dataclasses.replace(
        card, task=task, preferences=preferences, facts=card.facts | _facts(card, task, preferences, base, model)
    )


def _base(base: Any, model: str) -> Card:
    """The card of the base task with its reward as gold reward; for a network, on the tree of its prefixes."""
    if not isinstance(base, dict) or not isinstance(base.get("name"), str):
        raise SettingsError("task.base", base, "must hold a task's name and options, as in task.base.name=bandit/words")
    options = {key: value for key, value in base.items() if key not in ("name", "export")}
    for key, value in options.items():
        if isinstance(value, str) and value == "???":
            raise SettingsError(f"task.base.{key}", "", "needs a value")
    if base["name"].startswith("preference"):
        raise SettingsError("task.base.name", base["name"], "must be a task with a reward of its own")
    try:
        card = build(base["name"], **options)
    except SettingsError as error:
        raise SettingsError(error.key.replace("task.", "task.base.", 1), error.value, error.allowed) from None
    if float(card.task.typicality) != 0.0:
        rule = "must be 0: the annotators' is task.typicality"
        raise SettingsError("task.base.typicality", float(card.task.typicality), rule)
    if model == "features" and card.task.automaton.horizon == 1:
        rule = "a bandit's log pi_ref is a function of the arm, whose own value holds it (task.model=tabular)"
        raise SettingsError("task.model", "features", rule)
    if model == "network" and card.task.automaton.prompts > 1:
        raise SettingsError("task.model", "network", "reads the tokens of a sequence and not its prompt; tabular can be fitted")
    card = dataclasses.replace(card, task=annotators.under_gold(card.task))
    return unfold(card, "task.model", "network") if model == "network" else card


def _by_values(task: Task, preferences: Preferences, model: str, ridge: float) -> Task:
    """The task with a tabular reward or, for `features`, a tabular reward and a coefficient on log pi_ref."""
    features = model == "features"
    automaton, gold = task.automaton, np.asarray(task.gold)
    if preferences.pairs is None and (
        features or preferences.typicality == 0.0
    ):  # the model contains the truth, so the fit is exact
        return dataclasses.replace(task, reward=gold, typicality=np.asarray(preferences.typicality))
    if preferences.pairs is None and automaton.horizon == 1:
        return dataclasses.replace(task, reward=_of_arms(task, preferences))
    judged_pairs = preferences if preferences.pairs is not None else annotators.every_pair(task, preferences)
    sequences, pairs = judged_pairs.sequences, judged_pairs.pairs
    assert sequences is not None
    assert pairs is not None
    covariates = sequences.log_reference[:, None] if features else np.zeros((len(sequences.end), 0))
    fit = bradley_terry.fit(pairs, sequences.end, automaton.states, covariates, 0.0 if preferences.pairs is None else ridge)
    if fit is None:
        rule = "the pairs are separated, or leave end states uncompared: no finite fit is the most likely; take it above 0"
        raise SettingsError("task.ridge", ridge, rule)
    reward = preferences.temperature * fit.values
    return dataclasses.replace(task, reward=reward, typicality=np.asarray(preferences.temperature * fit.coefficients.sum()))


def _of_arms(task: Task, preferences: Preferences) -> np.ndarray:
    """The tabular fit of a bandit to infinitely many answers; an arm that the reference never draws gets their mean."""
    automaton = task.automaton
    prompt, token = np.nonzero(automaton.legal[automaton.starts])
    arms = annotators.read_sequences(task, token[:, None].astype(np.int32), prompt)
    drawn = arms.log_reference > -np.inf
    scores = np.zeros(len(drawn))
    scores[drawn] = preferences.temperature * preferences.scores(task, arms.select(drawn))
    for each in range(automaton.prompts):
        answers = arms.prompt == each
        scores[answers & ~drawn] = scores[answers & drawn].mean()
    reward = np.zeros(automaton.states)
    reward[arms.end] = scores
    return reward


def _by_network(task: Task, preferences: Preferences, width: int, steps: int, seed: int) -> Task:
    """The task with a network's score as reward: a reward of end states where sequences can be enumerated."""
    automaton = task.automaton
    if not automaton.is_enumerable:
        reader = _reader(task, preferences, width, steps, seed)
        return dataclasses.replace(task, reward=np.zeros(automaton.states), reward_model=reader)
    sequences = annotators.every_sequence(task, "task.model", "network")
    if preferences.pairs is None or preferences.sequences is None:
        batches = reward_network.from_sequences(
            np.exp(sequences.log_reference), preferences.scores(task, sequences), steps, seed
        )
    else:
        index = np.zeros(automaton.states, int)
        index[sequences.end] = np.arange(len(sequences.end))
        drawn = index[preferences.sequences.end]
        pairs = preferences.pairs._replace(first=drawn[preferences.pairs.first], second=drawn[preferences.pairs.second])
        batches = reward_network.from_pairs(pairs, steps, seed)
    mask = _mask(task, sequences.tokens)
    model = reward_network.fit_network(sequences.tokens, mask, automaton.vocabulary, batches, width, seed)
    reward = np.zeros(automaton.states)
    reward[sequences.end] = preferences.temperature * reward_network.scores(model, sequences.tokens, mask)
    return dataclasses.replace(task, reward=reward)


def _reader(task: Task, preferences: Preferences, width: int, steps: int, seed: int) -> RewardNetwork:
    """The trained network, for a task with too many sequences to enumerate; without pairs, each step samples new ones."""
    automaton = task.automaton
    if preferences.pairs is None or preferences.sequences is None:
        count = steps * reward_network.BATCH
        fits("task.fit_steps", steps, 2 * count * automaton.horizon)
        sequences = annotators.sample_pairs(task, count, np.random.default_rng((seed, 3)))
        first, second = np.arange(2 * count).reshape(2, steps, reward_network.BATCH)
        scores = preferences.scores(task, sequences)
        batches = reward_network.Batches(first, second, scipy.special.expit(scores[first] - scores[second]))
    else:
        sequences = preferences.sequences
        batches = reward_network.from_pairs(preferences.pairs, steps, seed)
    model = reward_network.fit_network(
        sequences.tokens, _mask(task, sequences.tokens), automaton.vocabulary, batches, width, seed
    )
    return model.mapped(preferences.temperature, 0.0)


def _mask(task: Task, tokens: np.ndarray) -> np.ndarray:
    """Bool["M T"]: the tokens up to the end of each sequence."""
    return task.automaton.walk(tokens)[:, :-1] < task.automaton.decisions


def _centred(task: Task, standardise: bool, seed: int) -> tuple[Task, float]:
    """The task with its reward shifted to mean 0 under the reference, and the factor that the reward was divided by."""
    network = task.reward_model if isinstance(task.reward_model, RewardNetwork) else None
    if network is None:
        mean, spread = moments(task)
    else:
        prompt = np.zeros(MOMENTS, int)
        tokens = annotators.sample_reference(task, MOMENTS, np.random.default_rng((seed, 1)), prompt)
        scores = reward_network.scores(network, tokens, _mask(task, tokens))
        mean, spread = float(scores.mean()), float(scores.std())
    factor = spread if standardise else 1.0
    if factor < FLAT:
        raise SettingsError("task.standardise", True, "the fitted reward is the same everywhere")
    if network is not None:
        return dataclasses.replace(task, reward_model=network.mapped(1.0 / factor, -mean / factor)), factor
    ends = np.isin(np.arange(task.automaton.states), task.automaton.outcomes)
    reward = np.where(ends, (np.asarray(task.reward) - mean) / factor, 0.0)
    return dataclasses.replace(task, reward=reward, typicality=np.asarray(float(task.typicality) / factor)), factor


def moments(task: Task) -> tuple[float, float]:
    """Mean and standard deviation of a sequence's reward under the reference, by a backward recursion over tokens.

    The typicality reward is included.
    """
    automaton, log_reference = task.automaton, np.asarray(task.log_reference)
    p = np.exp(log_reference)
    typical = np.where(p > 0.0, float(task.typicality) * np.where(p > 0.0, log_reference, 0.0), 0.0)
    final = np.asarray(task.reward)[np.maximum(automaton.next_state, 0)]
    first, second = np.zeros(automaton.decisions + 1), np.zeros(automaton.decisions + 1)
    for t in range(automaton.horizon - 1, -1, -1):
        ends = automaton.ends_at(t)
        earned = np.where(ends, final, 0.0) + typical
        ahead, squares = (np.where(ends, 0.0, x[automaton.inner_next]) for x in (first, second))
        first = np.append((p * (earned + ahead)).sum(axis=1), 0.0)
        second = np.append((p * (earned**2 + 2.0 * earned * ahead + squares)).sum(axis=1), 0.0)
    mean, square = (automaton.prompt_weights @ moment[automaton.starts] for moment in (first, second))
    return float(mean), float(np.sqrt(max(0.0, square - mean**2)))


def _facts(card: Card, task: Task, preferences: Preferences, base: dict[str, Any], model: str) -> dict[str, Any]:
    """The metadata that a run records about its preference task."""
    facts: dict[str, Any] = {
        "gold_task": base["name"],
        "pairs": "inf" if preferences.pairs is None else len(preferences.pairs.first),
        "annotators_typicality": preferences.typicality,
        "annotators_temperature": preferences.temperature,
        "reward_model": model,
    }
    if model == "features":
        facts["reward_model_typicality"] = float(task.typicality)
    if preferences.sequences is not None:
        facts["unseen_outcomes"] = len(np.setdiff1d(task.automaton.outcomes, preferences.sequences.end))
    estimate = annotators.recovered(card.task, preferences)
    if estimate is None:
        return facts | {
            "recovered_typicality": None,
            "recovered_typicality_reason": "no two sequences differ in log pi_ref, or the pairs are separated",
        }
    return (
        facts
        | {"recovered_typicality": estimate[0]}
        | ({"recovered_typicality_stderr": estimate[1]} if estimate[1] > 0.0 else {})
    )
