"""Two tasks with every sequence listed, so that any policy on them is a vector of log-probabilities; and what the annotators'
answers make of their rewards."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.wrong_gradient import targets
from rlkl import divergences, tasks
from rlkl.exact import bandit_optimum
from rlkl.rollouts import batch, scoring
from rlkl.rollouts.batch import Batch
from rlkl.tasks.automaton import Task
from rlkl.tasks.preferences import annotators

TASKS: dict[str, dict[str, Any]] = {
    "words": {"name": "bandit/words", "size": 100},
    "grammar": {"name": "sequence/grammar", "reward": "ending", "horizon": 5},
}
MODELS = {"words": "tabular", "grammar": "features"}
PAIRS, TYPICALITY, TEMPERATURE = 1000, 0.1, 0.2
SEEDS = (1, 2, 3, 4, 5)
SAME = 9  # decimals to which log pi_ref of sequences of one kind agrees


class Place(NamedTuple):
    """A task under its gold reward. N sequences, listed, each with its log pi_ref and the state that it ends in; K kinds of
    them, a kind being an end state and a log pi_ref, so that every reward here, and every optimum's ratio to the reference,
    is a function of the kind. grams: each pair (sequence, n-gram) once, n being 2, and 1 on a bandit; length: n-grams, repeated
    ones too, of each sequence."""

    name: str
    task: Task
    listed: Batch
    log_ref: Float[np.ndarray, " N"]
    end: Int[np.ndarray, " N"]
    kind: Int[np.ndarray, " N"]
    example: Int[np.ndarray, " K"]
    many: Int[np.ndarray, " K"]
    grams: tuple[Int[np.ndarray, " G"], Int[np.ndarray, " G"]]
    length: Int[np.ndarray, " N"]


class Reward(NamedTuple):
    """A reward: of each state, and the weight of log pi_ref beside it."""

    of_state: Float[np.ndarray, " S"]
    typicality: float


def place(name: str) -> Place:
    """The task of this name, laid out."""
    chosen = dict(TASKS[name])
    task = tasks.build(chosen.pop("name"), **chosen).task
    listed = batch.enumerate_all(task.automaton)
    read = annotators.read_sequences(task, np.asarray(listed.tokens), np.zeros(len(listed.tokens), int))
    pairs = np.stack([read.end, np.round(read.log_reference, SAME)], axis=1)
    _, example, kind, many = np.unique(pairs, axis=0, return_index=True, return_inverse=True, return_counts=True)
    sequence, gram = _grams(listed)
    held = np.unique(sequence * (gram.max() + 1) + gram)
    once, length = (held // (gram.max() + 1), held % (gram.max() + 1)), np.bincount(sequence, minlength=len(kind))
    return Place(name, task, listed, read.log_reference, read.end, kind.ravel(), example, many, once, length)


def _grams(listed: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Every n-gram of every sequence: which sequence it stands in, and which it is, numbered."""
    tokens, mask = np.asarray(listed.tokens, np.int64), np.asarray(listed.mask)
    if tokens.shape[1] == 1:
        return np.arange(len(tokens)), tokens[:, 0]
    sequence, first = np.nonzero(mask[:, 1:])
    return sequence, tokens[sequence, first] * (tokens.max() + 1) + tokens[sequence, first + 1]


def gold(at: Place, typicality: float) -> Reward:
    """What a model that saw infinitely many answers holds: the gold reward, and the annotators' bias."""
    return Reward(np.asarray(at.task.reward, np.float64), typicality)


def fitted(at: Place, typicality: float, pairs: int, seed: int) -> Reward:
    """What a model fitted to so many answers holds."""
    asked = {"typicality": typicality, "temperature": TEMPERATURE, "pairs": pairs, "seed": seed, "model": MODELS[at.name]}
    task = tasks.build("preference/any", base=TASKS[at.name], **asked).task
    return Reward(np.asarray(task.reward, np.float64), float(task.typicality))


def optimum(at: Place, divergence: str, reward: Reward, beta: float) -> Float[np.ndarray, " N"]:
    """log pi* of each sequence: a bandit over kinds, each shared evenly by its sequences. Needs x64 enabled."""
    log_ref, alike = at.log_ref[at.example], np.log(at.many)
    worth = reward.of_state[at.end[at.example]] + reward.typicality * log_ref
    best = _over_kinds(divergence, jnp.asarray(log_ref + alike), jnp.asarray(worth), jnp.asarray(beta, jnp.float64))
    return (np.asarray(best) - alike)[at.kind]


def _over_kinds(divergence: str, log_ref: Float[Array, " K"], worth: Float[Array, " K"], beta: Float[Array, ""]):
    return _SOLVE(divergences.REGISTRY[divergence], divergences.Params(), log_ref, worth, beta)


_SOLVE = jax.jit(bandit_optimum.solve_bandit, static_argnums=0)


def descended(at: Place, reward: Reward, beta: float) -> Float[np.ndarray, " N"]:
    """log pi of each sequence where k3 in the loss ends, whatever it is named after: each row the optimum of KL(pi_ref‖pi) for
    a bandit of its own. On one token that is the optimum of KL(pi_ref‖pi). Needs x64 enabled."""
    task = at.task
    typicality = np.asarray(reward.typicality)
    biased = Task(task.automaton, reward.of_state, np.asarray(task.log_reference), typicality, task.coordinates)
    rows = _MYOPIC(biased, "kl_ref_pi", jnp.asarray(beta, jnp.float64))
    return np.asarray(jnp.sum(scoring.entries_along(rows, at.listed), axis=1))


_MYOPIC = jax.jit(targets.myopic, static_argnums=1)
