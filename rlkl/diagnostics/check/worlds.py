"""Small worlds in which a batch can hold every sequence exactly as often as the sampler draws it.

The sampler's conditional probabilities are multiples of 1/q. In a batch of q^T rows each sequence then stands as often as its
probability says, and a loss that averages over its batch computes an expectation, without being told of any weights.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from rlkl.diagnostics.audit.score_weights import Sequences
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.tasks.automaton import Automaton

FAR = (25.0, 12.0)  # log(pi/pi_ref) of the arms that the reference has all but dropped


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """Every sequence of a small vocabulary, with policy, reference, sampler and rewards.

    policy, reference, sampler: probabilities of the next token in each state; a state is the tokens before it. draws: q.
    padding: columns without tokens on the left and on the right.
    """

    automaton: Automaton
    policy: Float[np.ndarray, "D V"]
    reference: Float[np.ndarray, "D V"]
    sampler: Float[np.ndarray, "D V"]
    reward: Float[np.ndarray, " Y"]
    draws: int
    padding: tuple[int, int] = (0, 0)

    @cached_property
    def batch(self) -> Batch:
        """Every sequence once, without weights."""
        return enumerate_all(self.automaton)

    @cached_property
    def states(self) -> Int[np.ndarray, "Y T"]:
        """The state before each token; state 0 at padding."""
        return np.where(self.batch.mask, self.batch.states[:, :-1], 0)

    @cached_property
    def lengths(self) -> Int[np.ndarray, " Y"]:
        """The number of tokens of each sequence."""
        return np.asarray(self.batch.mask).sum(axis=1)

    def at_tokens(self, table: Float[np.ndarray, "D V"]) -> Float[np.ndarray, "Y T"]:
        """The table's entry at each token; 0 at padding."""
        return np.where(self.batch.mask, table[self.states, self.batch.tokens], 0.0)

    @cached_property
    def sequences(self) -> Sequences:
        """The log-probabilities of the tokens of every sequence."""
        log_pi, log_ref, log_sampler = (self.at_tokens(np.log(x)) for x in (self.policy, self.reference, self.sampler))
        return Sequences(log_pi, log_ref, log_sampler, np.asarray(self.batch.mask))

    @cached_property
    def probability(self) -> Float[np.ndarray, " Y"]:
        """The policy's probability of each sequence."""
        return np.exp(self.sequences.log_pi.sum(axis=1))

    @cached_property
    def population(self) -> Int[np.ndarray, " N"]:
        """The sequences of the population batch: each as often as the sampler draws it in q^T draws."""
        times = np.exp(self.sequences.log_sampler.sum(axis=1)) * self.draws**self.automaton.horizon
        return np.repeat(np.arange(len(times)), np.round(times).astype(int))

    def gradient(self, weights: Float[np.ndarray, "Y T"]) -> Float[np.ndarray, "D V"]:
        """The sum of the tokens' scores, each times its weight, by the logits of the policy."""
        weights = np.where(self.batch.mask, weights, 0.0)
        gradient, visits = np.zeros(self.policy.shape), np.zeros(len(self.policy))
        np.add.at(gradient, (self.states, self.batch.tokens), weights)
        np.add.at(visits, self.states, weights)
        return gradient - visits[:, None] * self.policy

    @cached_property
    def loss_gradient(self) -> Float[np.ndarray, "D V"]:
        """The gradient of -E[r], the loss without a penalty."""
        return self.gradient(np.repeat(-(self.probability * self.reward)[:, None], self.automaton.horizon, axis=1))


def tree(vocabulary: int, horizon: int, ends: int = 0) -> Automaton:
    """The automaton whose states are the tokens so far. ends: the number of tokens, the first ones, that end a sequence."""
    inner: list[tuple[int, ...]] = [()]
    for prefix in inner:
        inner += [(*prefix, token) for token in range(ends, vocabulary)] if len(prefix) < horizon - 1 else []
    index = {prefix: i for i, prefix in enumerate(inner)}
    next_state = np.zeros((len(inner), vocabulary), int)
    for prefix, state in list(index.items()):
        for token in range(vocabulary):
            next_state[state, token] = index.setdefault((*prefix, token), len(index))
    return Automaton(next_state, states=len(index), horizon=horizon)


def random_world(automaton: Automaton, draws: int, seed: int) -> World:
    """A world with random multiples of 1/draws as the policy, a random reference and random rewards in eighths."""
    generator = np.random.default_rng(seed)
    shape = (automaton.decisions, automaton.vocabulary)
    extra = [generator.multinomial(draws - shape[1], generator.dirichlet(np.ones(shape[1]))) for _ in range(shape[0])]
    policy = (1 + np.array(extra)) / draws
    reference = np.maximum(generator.dirichlet(2.0 * np.ones(shape[1]), size=shape[0]), 0.02)
    reward = generator.integers(0, 9, size=int(automaton.sequences)) / 8
    return World(automaton, policy, reference / reference.sum(axis=1, keepdims=True), policy, reward, draws)


def bandit(arms: int = 6, draws: int = 64, seed: int = 1) -> World:
    """One token."""
    return random_world(tree(arms, 1), draws, seed)


def equal() -> World:
    """Three tokens of three, in 64 rows."""
    return random_world(tree(3, 3), 4, 2)


def unequal() -> World:
    """Up to three tokens of three, of which token 0 ends a sequence, in 64 rows."""
    return random_world(tree(3, 3, ends=1), 4, 3)


def extreme() -> World:
    """One token, with log-ratios from -4 to 25, past the clamps that libraries have."""
    world = bandit()
    policy = np.array([[1, 2, 5, 10, 16, 30]]) / world.draws
    reference = np.array([[0.9, 0.06, 0.03, 0.01, 0.0, 0.0]])
    reference[0, -len(FAR) :] = policy[0, -len(FAR) :] * np.exp(-np.array(FAR))
    return dataclasses.replace(world, policy=policy, sampler=policy, reference=reference / reference.sum())


def older_sampler() -> World:
    """One token, drawn from a policy of a few updates ago: every ratio within the usual clip range."""
    world = bandit()
    ratio = 1.0 + 0.1 * np.where(np.arange(world.policy.shape[1]) % 2 == 0, 1.0, -1.0)
    moved = world.sampler * ratio
    return dataclasses.replace(world, policy=moved / moved.sum())


WORLDS: dict[str, Callable[[], World]] = {
    "bandit": bandit,
    "equal": equal,
    "unequal": unequal,
    "extreme": extreme,
    "padded_left": lambda: dataclasses.replace(unequal(), padding=(2, 0)),
    "padded_right": lambda: dataclasses.replace(unequal(), padding=(0, 2)),
    "sampler": older_sampler,
}
GROUPS: dict[str, tuple[Callable[[], World], tuple[int, ...]]] = {  # worlds small enough to list every group of a size
    "bandit": (lambda: bandit(arms=5, draws=20, seed=5), (2, 4, 8)),
    "unequal": (lambda: random_world(tree(4, 2, ends=2), 8, 4), (2, 4)),
}
