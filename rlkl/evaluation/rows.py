"""The rows of a policy and its reference along its sequences, and what they say of each position."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import divergences, exact
from rlkl.divergences import Params
from rlkl.exact import optimal_policy
from rlkl.rollouts.batch import Batch, Positions
from rlkl.tasks.automaton import Automaton

TOP = (1, 5)  # of the reference's likeliest tokens


class WeightedRows(NamedTuple):
    """Rows of a policy and its reference at each position, their weights, and the probabilities of the end states.

    By dynamic program the rows are those of the decision states, weighted by their occupancy (K = D); otherwise those of the
    sequences, weighted by their probabilities (K = N).
    """

    weight: Float[Array, "T K"]
    log_pi: Float[Array, "T K V"]
    log_ref: Float[Array, "T K V"]
    ends: Float[Array, " S"]


def rows_of_batch(automaton: Automaton, batch: Batch, positions: Positions) -> WeightedRows:
    """The rows along a batch, each position with the weight of its sequence."""
    weight = jnp.where(batch.mask, jnp.asarray(batch.weight)[:, None], 0.0).T
    log_pi, log_ref = (rows[positions.row.T] for rows in (positions.log_pi, positions.log_ref))
    ends = jax.ops.segment_sum(jnp.asarray(batch.weight), optimal_policy.final_states(batch), automaton.states)
    return WeightedRows(weight, log_pi, log_ref, ends)


class Detail(NamedTuple):
    """Entropy, KL and top-token mass of a policy along its sequences.

    alive: probability that position t is read; entropy_at, kl_at: mean entropy of the next token there, and its
    KL(pi||pi_ref), in nats (NaN where no sequence gets so far); top_mass: the mass on the reference's TOP likeliest tokens,
    per token read, and top_stderr its standard error where the sequences are a sample.
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
    """The mass on the reference's k likeliest tokens, per token read, and its standard error over sampled sequences."""
    likeliest = jax.lax.top_k(rows.log_ref, min(k, rows.log_ref.shape[-1]))[1]
    mass = jnp.sum(jnp.take_along_axis(pi, likeliest, axis=-1), axis=-1)
    tokens = jnp.sum(rows.weight)
    mean = jnp.sum(exact.times_or_zero(rows.weight, mass)) / tokens
    deviation = jnp.sum(exact.times_or_zero(rows.weight, mass - mean), axis=0)
    return mean, jnp.sqrt(jnp.sum(jnp.square(deviation))) / tokens
