"""Token automata and the tasks on them (built in NumPy, on the host).

N sequences, T horizon, S states, D decision states (those with outgoing tokens: 0 to D-1), V vocabulary.
"""

import hashlib
from functools import cached_property

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int


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

    @cached_property
    def sequences(self) -> int:
        """How many legal sequences there are."""
        ahead = [1] * self.states  # of sequences that go on from a state; Python's integers, for they grow without bound
        for _ in range(self.horizon):
            ahead = [sum(ahead[after] for after in row if after >= 0) for row in self.next_state.tolist()] + [1] * (
                self.states - self.decisions
            )
        return ahead[self.start]


class Task(eqx.Module):
    """An automaton with a reference policy and a reward on its final state.

    reward: of each state; log_reference: log-probability of each token in each decision state (-inf for zero and for
    an illegal token); typicality: the weight `a` of a per-token reward `a log pi_ref(v|s)`; coordinates: where each
    token stands on a line, for policies that use an order.
    """

    automaton: Automaton = eqx.field(static=True)
    reward: Float[Array | np.ndarray, " S"]
    log_reference: Float[Array | np.ndarray, "D V"]
    typicality: Float[Array | np.ndarray, ""]
    coordinates: Float[Array | np.ndarray, " V"]
