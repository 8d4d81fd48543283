"""KL(mu‖pi) of rounded policies along exact training, on tasks in which outputs get longer, policies peaked, or both."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.harness.series import Row, points
from experiments.mismatch_grows.rows import KL, dithered, unit
from rlkl import exact, policies, settings, tasks
from rlkl.config.resolve import resolve
from rlkl.divergences import Params
from rlkl.policies import AnyPolicy
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.training import loop, spec

STEPS = (0, 1, 2, 4, 7, 10, 15, 20, 30, 50, 100, 300)
KINDS = {"longer": (16, 5), "peaked": (16, 5), "both": (16, 5)}  # horizon and number of tokens
NETWORK = (6, 3)
BETA, OFFSET, DITHERS = 0.01, 24.0, 64
STOP = 0.25  # the reference's probability of the token that ends a sequence
MEASURED = ("KL", "KL, formula", "length", "1 - sum pi^2", "squared unit")


def task(kind: str, horizon: int, vocabulary: int) -> tasks.Task:
    """A task whose state counts rewarded tokens c, with reward c/horizon.

    longer: token 0 ends a sequence, and all others count. peaked: sequences have one length, and token 1 counts. both: token 0
    ends a sequence, and token 1 counts.
    """
    count = np.arange(horizon + 1)[:, None] * np.ones(vocabulary, int)
    counts = np.arange(vocabulary) > 0 if kind == "longer" else np.arange(vocabulary) == 1
    following = np.minimum(count + counts, horizon)
    reference = np.full(following.shape, 1.0 / vocabulary)
    if kind != "peaked":
        following[:, 0] = horizon + 1 + np.arange(horizon + 1)
        reference = np.where(np.arange(vocabulary) == 0, STOP, (1.0 - STOP) / (vocabulary - 1)) * np.ones_like(reference)
    reward = np.tile(np.arange(horizon + 1) / horizon, 2)
    automaton = tasks.Automaton(following, 2 * (horizon + 1), horizon)
    return tasks.Task(automaton, reward, np.log(reference), np.zeros(()), np.arange(float(vocabulary)))


def _run(kind: str, horizon: int, vocabulary: int, policy: str) -> spec.Run:
    chosen = settings.Settings(
        policy=settings.PolicySettings(policy, width=32), penalty=settings.PenaltySettings(beta=BETA), steps=1000
    )
    own = task(kind, horizon, vocabulary)
    return jax.tree.map(jnp.asarray, spec.make_run(resolve(chosen, own), own))


def followed(run: spec.Run, steps: tuple[int, ...], measure) -> list[np.ndarray]:
    """What `measure` returns of the policy at these steps."""

    def onward(state, count):
        state = loop.steps(run, state, count)
        return state, measure(state.policy)

    def path(run):
        return jax.lax.scan(onward, loop.start(run), jnp.diff(jnp.asarray(steps), prepend=0))[1]

    return [np.asarray(column) for column in jax.jit(path)(run)]


def of_table(run: spec.Run, policy: Tabular) -> tuple[Float[Array, ""], ...]:
    """The numbers MEASURED: of whole sequences the exact KL(mu‖pi) in bfloat16 and its closed form, the length, and averages
    over tokens. All logits are moved by OFFSET, which no policy notices."""
    automaton, z = run.task.automaton, policy.logits + OFFSET
    log_pi = policy.table()
    pi, occupancy = jnp.exp(log_pi), exact.occupancy(automaton, log_pi)
    spread = pi * (1.0 - pi)
    length = exact.visited(occupancy, jnp.ones(z.shape[:2]))
    simpson = exact.visited(occupancy, jnp.sum(spread, axis=-1))
    squares = exact.visited(occupancy, jnp.sum(spread * jnp.square(unit(z, "bfloat16")), axis=-1))

    def one(key):
        near = Tabular(dithered(key, z, "bfloat16"), policy.support)
        return exact.between(automaton, KL, Params(), policies.rounded(near, "bfloat16", "logits"), near)

    kl = jnp.mean(jax.lax.map(one, jax.random.split(jax.random.key(0), DITHERS)))
    return kl, squares / 24.0, length, simpson / length, squares / simpson


def of_network(run: spec.Run, policy: AnyPolicy) -> tuple[Float[Array, ""], ...]:
    """The length, and the exact KL(mu‖pi) of whole sequences with parameters and with logits rounded, by enumeration."""
    every = enumerate_all(run.task.automaton)
    probability = jnp.exp(scoring.log_probability(policy, every))
    rounded = [policies.rounded(policy, dtype, what) for what in ("weights", "logits") for dtype in ("bfloat16", "float16")]
    kls = [exact.between(run.task.automaton, KL, Params(), mu, policy) for mu in rounded]
    return (jnp.sum(probability * jnp.sum(jnp.asarray(every.mask, probability.dtype), axis=1)), *kls)


def tables(quick: bool) -> list[Row]:
    """Exact training of tables, a row a kind of task, step and number."""
    steps, rows = STEPS[:4] if quick else STEPS, []
    for kind, (horizon, vocabulary) in KINDS.items():
        run = _run(kind, horizon, vocabulary, "tabular")
        for name, values in zip(MEASURED, followed(run, steps, lambda policy, run=run: of_table(run, policy)), strict=True):
            rows += points(kind, name, steps, values)
    return rows


def networks(quick: bool) -> list[Row]:
    """Exact training of a recurrent network in which outputs get longer and the policy peaked."""
    run, steps = _run("both", *NETWORK, "gru"), STEPS[:4] if quick else STEPS
    names = ("length", *(f"{what} in {dtype}" for what in ("parameters", "logits") for dtype in ("bfloat16", "float16")))
    values = followed(run, steps, lambda policy: of_network(run, policy))
    return [row for name, each in zip(names, values, strict=True) for row in points("network", name, steps, each)]
