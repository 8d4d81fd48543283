"""A small network that answers several prompts is trained on one of them, exactly; the others show what it forgets.

The loss on the trained prompt is a weighted sum of four terms: the reward, -E_pi[r]; either KL to the start; and the
cross-entropy of maximum likelihood on given answers. A fifth term is KL(pi_0‖pi) on the other prompts. All expectations are
sums over answers.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

PROMPTS, ANSWERS, FEATURES, WIDTH = 9, 8, 6, 16  # prompt 0 is the one that is trained
CORRECT = np.arange(ANSWERS) < 3  # of the trained prompt
FIRST = np.array([0.12, 0.06, 0.02, 0.3, 0.2, 0.15, 0.1, 0.05])  # what the start is fitted to there
CHECKPOINTS = np.unique(np.geomspace(1, 5000, 64).round().astype(int))
FITTING = 3000  # steps of Adam for the start
OPTIMIZERS = {"sgd": optax.sgd(0.05), "adam": optax.adam(2e-3)}


class Method(NamedTuple):
    """Weights of the five terms of the loss, and the given answers' distribution: leaves, so that methods can be stacked."""

    reward: Float[Array, ""]
    kl_pi_start: Float[Array, ""]
    kl_start_pi: Float[Array, ""]
    likelihood: Float[Array, ""]
    others: Float[Array, ""]
    answers: Float[Array, " A"]


class Problem(NamedTuple):
    """A network at its start: features of the prompts, parameters, its log-probabilities, and right answers of the prompts."""

    features: Float[Array, "P F"]
    start: dict[str, Array]
    log_start: Float[Array, "P A"]
    correct: Float[Array, "P A"]


def log_probabilities(parameters: dict[str, Array], features: Float[Array, "P F"]) -> Float[Array, "P A"]:
    """One hidden layer of tanh, and a softmax over answers."""
    hidden = jnp.tanh(features @ parameters["in"] + parameters["bias"][None])
    return jax.nn.log_softmax(hidden @ parameters["out"] + parameters["offset"][None])


def problem(seed: int) -> Problem:
    """A network fitted by maximum likelihood to a distribution over answers at each prompt: FIRST at the trained one, random
    ones at the others, nine tenths of them right answers."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(PROMPTS, FEATURES))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    correct = np.stack([generator.permutation(CORRECT) for _ in range(PROMPTS)])
    correct[0] = CORRECT
    share = generator.gamma(1.0, size=(PROMPTS, ANSWERS)) + 0.05
    right, wrong = (share * mask / (share * mask).sum(axis=1, keepdims=True) for mask in (correct, ~correct))
    targets = 0.9 * right + 0.1 * wrong
    targets[0] = FIRST
    initial = {
        "in": generator.normal(size=(FEATURES, WIDTH)) / np.sqrt(FEATURES), "bias": np.zeros(WIDTH),
        "out": generator.normal(size=(WIDTH, ANSWERS)) / np.sqrt(WIDTH), "offset": np.zeros(ANSWERS),
    }  # fmt: skip
    inputs = jnp.asarray(features)
    start = _fit(jax.tree.map(jnp.asarray, initial), inputs, jnp.asarray(targets))
    return Problem(inputs, start, log_probabilities(start, inputs), jnp.asarray(correct, float))


@jax.jit
def _fit(parameters, features, targets):
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, FITTING))

    def loss(parameters):
        return -jnp.mean(jnp.sum(targets * log_probabilities(parameters, features), axis=1))

    def step(carry, _):
        parameters, state = carry
        slope = jax.grad(loss)(parameters)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes the dtypes of its counts and rates
            update, state = optimizer.update(slope, state)
        return (optax.apply_updates(parameters, update), state), None

    return jax.lax.scan(step, (parameters, optimizer.init(parameters)), None, FITTING)[0][0]


def loss(parameters: dict[str, Array], given: Problem, method: Method) -> Float[Array, ""]:
    """The weighted sum of the five terms."""
    log_pi, log_start = log_probabilities(parameters, given.features), given.log_start
    pi, trained = jnp.exp(log_pi), 0
    terms = (
        -method.reward * jnp.sum(pi[trained] * given.correct[trained]),
        method.kl_pi_start * kl(log_pi, log_start)[trained],
        method.kl_start_pi * kl(log_start, log_pi)[trained],
        -method.likelihood * jnp.sum(method.answers * log_pi[trained]),
        method.others * jnp.mean(kl(log_start, log_pi)[1:]),
    )
    return jnp.sum(jnp.stack(terms))


def kl(log_p: Float[Array, "P A"], log_q: Float[Array, "P A"]) -> Float[Array, " P"]:
    """KL(p‖q) at each prompt."""
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=1)


MEASURES = ("success", "kl_pi_start", "kl_start_pi", "forgetting", "forgetting_pi_start", "accuracy_lost")


def measures(parameters: dict[str, Array], given: Problem) -> tuple[Float[Array, ""], ...]:
    """MEASURES: success and both KLs at the trained prompt; KL(pi_0‖pi), KL(pi‖pi_0) and lost accuracy, mean of the others."""
    log_pi = log_probabilities(parameters, given.features)
    onward, back = kl(log_pi, given.log_start), kl(given.log_start, log_pi)
    right = jnp.sum(jnp.exp(log_pi) * given.correct, axis=1)
    before = jnp.sum(jnp.exp(given.log_start) * given.correct, axis=1)
    return right[0], onward[0], back[0], jnp.mean(back[1:]), jnp.mean(onward[1:]), jnp.mean((before - right)[1:])


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, None, 0, 0))
def train(optimizer: str, gaps: Array, given: Problem, method: Method) -> tuple[Float[Array, " C"], ...]:
    """MEASURES at the start and at each checkpoint; gaps: numbers of steps between them. Problems and methods are stacked."""
    transform = OPTIMIZERS[optimizer]

    def step(_, carry):
        parameters, state = carry
        slope = jax.grad(loss)(parameters, given, method)
        with jax.numpy_dtype_promotion("standard"):
            update, state = transform.update(slope, state)
        return optax.apply_updates(parameters, update), state

    def block(carry, gap):
        carry = jax.lax.fori_loop(0, gap, step, carry)
        return carry, measures(carry[0], given)

    path = jax.lax.scan(block, (given.start, transform.init(given.start)), gaps)[1]
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), measures(given.start, given), path)
