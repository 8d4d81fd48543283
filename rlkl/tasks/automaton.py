"""Token automata and the tasks on them (built in NumPy, on the host).

N sequences, T horizon, S states, D decision states (those with outgoing tokens: 0 to D-1), V vocabulary.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

MOST_SEQUENCES = 2**18  # that are enumerated


class Automaton:
    """States that read tokens: static, equal and hashed by content.

    next_state[s, v] is the state after token v, -1 where v is illegal. An end state is any state >= D, or any state
    occupied after `horizon` tokens. A bandit is `next_state = [[1, ..., V]]` with horizon 1: an end state an arm.
    context[s] numbers what a policy of limited memory can tell decision state s by (itself, unless said otherwise).
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
        """A hash of the content."""
        about = f"{self.next_state.shape} {self.states} {self.horizon} {self.start}".encode()
        return hashlib.sha256(about + self.next_state.tobytes() + self.context.tobytes()).hexdigest()

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
        """D."""
        return self.next_state.shape[0]

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.next_state.shape[1]

    @cached_property
    def legal(self) -> np.ndarray:
        """Bool["D V"]: the tokens that a state admits."""
        return self.next_state >= 0

    def ends_at(self, t: int) -> np.ndarray:
        """Bool["D V"]: the tokens that end a sequence when read at position t (from 0)."""
        return self.legal & ((self.next_state >= self.decisions) | (t == self.horizon - 1))

    @cached_property
    def ends(self) -> np.ndarray:
        """Bool["T D V"]: `ends_at` of every position."""
        return np.stack([self.ends_at(t) for t in range(self.horizon)])

    @cached_property
    def inner_next(self) -> np.ndarray:
        """Int["D V"]: the next decision state, or D where a token leaves them or is illegal."""
        inside = (self.next_state >= 0) & (self.next_state < self.decisions)
        return np.where(inside, self.next_state, self.decisions)

    @cached_property
    def reachable(self) -> np.ndarray:
        """Bool["T D"]: the decision states that some legal sequence occupies at each position."""
        at = np.zeros((self.horizon, self.decisions), bool)
        at[0, self.start] = True
        for t in range(1, self.horizon):
            follow = self.next_state[at[t - 1]]
            at[t, follow[(follow >= 0) & (follow < self.decisions)]] = True
        return at

    @cached_property
    def outcomes(self) -> np.ndarray:
        """Int["E"]: the end states that some legal sequence reaches, in state order."""
        ends = np.zeros(self.states, bool)
        for t in range(self.horizon):
            ends[self.next_state[self.reachable[t][:, None] & self.ends_at(t)]] = True
        return np.flatnonzero(ends)

    @cached_property
    def lengths_vary(self) -> bool:
        """Whether some legal sequence ends before the horizon (all that do not are as long as it)."""
        early = (self.reachable[t][:, None] & self.ends_at(t) for t in range(self.horizon - 1))
        return any(ends.any() for ends in early)

    def walk(self, tokens: Int[np.ndarray, "N T"]) -> Int[np.ndarray, "N T1"]:
        """The states along legal sequences: the start, then the one after each token; what has ended stays where it is."""
        states = np.full((len(tokens), tokens.shape[1] + 1), self.start, np.int32)
        for t in range(tokens.shape[1]):
            here = states[:, t]
            after = self.next_state[np.minimum(here, self.decisions - 1), tokens[:, t]]
            states[:, t + 1] = np.where(here < self.decisions, after, here)
        return states

    def enumerated(self) -> tuple[Int[np.ndarray, "N T"], Int[np.ndarray, "N T1"]]:
        """Tokens and states of every legal sequence; one that has ended stays as it is, padded with token 0."""
        tokens, states = np.zeros((1, 0), np.int32), np.full((1, 1), self.start, np.int32)
        for _ in range(self.horizon):
            here = states[:, -1]
            going = here < self.decisions
            row = np.minimum(here, self.decisions - 1)
            onward = self.legal[row] & going[:, None]
            onward[~going, 0] = True
            parent, token = np.nonzero(onward)
            after = np.where(going[parent], self.next_state[row[parent], token], here[parent])
            tokens = np.concatenate([tokens[parent], token[:, None].astype(np.int32)], axis=1)
            states = np.concatenate([states[parent], after[:, None].astype(np.int32)], axis=1)
        return tokens, states

    @cached_property
    def sequences(self) -> float:
        """How many legal sequences there are; exact up to 2^53, infinity beyond 1e308."""
        ahead = np.ones(self.states + 1)  # of sequences that go on from a state, and last from an illegal token: none
        ahead[-1] = 0.0
        with np.errstate(over="ignore"):
            for _ in range(self.horizon):
                ahead[: self.decisions] = ahead[self.next_state].sum(axis=1)
        return float(ahead[self.start])

    @property
    def count(self) -> str:
        """How many legal sequences there are, in words."""
        return f"{self.sequences:.2g}" if self.sequences < np.inf else "more than 1e+308"

    @property
    def unlisted(self) -> str:
        """In words, where they are too many."""
        return f"{self.count} sequences are too many to list"


class Comparisons(eqx.Module):
    """Pairs of M sequences. first, second: which ones; preferred: the probability, or 0 or 1, that the first was preferred;
    weight: of each pair, summing to 1; scale: of the reward in the log-odds of a preference."""

    tokens: Int[Array | np.ndarray, "M T"]
    states: Int[Array | np.ndarray, "M T1"]
    first: Int[Array | np.ndarray, " n"]
    second: Int[Array | np.ndarray, " n"]
    preferred: Float[Array | np.ndarray, " n"]
    weight: Float[Array | np.ndarray, " n"]
    scale: Float[Array | np.ndarray, ""]


RewardModel = Callable[[Int[Array, " T"], Bool[Array, " T"]], Float[Array, ""]]  # scores one sequence, read to where it ends


class Task(eqx.Module):
    """An automaton with a reference policy and a reward on its final state.

    reward: of each state; log_reference: log-probability of each token in each decision state (-inf for zero and for
    an illegal token); typicality: the weight `a` of a per-token reward `a log pi_ref(v|s)`; coordinates: where each
    token stands on a line, for policies that use an order. Where the reward was fitted to preferences: gold, the reward that
    the annotators saw, of each state; comparisons, the pairs that they were shown, where an algorithm learns from those;
    reward_model, where it reads the tokens and there are too many sequences to list: its score is earned at a sequence's end,
    beside the reward of the end state.
    """

    automaton: Automaton = eqx.field(static=True)
    reward: Float[Array | np.ndarray, " S"]
    log_reference: Float[Array | np.ndarray, "D V"]
    typicality: Float[Array | np.ndarray, ""]
    coordinates: Float[Array | np.ndarray, " V"]
    gold: Float[Array | np.ndarray, " S"] | None = None
    comparisons: Comparisons | None = None
    reward_model: RewardModel | None = None
