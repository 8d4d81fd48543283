"""RLHF in miniature: a reward model fitted to preferences, over any bandit or sequence task."""

import dataclasses
from typing import Any

import numpy as np
import scipy

from rlkl.errors import SettingsError
from rlkl.tasks.automaton import MOST_SEQUENCES, Task
from rlkl.tasks.checks import choice, fits, number, whole
from rlkl.tasks.preferences import annotators, bradley_terry, reward_network
from rlkl.tasks.preferences.annotators import Preferences
from rlkl.tasks.preferences.reward_network import RewardNetwork
from rlkl.tasks.registry import Card, build, register
from rlkl.tasks.transforms import unfold

MODELS = ("tabular", "features", "network")
MOMENTS = 2**16  # sequences of the reference, whose rewards are centred and scaled where they cannot be listed
FLAT = 1e-12  # a standard deviation at which there is nothing to standardise


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
    """A reward fitted to `pairs` preferences (null: infinitely many) between sequences of the reference, in place of the reward
    of the task `base`, which becomes the gold reward.

    The annotators prefer by (gold + `typicality` log pi_ref)/`temperature`, by Bradley-Terry. The model of their log-odds is
    tabular (a value for each end state), features (such a value, and a coefficient on log pi_ref of the sequence) or network
    (a recurrent one that reads the tokens, `width` units, `fit_steps` steps), fitted by maximum likelihood; `ridge`/2 times the
    sum of squares is taken off for the first two, so that separated pairs have a finite fit (0: none), and an end state in no
    pair gets the mean of all. The reward is `temperature` times the log-odds, its mean under the reference 0, and, where
    `standardise` is true, its standard deviation 1; of a network over more sequences than can be listed, both are taken over
    MOMENTS sequences of the reference, and samples alone can train for it.
    """
    card = _base(base, choice("task.model", model, MODELS))
    asked = Preferences(number("task.typicality", typicality), number("task.temperature", temperature, above=0.0))
    seed, ridge = whole("task.seed", seed, at_least=0), number("task.ridge", ridge, at_least=0.0)
    sizes = whole("task.width", width, at_least=1), whole("task.fit_steps", fit_steps, at_least=1)
    fits("task.width", width, 6 * sizes[0] ** 2)
    fits("task.fit_steps", fit_steps, 3 * sizes[1] * reward_network.BATCH)
    if not isinstance(standardise, bool):
        raise SettingsError("task.standardise", standardise, "must be true or false")
    if pairs is not None:
        fits("task.pairs", pairs, 2 * whole("task.pairs", pairs, at_least=1) * card.task.automaton.horizon)
        asked = annotators.ask(card.task, asked, whole("task.pairs", pairs, at_least=1), seed)
    task = card.task
    task = _by_network(task, asked, *sizes, seed) if model == "network" else _by_values(task, asked, model, ridge)
    task, factor = _centred(task, standardise, seed)
    asked = dataclasses.replace(asked, scale=factor / asked.temperature)
    return dataclasses.replace(card, task=task, preferences=asked, facts=card.facts | _facts(card, task, asked, base, model))


def _base(base: Any, model: str) -> Card:
    """The base task's card with its reward as gold; on the tree of its sequences where the reward will read them."""
    if not isinstance(base, dict) or not isinstance(base.get("name"), str):
        raise SettingsError("task.base", base, "must hold a task's name and options, as in task.base.name=bandit/words")
    chosen = {key: value for key, value in base.items() if key not in ("name", "export")}
    for key, value in chosen.items():
        if isinstance(value, str) and value == "???":
            raise SettingsError(f"task.base.{key}", "", "needs a value")
    if base["name"].startswith("preference"):
        raise SettingsError("task.base.name", base["name"], "must be a task with a reward of its own")
    try:
        card = build(base["name"], **chosen)
    except SettingsError as error:
        raise SettingsError(error.key.replace("task.", "task.base.", 1), error.value, error.allowed) from None
    if float(card.task.typicality) != 0.0:
        rule = "must be 0: the annotators' is task.typicality"
        raise SettingsError("task.base.typicality", float(card.task.typicality), rule)
    if model == "features" and card.task.automaton.horizon == 1:
        rule = "a bandit's log pi_ref is a function of the arm, whose own value holds it (task.model=tabular)"
        raise SettingsError("task.model", "features", rule)
    card = dataclasses.replace(card, task=annotators.under_gold(card.task))
    return unfold(card, "task.model", "network") if model == "network" else card


def _by_values(task: Task, asked: Preferences, model: str, ridge: float) -> Task:
    """The task under a value for each end state, and a coefficient on log pi_ref of `features`."""
    features = model == "features"
    automaton, gold = task.automaton, np.asarray(task.gold)
    if asked.pairs is None and (features or asked.typicality == 0.0):  # the model holds the truth, which all pairs tell
        return dataclasses.replace(task, reward=gold, typicality=np.asarray(asked.typicality))
    if asked.pairs is None and automaton.horizon == 1:
        return dataclasses.replace(task, reward=_of_arms(task, asked))
    laid = asked if asked.pairs is not None else annotators.every_pair(task, asked)
    sequences, judged = laid.sequences, laid.pairs
    assert sequences is not None
    assert judged is not None
    covariates = sequences.log_reference[:, None] if features else np.zeros((len(sequences.end), 0))
    fit = bradley_terry.fit(judged, sequences.end, automaton.states, covariates, 0.0 if asked.pairs is None else ridge)
    if fit is None:
        rule = "the pairs are separated, or leave end states uncompared: no finite fit is the most likely; take it above 0"
        raise SettingsError("task.ridge", ridge, rule)
    reward = asked.temperature * fit.values
    return dataclasses.replace(task, reward=reward, typicality=np.asarray(asked.temperature * fit.coefficients.sum()))


def _of_arms(task: Task, asked: Preferences) -> np.ndarray:
    """What infinitely many answers tell of a bandit's arms; an arm that the reference never draws gets the mean of the rest."""
    automaton = task.automaton
    every = annotators.read_sequences(task, np.flatnonzero(automaton.legal[automaton.start])[:, None].astype(np.int32))
    drawn = every.log_reference > -np.inf
    worth = np.zeros(len(drawn))
    worth[drawn] = asked.temperature * asked.scores(task, annotators.Read(*(x[drawn] for x in every)))
    worth[~drawn] = worth[drawn].mean()
    reward = np.zeros(automaton.states)
    reward[every.end] = worth
    return reward


def _by_network(task: Task, asked: Preferences, width: int, steps: int, seed: int) -> Task:
    """The task under a network's score of each sequence: on the tree of its sequences a reward of their end states."""
    automaton = task.automaton
    if automaton.sequences > MOST_SEQUENCES:
        reader = _reader(task, asked, width, steps, seed)
        return dataclasses.replace(task, reward=np.zeros(automaton.states), reward_model=reader)
    every = annotators.listed(task, "task.model", "network")
    if asked.pairs is None or asked.sequences is None:
        batches = reward_network.from_sequences(np.exp(every.log_reference), asked.scores(task, every), steps, seed)
    else:
        place = np.zeros(automaton.states, int)
        place[every.end] = np.arange(len(every.end))
        drawn = place[asked.sequences.end]
        given = asked.pairs._replace(first=drawn[asked.pairs.first], second=drawn[asked.pairs.second])
        batches = reward_network.from_pairs(given, steps, seed)
    mask = _mask(task, every.tokens)
    model = reward_network.fit_network(every.tokens, mask, automaton.vocabulary, batches, width, seed)
    reward = np.zeros(automaton.states)
    reward[every.end] = asked.temperature * reward_network.scores(model, every.tokens, mask)
    return dataclasses.replace(task, reward=reward)


def _reader(task: Task, asked: Preferences, width: int, steps: int, seed: int) -> RewardNetwork:
    """The network itself, where the sequences are too many to list; without given pairs each step draws new ones."""
    automaton = task.automaton
    if asked.pairs is None or asked.sequences is None:
        count = steps * reward_network.BATCH
        fits("task.fit_steps", steps, 2 * count * automaton.horizon)
        read = annotators.read_sequences(task, annotators.written(task, 2 * count, np.random.default_rng((seed, 3))))
        first, second = np.arange(2 * count).reshape(2, steps, reward_network.BATCH)
        worth = asked.scores(task, read)
        batches = reward_network.Batches(first, second, scipy.special.expit(worth[first] - worth[second]))
    else:
        read = asked.sequences
        batches = reward_network.from_pairs(asked.pairs, steps, seed)
    model = reward_network.fit_network(read.tokens, _mask(task, read.tokens), automaton.vocabulary, batches, width, seed)
    return model.mapped(asked.temperature, 0.0)


def _mask(task: Task, tokens: np.ndarray) -> np.ndarray:
    """Bool["M T"]: the tokens that sequences read."""
    return task.automaton.walk(tokens)[:, :-1] < task.automaton.decisions


def _centred(task: Task, standardise: bool, seed: int) -> tuple[Task, float]:
    """The task with its reward's mean under the reference 0, and what the reward was divided by."""
    network = task.reward_model if isinstance(task.reward_model, RewardNetwork) else None
    if network is None:
        mean, spread = moments(task)
    else:
        tokens = annotators.written(task, MOMENTS, np.random.default_rng((seed, 1)))
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
    """Mean and standard deviation of a sequence's reward under the reference, the typicality reward included: a backward
    recursion over tokens."""
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
    mean = first[automaton.start]
    return float(mean), float(np.sqrt(max(0.0, second[automaton.start] - mean**2)))


def _facts(card: Card, task: Task, asked: Preferences, base: dict[str, Any], model: str) -> dict[str, Any]:
    """What a record says of it."""
    facts: dict[str, Any] = {
        "gold_task": base["name"],
        "pairs": "inf" if asked.pairs is None else len(asked.pairs.first),
        "annotators_typicality": asked.typicality,
        "annotators_temperature": asked.temperature,
        "reward_model": model,
    }
    if model == "features":
        facts["reward_model_typicality"] = float(task.typicality)
    if asked.sequences is not None:
        facts["unseen_outcomes"] = len(np.setdiff1d(task.automaton.outcomes, asked.sequences.end))
    told = annotators.recovered(card.task, asked)
    if told is None:
        return facts | {
            "recovered_typicality": None,
            "recovered_typicality_reason": "no two sequences differ in log pi_ref, or the pairs are separated",
        }
    return facts | {"recovered_typicality": told[0]} | ({"recovered_typicality_stderr": told[1]} if told[1] > 0.0 else {})
