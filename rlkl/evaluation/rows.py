"""Next-token distributions of a policy and its reference along the policy's sequences, and their metrics by position.

A row is the vector of log-probabilities of the next token in one state, or after one history.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import divergences, exact
from rlkl.divergences import Params
from rlkl.exact import optimal_policy
from rlkl.rollouts.batch import Batch, Positions
from rlkl.tasks.automaton import Automaton

TOP = (1, 5)  # numbers of the reference's likeliest tokens whose mass is measured


class WeightedRows(NamedTuple):
    """Rows of a policy and its reference at each position, their weights, and the probabilities of the end states.

    By dynamic program there is a row for each decision state, weighted by its occupancy (K = D). Otherwise there is one for
    each sequence, weighted by its probability (K = N).
    """

    weight: Float[Array, "T K"]
    log_pi: Float[Array, "T K V"]
    log_ref: Float[Array, "T K V"]
    ends: Float[Array, " S"]


def rows_of_batch(automaton: Automaton, batch: Batch, positions: Positions) -> WeightedRows:
    """The weighted rows along a batch, where each position has the weight of its sequence."""
    weight = jnp.where(batch.mask, jnp.asarray(batch.weight)[:, None], 0.0).T
    log_pi, log_ref = (rows[positions.row.T] for rows in (positions.log_pi, positions.log_ref))
    ends = jax.ops.segment_sum(jnp.asarray(batch.weight), optimal_policy.final_states(batch), automaton.states)
    return WeightedRows(weight, log_pi, log_ref, ends)


class Detail(NamedTuple):
    """Entropy, KL and top-token mass of a policy along its sequences.

    alive: probability that a sequence has a token at position t. entropy_at, kl_at: mean entropy of the next token at position
    t and its KL(pi‖pi_ref), in nats; NaN where no sequence is that long. top_mass: mean probability of the reference's TOP
    likeliest tokens, per token of a sequence. top_stderr: its standard error if the sequences are samples.
    """

    alive: Float[Array, " T"]
    entropy_at: Float[Array, " T"]
    kl_at: Float[Array, " T"]
    top_mass: Float[Array, " K"]
    top_stderr: Float[Array, " K"]


def detail(rows: WeightedRows) -> Detail:
    """Entropy, KL and top-token mass of a policy along its sequences."""
    weight, pi = rows.weight, jnp.exp(rows.log_pi)
    alive = jnp.sum(weight, axis=1)
    kl = divergences.exact(divergences.REGISTRY["kl_pi_ref"], Params(), rows.log_pi, rows.log_ref)

    def mean_at(quantity):
        return jnp.sum(exact.times_or_zero(weight, quantity), axis=1) / jnp.where(alive > 0.0, alive, jnp.nan)

    masses = [_top_mass(rows, pi, k) for k in TOP]
    top_mass, top_stderr = (jnp.stack(each) for each in zip(*masses, strict=True))
    return Detail(alive, mean_at(exact.mean(pi, -rows.log_pi)), mean_at(kl), top_mass, top_stderr)


def _top_mass(rows: WeightedRows, pi: Float[Array, "T K V"], k: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean probability of the reference's k likeliest tokens, and its standard error if the sequences are samples."""
    likeliest = jax.lax.top_k(rows.log_ref, min(k, rows.log_ref.shape[-1]))[1]
    mass = jnp.sum(jnp.take_along_axis(pi, likeliest, axis=-1), axis=-1)
    tokens = jnp.sum(rows.weight)
    mean = jnp.sum(exact.times_or_zero(rows.weight, mass)) / tokens
    deviation = jnp.sum(exact.times_or_zero(rows.weight, mass - mean), axis=0)
    return mean, jnp.sqrt(jnp.sum(jnp.square(deviation))) / tokens
