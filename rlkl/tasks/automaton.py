"""Token automata and the tasks on them (built in NumPy, on the host).

N sequences, T horizon, S states, D decision states (those with outgoing tokens: 0 to D-1), V vocabulary, P prompts.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

MOST_SEQUENCES = 2**18  # largest number of sequences that are enumerated


class Automaton:
    """A deterministic automaton over tokens. It is immutable, compared and hashed by content, and so can be static under jit.

    next_state[s, v] is the state after token v, -1 where v is illegal. An end state is any state >= D, or any state
    occupied after `horizon` tokens. A bandit is `next_state = [[1, ..., V]]` with horizon 1: one end state for each arm.
    starts: the start state of each prompt; a task without prompts has one. No state can be reached from two of them.
    prompt_weights: the probability of each prompt, above 0; by default all are equally likely. prompt_of[s] is the prompt from
    which state s can be reached: 0 where there is one prompt, -1 where there is none.
    context[s] is the context of decision state s for policies of limited memory: states of one context share their rows.
    By default each state is a context of its own.
    Raises `ValueError` where two prompts reach a common state, or a prompt's weight is not positive.
    """

    def __init__(
        self,
        next_state: Int[np.ndarray, "D V"],
        states: int,
        horizon: int,
        start: int | Sequence[int] = 0,
        context: Int[np.ndarray, " D"] | None = None,
        prompt_weights: Float[np.ndarray, " P"] | Sequence[float] | None = None,
    ):
        self.next_state = np.ascontiguousarray(next_state, dtype=np.int32)
        self.next_state.setflags(write=False)
        self.states, self.horizon = int(states), int(horizon)
        self.starts = np.atleast_1d(np.asarray(start, np.int32))
        weights = np.ones(self.starts.size) if prompt_weights is None else np.asarray(prompt_weights, np.float64)
        if weights.shape != self.starts.shape or not (weights > 0.0).all():
            raise ValueError(f"prompt_weights must be {self.starts.size} numbers above 0, one a prompt")
        self.prompt_weights = weights / weights.sum()
        self.context = np.arange(len(next_state), dtype=np.int32) if context is None else np.asarray(context, np.int32)
        self.prompt_of = self._prompt_of_states()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        header = f"{self.next_state.shape} {self.states} {self.horizon}".encode()
        arrays = (self.next_state, self.context, self.starts, self.prompt_weights)
        return hashlib.sha256(header + b"".join(array.tobytes() for array in arrays)).hexdigest()

    @cached_property
    def _hash(self) -> int:
        return hash(self.digest)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Automaton) and self.digest == other.digest)

    def __repr__(self) -> str:
        prompts = f", P={self.prompts}" if self.prompts > 1 else ""
        return f"Automaton(D={self.decisions}, V={self.vocabulary}, S={self.states}, T={self.horizon}{prompts})"

    @property
    def decisions(self) -> int:
        """D, the number of decision states."""
        return self.next_state.shape[0]

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens."""
        return self.next_state.shape[1]

    @property
    def prompts(self) -> int:
        """P, the number of prompts."""
        return self.starts.size

    def _prompt_of_states(self) -> Int[np.ndarray, " S"]:
        """The prompt of each state; raises `ValueError` where a state has two."""
        if self.prompts == 1:
            return np.zeros(self.states, np.int32)
        prompt = np.full(self.states, -1, np.int32)
        for number, start in enumerate(self.starts):
            queue = [int(start)]
            while queue:
                state = queue.pop()
                if prompt[state] == number:
                    continue
                if prompt[state] >= 0:
                    raise ValueError(f"state {state} can be reached from prompts {prompt[state]} and {number}")
                prompt[state] = number
                if state < self.decisions:
                    queue += self.next_state[state][self.legal[state]].tolist()
        return prompt

    @cached_property
    def initial(self) -> np.ndarray:
        """Float["D"]: the probability that a sequence starts in each decision state."""
        return np.bincount(self.starts, self.prompt_weights, self.decisions)

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
        reached[0, self.starts] = True
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

    @cached_property
    def outcomes_by_prompt(self) -> np.ndarray:
        """Int["P K"]: the end states that each prompt reaches, in state order, padded with -1."""
        reached = [self.outcomes[self.prompt_of[self.outcomes] == prompt] for prompt in range(self.prompts)]
        padded = np.full((self.prompts, max(map(len, reached))), -1)
        for row, ends in zip(padded, reached, strict=True):
            row[: len(ends)] = ends
        return padded

    def walk(self, tokens: Int[np.ndarray, "N T"], prompt: Int[np.ndarray, " N"] | int = 0) -> Int[np.ndarray, "N T1"]:
        """The states along legal sequences: the prompt's start state, then the state after each token.

        An ended sequence keeps its state.
        """
        states = np.empty((len(tokens), tokens.shape[1] + 1), np.int32)
        states[:, 0] = self.starts[prompt]
        for t in range(tokens.shape[1]):
            here = states[:, t]
            after = self.next_state[np.minimum(here, self.decisions - 1), tokens[:, t]]
            states[:, t + 1] = np.where(here < self.decisions, after, here)
        return states

    def enumerated(self) -> tuple[Int[np.ndarray, "N T"], Int[np.ndarray, "N T1"]]:
        """Tokens and states of every legal sequence, prompt by prompt.

        After its end a sequence keeps its state and is padded with token 0.
        """
        tokens, states = np.zeros((self.prompts, 0), np.int32), self.starts[:, None]
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
        """The number of legal sequences of all prompts; exact up to 2^53, infinity beyond 1e308."""
        ahead = np.ones(self.states + 1)  # number of continuations from each state; the last entry stands for an illegal token
        ahead[-1] = 0.0
        with np.errstate(over="ignore"):
            for _ in range(self.horizon):
                ahead[: self.decisions] = ahead[self.next_state].sum(axis=1)
            return float(ahead[self.starts].sum())

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
    gold: the reward of each state that `reward` stands in for: on preference tasks, the one that the annotators judge by.
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
