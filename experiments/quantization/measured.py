"""Weights rounded to fewer bits, and what `rlkl compare` says of the networks that they make."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from experiments.harness import series
from experiments.harness.series import Row
from rlkl import tasks
from rlkl.diagnostics.compare import kl_statistics
from rlkl.policies import AnyPolicy, Network
from rlkl.policies.base import cast
from rlkl.rollouts import sampling
from rlkl.runs.folder import checkpoint
from rlkl.runs.load import Runs
from rlkl.settings import numerics

BITS = (16, 8, 6, 5, 4, 3, 2)
GROUP = 32
WAYS = {"per tensor": None, f"groups of {GROUP}": GROUP}
SENTENCES = 2048


def rounded(weight: Float[Array, "*stack I O"], bits: int, group: int | None) -> Float[Array, "*stack I O"]:
    """Each number to the nearest of 2^bits - 1 evenly spaced ones from -absmax to absmax: of its matrix, or of the `group`
    numbers that it lies among (as they lie in memory; a last group may be smaller)."""
    flat = weight.reshape(*weight.shape[:-2], -1)
    size = flat.shape[-1] if group is None else group
    parts = jnp.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, -flat.shape[-1] % size)]).reshape(*flat.shape[:-1], -1, size)
    step = jnp.max(jnp.abs(parts), axis=-1, keepdims=True) / (2 ** (bits - 1) - 1)
    back = jnp.where(step > 0.0, jnp.round(parts / jnp.where(step > 0.0, step, 1.0)) * step, 0.0)
    return back.reshape(*flat.shape[:-1], -1)[..., : flat.shape[-1]].reshape(weight.shape)


def quantized(policy: AnyPolicy, bits: int, group: int | None) -> AnyPolicy:
    """The policy with every matrix of weights rounded; biases and gains stay, as they do in practice."""
    matrix = lambda leaf: eqx.is_inexact_array(leaf) and leaf.ndim >= 2 and min(leaf.shape[-2:]) > 1  # noqa: E731
    return jax.tree.map(lambda leaf: rounded(leaf, bits, group) if matrix(leaf) else leaf, policy)


def table(runs: Runs) -> pd.DataFrame:
    """Every number of `rlkl compare`'s table, by policy, way and bits; panels are policies."""
    rows: list[Row] = []
    with numerics.pinned():
        for _, graded in runs.summary.iterrows():
            base = cast(checkpoint.load_policy(runs.root / graded["run"]), jnp.float64)
            assert isinstance(base, Network)
            automaton = tasks.build("sequence/text", horizon=int(graded["override.task.horizon"])).task.automaton
            batch = sampling.sample(jax.random.key(0), automaton, base, SENTENCES)
            score = jax.jit(lambda policy, batch=batch: policy.score(batch.tokens, batch.states))
            mask = np.asarray(batch.mask)
            tokens, log_p = np.asarray(batch.tokens)[mask].astype(np.int64), np.asarray(score(base))[mask]
            for way, group in WAYS.items():
                for bits in BITS:
                    log_q = np.asarray(score(quantized(base, bits, group)))[mask]
                    found = kl_statistics.of_positions(kl_statistics.of_rows(log_p, log_q, tokens))
                    for s in found:
                        rows += series.points(graded["policy"], f"{way}: {s.about}, {s.name}", [bits], [s.value], s.stderr)
    return series.frame(rows)
