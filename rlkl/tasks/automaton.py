"""Token automata and the tasks on them (built in NumPy, on the host).

N sequences, T horizon, S states, D decision states (those with outgoing tokens: 0 to D-1), V vocabulary.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

MOST_SEQUENCES = 2**18  # largest number of sequences that are enumerated


class Automaton:
    """A deterministic automaton over tokens. It is immutable, compared and hashed by content, and so can be static under jit.

    next_state[s, v] is the state after token v, -1 where v is illegal. An end state is any state >= D, or any state
    occupied after `horizon` tokens. A bandit is `next_state = [[1, ..., V]]` with horizon 1: one end state for each arm.
    context[s] is the context of decision state s for policies of limited memory: states of one context share their rows.
    By default each state is a context of its own.
    """

    def __init__(
        self,
        next_state: Int[np.ndarray, "D V"],
        states: int,
        horizon: int,
        start: int = 0,
        context: Int[np.ndarray, " D"] | None = None,
    ):
        self.next_state = np.ascontiguousarray(next_state, dtype=np.int32)
        self.next_state.setflags(write=False)
        self.states, self.horizon, self.start = int(states), int(horizon), int(start)
        self.context = np.arange(len(next_state), dtype=np.int32) if context is None else np.asarray(context, np.int32)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        header = f"{self.next_state.shape} {self.states} {self.horizon} {self.start}".encode()
        return hashlib.sha256(header + self.next_state.tobytes() + self.context.tobytes()).hexdigest()

    @cached_property
    def _hash(self) -> int:
        return hash(self.digest)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Automaton) and self.digest == other.digest)

    def __repr__(self) -> str:
        return f"Automaton(D={self.decisions}, V={self.vocabulary}, S={self.states}, T={self.horizon})"

    @property
    def decisions(self) -> int:
        """D, the number of decision states."""
        return self.next_state.shape[0]

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens."""
        return self.next_state.shape[1]

    @cached_property
    def legal(self) -> np.ndarray:
        """Bool["D V"]: the tokens that are legal in each decision state."""
        return self.next_state >= 0

    def ends_at(self, t: int) -> np.ndarray:
        """Bool["D V"]: the tokens that end a sequence at position t (counted from 0)."""
        return self.legal & ((self.next_state >= self.decisions) | (t == self.horizon - 1))

    @cached_property
    def ends(self) -> np.ndarray:
        """Bool["T D V"]: the tokens that end a sequence, for every position."""
        return np.stack([self.ends_at(t) for t in range(self.horizon)])

    @cached_property
    def inner_next(self) -> np.ndarray:
        """Int["D V"]: the next decision state, or D where the token is illegal or leads to an end state."""
        inside = (self.next_state >= 0) & (self.next_state < self.decisions)
        return np.where(inside, self.next_state, self.decisions)

    @cached_property
    def reachable(self) -> np.ndarray:
        """Bool["T D"]: the decision states that can be occupied at each position."""
        reached = np.zeros((self.horizon, self.decisions), bool)
        reached[0, self.start] = True
        for t in range(1, self.horizon):
            follow = self.next_state[reached[t - 1]]
            reached[t, follow[(follow >= 0) & (follow < self.decisions)]] = True
        return reached

    @cached_property
    def outcomes(self) -> np.ndarray:
        """Int["E"]: the end states that can be reached, in state order."""
        ends = np.zeros(self.states, bool)
        for t in range(self.horizon):
            ends[self.next_state[self.reachable[t][:, None] & self.ends_at(t)]] = True
        return np.flatnonzero(ends)

    @cached_property
    def lengths_vary(self) -> bool:
        """Whether legal sequences differ in length: whether any of them ends before the horizon."""
        early = (self.reachable[t][:, None] & self.ends_at(t) for t in range(self.horizon - 1))
        return any(ends.any() for ends in early)

    def walk(self, tokens: Int[np.ndarray, "N T"]) -> Int[np.ndarray, "N T1"]:
        """The states along legal sequences: the start, then the state after each token. An ended sequence keeps its state."""
        states = np.full((len(tokens), tokens.shape[1] + 1), self.start, np.int32)
        for t in range(tokens.shape[1]):
            here = states[:, t]
            after = self.next_state[np.minimum(here, self.decisions - 1), tokens[:, t]]
            states[:, t + 1] = np.where(here < self.decisions, after, here)
        return states

    def enumerated(self) -> tuple[Int[np.ndarray, "N T"], Int[np.ndarray, "N T1"]]:
        """Tokens and states of every legal sequence. After its end a sequence keeps its state and is padded with token 0."""
        tokens, states = np.zeros((1, 0), np.int32), np.full((1, 1), self.start, np.int32)
        for _ in range(self.horizon):
            here = states[:, -1]
            unfinished = here < self.decisions
            row = np.minimum(here, self.decisions - 1)
            extensions = self.legal[row] & unfinished[:, None]
            extensions[~unfinished, 0] = True
            parent, token = np.nonzero(extensions)
            after = np.where(unfinished[parent], self.next_state[row[parent], token], here[parent])
            tokens = np.concatenate([tokens[parent], token[:, None].astype(np.int32)], axis=1)
            states = np.concatenate([states[parent], after[:, None].astype(np.int32)], axis=1)
        return tokens, states

    @cached_property
    def sequences(self) -> float:
        """The number of legal sequences; exact up to 2^53, infinity beyond 1e308."""
        ahead = np.ones(self.states + 1)  # number of continuations from each state; the last entry stands for an illegal token
        ahead[-1] = 0.0
        with np.errstate(over="ignore"):
            for _ in range(self.horizon):
                ahead[: self.decisions] = ahead[self.next_state].sum(axis=1)
        return float(ahead[self.start])

    @property
    def count(self) -> str:
        """The number of legal sequences, as text."""
        return f"{self.sequences:.2g}" if self.sequences < np.inf else "more than 1e+308"

    @property
    def is_enumerable(self) -> bool:
        """Whether there are few enough legal sequences to enumerate all of them."""
        return self.sequences <= MOST_SEQUENCES

    @property
    def unlisted(self) -> str:
        """A message that says that there are too many sequences to enumerate."""
        return f"{self.count} sequences are too many to list"


class Comparisons(eqx.Module):
    """Preference data: n pairs out of M sequences.

    first, second: indices of the two sequences of each pair. preferred: 1 where the first was preferred, 0 where the second
    was, or the probability of the first. weight: weight of each pair; they sum to 1. scale: factor of the reward in the
    log-odds of a preference.
    """

    tokens: Int[Array | np.ndarray, "M T"]
    states: Int[Array | np.ndarray, "M T1"]
    first: Int[Array | np.ndarray, " n"]
    second: Int[Array | np.ndarray, " n"]
    preferred: Float[Array | np.ndarray, " n"]
    weight: Float[Array | np.ndarray, " n"]
    scale: Float[Array | np.ndarray, ""]


RewardModel = Callable[[Int[Array, " T"], Bool[Array, " T"]], Float[Array, ""]]  # (tokens, mask) -> score of one sequence


class Task(eqx.Module):
    """An automaton with a reference policy and a reward on its final state.

    reward: reward of each state, earned where a sequence ends.
    log_reference: log-probability of each token in each decision state; -inf for an impossible or illegal token.
    typicality: weight `a` of a per-token reward `a log pi_ref(v|s)`.
    coordinates: position of each token on a line, for policies over ordered arms.
    gold: on preference tasks, the reward of each state that the annotators judge by.
    comparisons: on preference tasks, the pairs, where an algorithm learns from them.
    reward_model: scores the tokens of a whole sequence, where there are too many sequences to enumerate; the score is added to
    the reward of the end state.
    """

    automaton: Automaton = eqx.field(static=True)
    reward: Float[Array | np.ndarray, " S"]
    log_reference: Float[Array | np.ndarray, "D V"]
    typicality: Float[Array | np.ndarray, ""]
    coordinates: Float[Array | np.ndarray, " V"]
    gold: Float[Array | np.ndarray, " S"] | None = None
    comparisons: Comparisons | None = None
    reward_model: RewardModel | None = None
