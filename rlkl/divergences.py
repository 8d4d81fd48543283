"""f-divergences D_f(pi, pi_ref) = sum_y pi_ref(y) f(pi(y)/pi_ref(y)), each defined by one function of the log-ratio.

A generator takes the log-ratio u = log(pi/pi_ref), never the ratio t = e^u, and returns (f, slope) with slope = f'(t). Both are
zero at u = 0. The divergence's value, gradient, optimum and certificate all follow from this function. The slope is written by
hand, since the derivative of `expm1` underflows to 0 below u of about -37. All values are in nats.

Source of the family: Csiszar, "Information-type measures of difference of probability distributions" (1967); of the
alpha family: Amari, "Differential-Geometrical Methods in Statistics" (1985).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl.closed_forms import best_subgradient, move_mass, norm_gradient, threshold_policy, tilted


class Params(NamedTuple):
    """The parameters of the divergences; they are traced, so that a sweep over them compiles once."""

    alpha: Float[Array, ""] | float = 0.5
    weights: tuple[Float[Array, ""] | float, Float[Array, ""] | float] = (0.5, 0.5)


Number = float | Callable[[Params], Float[Array, ""] | float]


@dataclass(frozen=True)
class Divergence:
    """A registered f-divergence.

    both: the generator, (u, params) -> (f, slope).
    zero, infinity: the limits f(0) and lim f(t)/t for large t, as numbers or functions of `params`. They replace 0 x inf, which
    would be NaN.
    chain: how the divergence of sequences decomposes over tokens. "policy" or "reference": by the chain rule of one of the two
    KLs; "both": by their mixture with `params.weights`; a power a (a number, or a function of `params`): it is affine in
    sum pi^a pi_ref^(1-a); pairs (name, weight): it is the sum of these registered divergences; None: not at all.
    formula: the formula that is shown to users.
    optimum: (log_ref, reward, beta, params) -> log_pi of the optimal bandit policy, in place of the generic root-find.
    certificate: (log_pi, log_ref, reward, beta) -> gradient of J = E[r] - beta D, for a D that is not differentiable.
    root: whether D is the square root of the f-divergence that the generator defines. It is then no mean over outcomes, and has
    no unbiased estimator from samples.
    """

    name: str
    both: Callable
    zero: Number
    infinity: Number
    chain: str | Number | tuple[tuple[str, float], ...] | None
    formula: str
    optimum: Callable | None = None
    certificate: Callable | None = None
    root: bool = False

    def limit(self, which: str, params: Params, dtype) -> Float[Array, ""]:
        """The value of `zero`, `infinity` or a power `chain` at these parameters."""
        number = getattr(self, which)
        return jnp.asarray(number(params) if callable(number) else number, dtype)

    def slope(self, u: Float[Array, "..."], params: Params) -> Float[Array, "..."]:
        """f'(t) at the log-ratios u = log t."""
        return self.both(u, params)[1]

    def identifies_rewards(self, params: Params) -> bool:
        """Whether D is no root and f' rises strictly: f'(pi/pi_ref) then tells, up to a constant, the reward that a policy is
        optimal for."""
        return not self.root and bool(jnp.all(jnp.diff(self.slope(jnp.linspace(-2.0, 2.0, 9), params)) > 0.0))

    def may_drop_outcomes(self, params: Params) -> bool:
        """Whether f'(0) is finite: an optimum may then give an outcome of the reference the probability zero."""
        lowest = self.slope(jnp.asarray([-1e12, -1e30]), params)
        return bool(jnp.isfinite(lowest[0]) & (lowest[0] == lowest[1]))


REGISTRY: dict[str, Divergence] = {}


def register(name: str, *, zero: Number, infinity: Number, chain=None, formula: str = "", **fields):
    """Decorator: register a generator as the divergence `name`, for the config, the tests and the figures.

    fields: the fields of `Divergence` that have a default.
    """

    def add(generator):
        REGISTRY[name] = Divergence(name, generator, zero, infinity, chain, formula or f"D_{name}(pi, pi_ref)", **fields)
        return generator

    return add


def f_divergences() -> tuple[str, ...]:
    """The names of the registered f-divergences: all divergences but the square roots of one."""
    return tuple(name for name, div in REGISTRY.items() if not div.root)


def complaint(div: Divergence) -> str | None:
    """Check a registered generator: a description of its first error, in one line, or None if it is consistent."""
    points = jnp.asarray([-4.0, -1.0, -0.25, 0.25, 1.0, 4.0])
    params = Params(jnp.asarray(0.5, points.dtype))
    try:
        slope = div.both(points, params)[1]
        derivative = jax.vmap(jax.grad(lambda u: div.both(u, params)[0]))(points)
        origin = [float(value) for value in div.both(jnp.zeros(()), params)]
        limits = [float(div.limit(which, params, points.dtype)) for which in ("zero", "infinity")]
        at_15, at_30 = (
            [float(div.both(jnp.asarray(-u), params)[0]), float(div.both(jnp.asarray(u), params)[0] * math.exp(-u))]
            for u in (15.0, 30.0)
        )
    except Exception as error:
        return f"must return (f, slope) of an array u, and raised {type(error).__name__}: {error}"
    if max(map(abs, origin)) > 1e-6:
        return f"f and slope must be 0 at u = 0, and are {origin[0]:.3g} and {origin[1]:.3g}"
    differs = jnp.abs(slope - derivative * jnp.exp(-points)) > 1e-3 * (1.0 + jnp.abs(slope))
    if bool(differs.any()):
        u = points[jnp.argmax(differs)]
        return f"slope must be df/dt at t = e^u, and is not at u = {float(u):g}"
    names = ("zero (f at t = 0)", "infinity (f/t as t grows)")
    for name, declared, earlier, measured in zip(names, limits, at_15, at_30, strict=True):
        grows = abs(measured) > 1.5 * abs(earlier) + 1e-3  # grows at least half as fast as u itself
        if math.isinf(declared) != grows or not (grows or abs(declared - measured) <= 1e-2 * (1.0 + abs(declared))):
            return f"{name} is declared as {declared:g}, and f gives {'a growing value' if grows else f'{measured:.3g}'}"
    return None


def clamp_for(dtype) -> float:
    """Largest magnitude of a negative log-ratio in e^u * slope(u): there e^(-2u) is still finite, and e^u is negligible."""
    return 40.0 if dtype == jnp.float32 else 350.0


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def exact(
    div: Divergence, params: Params, log_pi: Float[Array, "*rows V"], log_ref: Float[Array, "*rows V"]
) -> Float[Array, "*rows"]:
    """The divergence between categorical distributions (last axis), in nats; a log-probability may be -inf.

    It is infinite where the divergence is: KL(pi||pi_ref) for a token outside of the reference's support, KL(pi_ref||pi) for a
    token that the policy has lost. The gradient comes from the slope, so that it is right wherever the ratio is representable.
    No gradient flows to `params`.
    """
    dtype, wide = log_pi.dtype, jax.dtypes.canonicalize_dtype(jnp.float64)  # in 32 bits e^200 is infinite, and e^-200 zero
    params, log_pi, log_ref = jax.tree.map(lambda x: jnp.asarray(x, wide), (params, log_pi, log_ref))
    u, on_both, ref_only, pi_only = _split(log_pi, log_ref)
    zero, infinity = div.limit("zero", params, wide), div.limit("infinity", params, wide)
    value = jnp.where(on_both, _weighted(div, params, log_pi, log_ref, u), 0.0)
    value = jnp.where(ref_only, jnp.exp(log_ref) * zero, value)
    value = jnp.where(pi_only, jnp.exp(log_pi) * infinity, value)
    total = jnp.sum(value, axis=-1)
    return (jnp.sqrt(total) if div.root else total).astype(dtype)


def root_slope(div: Divergence, value: Float[Array, "*n"]) -> Float[Array, "*n"] | float:
    """The derivative of D in the f-divergence that its generator defines, at a value of D: 1, or of a square root 1/(2 D).

    It is 0 at D = 0, where a square root has a kink, and 1 where D is infinite.
    """
    if not div.root:
        return 1.0
    finite = (value > 0.0) & jnp.isfinite(value)
    return jnp.where(finite, 0.5 / jnp.where(finite, value, 1.0), jnp.where(value > 0.0, 1.0, 0.0))


def _weighted(div: Divergence, params: Params, log_pi, log_ref, u):
    """pi_ref f(t), without overflow.

    Where f(t) overflows, it is computed as pi times f/t, which for large t is linear in the slope for every divergence of this
    module.
    """
    far = math.log(jnp.finfo(u.dtype).max)
    first, second = (div.both(jnp.asarray(part * far, u.dtype), params) for part in (0.3, 0.4))
    f, _ = div.both(jnp.minimum(u, 0.4 * far), params)
    start, end = first[0] * math.exp(-0.3 * far), second[0] * math.exp(-0.4 * far)
    rise = jnp.where(second[1] == first[1], 0.0, (end - start) / (second[1] - first[1]))
    slope = div.both(jnp.maximum(u, 0.4 * far), params)[1]
    tail = jnp.exp(log_pi) * jnp.where(jnp.isfinite(end), end + rise * (slope - second[1]), jnp.inf)
    return jnp.where(u > 0.4 * far, tail, jnp.exp(log_ref) * f)


def _split(log_pi, log_ref):
    in_pi, in_ref = log_pi > -jnp.inf, log_ref > -jnp.inf
    on_both = in_pi & in_ref
    u = jnp.where(on_both, jnp.where(on_both, log_pi, 0.0) - jnp.where(on_both, log_ref, 0.0), 0.0)
    return u, on_both, in_ref & ~in_pi, in_pi & ~in_ref


@exact.defjvp
def _exact_jvp(div, primals, tangents):
    params, log_pi, log_ref = primals
    _, d_pi, d_ref = tangents
    value = exact(div, params, log_pi, log_ref)
    u, on_both, _, pi_only = _split(log_pi, log_ref)
    low = jnp.maximum(u, -clamp_for(u.dtype))
    _, slope = div.both(low, params)
    weight = jnp.where(on_both, jnp.exp(jnp.where(on_both, log_ref, 0.0) + low) * slope, 0.0)
    infinity = div.limit("infinity", params, log_pi.dtype)
    by_pi = weight + jnp.where(pi_only, jnp.exp(log_pi) * infinity, 0.0)
    by_ref = jnp.where(on_both, _weighted(div, params, log_pi, log_ref, low), 0.0) - weight
    return value, root_slope(div, value) * jnp.sum(_product(by_pi, d_pi) + _product(by_ref, d_ref), axis=-1)


def _product(weight, tangent):
    """weight * tangent, and 0 where the weight is 0 (the tangent of a masked log-probability may be NaN)."""
    return jnp.where(weight != 0.0, weight * jnp.where(weight != 0.0, tangent, 0.0), 0.0)


def power(c: Float[Array, ""] | float, u: Float[Array, "..."]) -> Float[Array, "..."]:
    """The Box-Cox transform of the ratio: (e^(c u) - 1)/c, and u at c = 0."""
    c = jnp.asarray(c, u.dtype)
    safe = jnp.where(c == 0.0, 1.0, c)
    return jnp.where(c == 0.0, u, jnp.expm1(safe * u) / safe)


@register(
    "kl_pi_ref",
    zero=1.0,
    infinity=jnp.inf,
    chain="policy",
    formula="KL(pi‖pi_ref)",
    optimum=tilted,
)
def kl_pi_ref(u, params):
    """KL(pi||pi_ref), "reverse KL" in the RLHF literature: f = t log t - t + 1."""
    return u * jnp.exp(u) - jnp.expm1(u), u


@register("kl_ref_pi", zero=jnp.inf, infinity=1.0, chain="reference", formula="KL(pi_ref‖pi)")
def kl_ref_pi(u, params):
    """KL(pi_ref||pi), "forward KL": f = t - 1 - log t."""
    return jnp.expm1(u) - u, -jnp.expm1(-u)


@register(
    "mixed",
    zero=lambda p: jnp.where(p.weights[1] > 0.0, jnp.inf, p.weights[0]),
    infinity=lambda p: jnp.where(p.weights[0] > 0.0, jnp.inf, p.weights[1]),
    chain="both",
    formula="(w1 KL(pi‖pi_ref) + w2 KL(pi_ref‖pi))",
)
def mixed(u, params):
    """The mixture of both KLs with `penalty.weights`; at equal weights Jeffreys' divergence (Jeffreys 1946)."""
    (f, f_slope), (g, g_slope) = kl_pi_ref(u, params), kl_ref_pi(u, params)
    first, second = (jnp.asarray(weight, u.dtype) for weight in params.weights)
    return first * f + second * g, first * f_slope + second * g_slope


@register(
    "alpha",
    zero=lambda p: jnp.where(p.alpha > 0.0, 1.0 / jnp.where(p.alpha > 0.0, p.alpha, 1.0), jnp.inf),
    infinity=lambda p: jnp.where(p.alpha < 1.0, 1.0 / jnp.where(p.alpha < 1.0, 1.0 - p.alpha, 1.0), jnp.inf),
    chain=lambda p: p.alpha,
    formula="D_alpha(pi‖pi_ref)",
)
def amari_alpha(u, params):
    """Amari's alpha-divergence: f = (t^a - a t - 1 + a)/(a(a-1)); a = 1 is KL(pi||pi_ref), a = 0 is KL(pi_ref||pi).

    With the slope s = (t^(a-1) - 1)/(a-1), f = (t s - (t - 1))/a. Near a = 0 this is ill-conditioned, and
    f = ((t^a - 1)/a - (t - 1))/(a - 1) is used.
    """
    a = jnp.asarray(params.alpha, u.dtype)
    near_zero, slope = a <= 0.5, power(a - 1.0, u)
    low = (power(a, u) - jnp.expm1(u)) / jnp.where(near_zero, a - 1.0, 1.0)
    high = (_product(jnp.exp(u), slope) - jnp.expm1(u)) / jnp.where(near_zero, 1.0, a)
    return jnp.where(near_zero, low, high), slope


@register("jensen_shannon", zero=0.5 * math.log(2.0), infinity=0.5 * math.log(2.0), formula="JS(pi, pi_ref)")
def jensen_shannon(u, params):
    """Jensen-Shannon divergence with weights 1/2 and 1/2, at most log 2 (Lin, IEEE Trans. Inf. Theory 37, 1991).

    Near u = 0 it is computed from log cosh(u/2), since the plain form loses all digits to cancellation there.
    """
    near = jnp.abs(u) < 1.0
    x = jnp.where(near, u, 0.0)
    log_cosh = jnp.log1p(2.0 * jnp.square(jnp.sinh(0.25 * x)))  # of x/2
    slope = jnp.where(near, 0.5 * (0.5 * x - log_cosh), -0.5 * (jnp.logaddexp(0.0, -u) - math.log(2.0)))
    f_near = 0.5 * (0.5 * x * jnp.expm1(x) - log_cosh * (jnp.exp(x) + 1.0))
    return jnp.where(near, f_near, jnp.exp(u) * slope - 0.5 * jnp.log1p(0.5 * jnp.expm1(u))), slope


@register("hellinger", zero=0.5, infinity=0.5, chain=0.5, formula="H²(pi, pi_ref)")
def squared_hellinger(u, params):
    """Squared Hellinger distance, 1/2 sum (sqrt pi - sqrt pi_ref)^2, at most 1."""
    return 0.5 * jnp.square(jnp.expm1(0.5 * u)), -0.5 * jnp.expm1(-0.5 * u)


@register("pearson", zero=1.0, infinity=jnp.inf, chain=2.0, formula="χ²(pi‖pi_ref)")
def pearson(u, params):
    """Pearson's chi-square, sum (pi - pi_ref)^2/pi_ref."""
    return jnp.square(jnp.expm1(u)), 2.0 * jnp.expm1(u)


@register(
    "root_pearson",
    zero=1.0,
    infinity=jnp.inf,
    formula="√χ²(pi‖pi_ref)",
    optimum=threshold_policy,
    certificate=norm_gradient,
    root=True,
)
def root_pearson(u, params):
    """Square root of Pearson's chi-square, the norm of pi/pi_ref - 1 under pi_ref: not differentiable at pi = pi_ref.

    The penalty of Laidlaw, Singhal and Dragan 2024, "Correlated proxies: a new definition and improved mitigation for reward
    hacking", arXiv 2403.03185. The generator is that of `pearson`.
    """
    return pearson(u, params)


@register(
    "kl_chi2",
    zero=1.5,
    infinity=jnp.inf,
    chain=(("kl_pi_ref", 1.0), ("pearson", 0.5)),
    formula="(KL(pi‖pi_ref) + ½χ²(pi‖pi_ref))",
)
def kl_chi2(u, params):
    """KL(pi||pi_ref) plus half of Pearson's chi-square: f' = log t + t - 1, the link of chi-squared preference optimisation.

    Huang et al. 2024, "Correcting the mythos of KL-regularization", arXiv 2407.13399, whose link is t + log t.
    """
    t_less_1 = jnp.expm1(u)
    return u * jnp.exp(u) - t_less_1 + 0.5 * jnp.square(t_less_1), u + t_less_1


@register("neyman", zero=jnp.inf, infinity=1.0, chain=-1.0, formula="χ²(pi_ref‖pi)")
def neyman(u, params):
    """Neyman's chi-square, sum (pi - pi_ref)^2/pi."""
    return 4.0 * jnp.square(jnp.sinh(0.5 * u)), -jnp.expm1(-2.0 * u)


@register("total_variation", zero=0.5, infinity=0.5, formula="TV(pi, pi_ref)", optimum=move_mass, certificate=best_subgradient)
def total_variation(u, params):
    """Total variation, 1/2 sum |pi - pi_ref|: not differentiable at pi = pi_ref, and without a chain rule over tokens."""
    return 0.5 * jnp.abs(jnp.expm1(u)), 0.5 * jnp.sign(u)
