"""KL(mu‖pi) of rounded logits, exact for each row, and its closed form to second order in the rounding errors.

mu is the softmax of the logits z + e, where e_i is the rounding error of z_i. To second order KL(mu‖pi) = Var_pi(e)/2. If the
errors are independent and uniform within half a unit in the last place, h_i, of each logit, the mean of this is
sum_i pi_i (1 - pi_i) h_i^2 / 24. Of logits with one unit h it is h^2/24 times 1 - sum_i pi_i^2.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.harness.series import Row, points
from rlkl import divergences, exact, policies, tasks
from rlkl.divergences import Params
from rlkl.policies.rounding import NAMES, round_to
from rlkl.policies.tabular import Tabular

KL = divergences.REGISTRY["kl_pi_ref"]
DTYPES = ("bfloat16", "float16", "float8_e4m3")
VOCABULARY, ROWS, SEQUENCES = 16, 400, 64
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128)
OFFSETS = np.sort([*np.geomspace(8.0, 384.0, 16), *(12.0 * 2.0 ** np.arange(6))])  # octaves apart, and between
GAPS = np.linspace(0.0, 14.0, 15)
SCALES = np.geomspace(0.25, 256.0, 21)


def unit(z: Float[Array, "*n"], dtype: str) -> Float[Array, "*n"]:
    """The unit in the last place of numbers of this size, in the dtype; of subnormal numbers the smallest one."""
    kind = jnp.finfo(NAMES.get(dtype, dtype))
    size = jnp.maximum(jnp.abs(z), float(kind.smallest_normal))
    return 2.0 ** (jnp.floor(jnp.log2(size)) - kind.nmant)


def dithered(key, z: Float[Array, "*n"], dtype: str) -> Float[Array, "*n"]:
    """Logits that differ from these by at most half a unit, so that their rounding errors are uniform."""
    return z + unit(z, dtype) * jax.random.uniform(key, z.shape, z.dtype, -0.5, 0.5)


def closed_form(z: Float[Array, "*n V"], dtype: str) -> Float[Array, "*n"]:
    """KL(mu‖pi) of rows of logits to second order, averaged over rounding errors."""
    pi = jax.nn.softmax(z)
    return jnp.sum(pi * (1.0 - pi) * jnp.square(unit(z, dtype)), axis=-1) / 24.0


@jax.jit
def entropy(z: Float[Array, "R V"]) -> Float[Array, ""]:
    """The mean entropy of the rows."""
    log_pi = jax.nn.log_softmax(z)
    return jnp.mean(exact.mean(jnp.exp(log_pi), -log_pi))


@partial(jax.jit, static_argnums=1)
def token_kl(z: Float[Array, "R V"], dtype: str) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean of KL(mu‖pi) over rows of logits, and of its closed form."""
    near = dithered(jax.random.key(0), z, dtype)
    log_pi, log_mu = jax.nn.log_softmax(near), jax.nn.log_softmax(round_to(near, dtype))
    return jnp.mean(divergences.exact(KL, Params(), log_mu, log_pi)), jnp.mean(closed_form(z, dtype))


def varied(panel: str, x: np.ndarray, logits: list[np.ndarray]) -> list[Row]:
    """A panel of KL(mu‖pi) over x, in every dtype, beside its closed form."""
    rows: list[Row] = []
    for dtype in DTYPES:
        measured, formula = np.transpose([token_kl(jnp.asarray(z), dtype) for z in logits])
        rows += points(panel, dtype, x, measured) + points(panel, f"{dtype}, formula", x, formula)
    return rows


def length(draw: np.random.Generator) -> list[Row]:
    """KL(mu‖pi) of whole sequences over their length, by dynamic program, averaged over policies."""
    automaton = {n: tasks.Automaton(np.zeros((1, VOCABULARY), int), 1, n) for n in LENGTHS}
    z = jnp.asarray(2.0 * draw.normal(size=(SEQUENCES, max(LENGTHS), 1, VOCABULARY)) + 24.0)
    legal, rows = jnp.ones((1, VOCABULARY), bool), []
    for dtype in DTYPES:

        def kl(z, n, dtype=dtype):
            policy = Tabular(z[:n], legal)
            return exact.between(automaton[n], KL, Params(), policies.rounded(policy, dtype, "logits"), policy)

        values = [float(jnp.mean(jax.jit(jax.vmap(lambda z, n=n, kl=kl: kl(z, n)))(z))) for n in LENGTHS]
        formula = np.cumsum(np.mean(closed_form(z[:, :, 0], dtype), axis=0))
        rows += points("length", dtype, LENGTHS, values)
        rows += points("length", f"{dtype}, formula", LENGTHS, formula[np.array(LENGTHS) - 1])
    return rows


def largest_logit(draw: np.random.Generator) -> list[Row]:
    """The same policies with all logits moved by a constant."""
    x = draw.uniform(-2.0, 2.0, size=(ROWS, VOCABULARY))
    logits = [x + offset for offset in OFFSETS]
    rows = varied("largest logit", OFFSETS, logits)
    return rows + points("held", "entropy, over the largest logit", OFFSETS, [float(entropy(jnp.asarray(z))) for z in logits])


def peakedness(draw: np.random.Generator) -> list[Row]:
    """One token ahead of all others by a gap, all logits between 16 and 32, so that they have one unit."""
    jitter = draw.uniform(-0.5, 0.5, size=(ROWS, VOCABULARY))
    ahead = np.arange(VOCABULARY) > 0
    logits = [31.0 + jitter - gap * ahead for gap in GAPS]
    x = np.array([float(entropy(jnp.asarray(z))) for z in logits])
    smallest, largest = ([float(get(z)) for z in logits] for get in (np.min, np.max))
    return [
        *varied("entropy", x, logits),
        *points("held", "smallest logit, over entropy", x, smallest),
        *points("held", "largest logit, over entropy", x, largest),
    ]


def sharpness(draw: np.random.Generator) -> list[Row]:
    """Random logits times a scale: the policy gets peaked and its logits large at once."""
    x = draw.normal(size=(ROWS, VOCABULARY))
    logits = [scale * x for scale in SCALES]
    simpson = [float(np.mean(1.0 - np.sum(np.asarray(jax.nn.softmax(z)) ** 2, axis=-1))) for z in logits]
    return varied("sharpness", SCALES, logits) + points("held", "1 - sum pi^2, over sharpness", SCALES, simpson)
