"""Log-ratios of +-200, tokens that the reference never takes, and identical policies: finite where an answer is, never NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlkl import divergences, policies
from rlkl.divergences import REGISTRY
from rlkl.penalties import estimators, options, terms
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.settings import PenaltySettings
from rlkl.training.spec import Run
from tests.helpers import KINKED, PARAMS, run_of, sampled_loss, short_task

FAR = st.floats(-200.0, 200.0)
LOGIT = st.floats(-50.0, 50.0)  # of two policies: their log-ratio may be as far as +-200
ROWS = st.lists(st.tuples(LOGIT, LOGIT, st.booleans()), min_size=3, max_size=3)


def rows(drawn) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of a policy and of a reference that leaves out what is marked (but never the last token)."""
    logits, of_ref, out = (np.array(column) for column in zip(*drawn, strict=True))
    kept = ~out.astype(bool) | (np.arange(3) == 2)
    log_pi = logits - np.logaddexp.reduce(logits)
    return log_pi, np.where(kept, of_ref - np.logaddexp.reduce(of_ref[kept]), -np.inf)


@functools.cache
def of(name: str):
    """(logits, the reference's log-probabilities) -> the divergence, and its gradient by the logits."""
    value = lambda x, log_ref: divergences.exact(REGISTRY[name], PARAMS, jax.nn.log_softmax(x), log_ref)  # noqa: E731
    return jax.jit(jax.value_and_grad(value))


@functools.cache
def sloped(name: str):
    """An estimate and its slope, of a log-ratio."""
    return jax.jit(jax.value_and_grad(estimators.REGISTRY[name]))


@pytest.mark.parametrize("name", sorted(REGISTRY))
@settings(max_examples=60, deadline=None)
@given(drawn=ROWS)
@example(drawn=[(50.0, -50.0, False), (0.0, 0.0, False), (-50.0, 50.0, False)])
@example(drawn=[(0.0, 0.0, True), (0.0, 0.0, False), (0.0, 0.0, False)])
@example(drawn=[(0.5, 0.5, False), (-3.0, -3.0, False), (1.0, 1.0, False)])
def test_a_divergence_is_a_number_or_infinite_and_its_gradient_is_finite_where_it_is(name, drawn):
    log_pi, log_ref = rows(drawn)
    div = REGISTRY[name]
    value, gradient = of(name)(jnp.asarray(log_pi), jnp.asarray(log_ref))
    off_support = bool(np.isneginf(log_ref).any())
    unbounded = not np.isfinite(float(div.limit("infinity", PARAMS, jnp.float64)))
    assert not np.isnan(value)
    assert np.isposinf(value) == (off_support and unbounded)
    if not (off_support and unbounded):
        assert np.isfinite(gradient).all()
    narrow, _ = of(name)(*(jnp.asarray(x, jnp.float32) for x in (log_pi, log_ref)))
    if not np.isfinite(value) or value < 1e30:  # what 32 bits can hold they hold
        np.testing.assert_allclose(narrow, value, rtol=1e-3, atol=1e-5)
    assert not np.isnan(narrow)
    if (log_pi == log_ref).all():
        np.testing.assert_allclose(value, 0.0, atol=1e-12)
        assert name in KINKED or np.abs(gradient).max() <= 1e-12  # which has a kink there


@pytest.mark.parametrize("name", sorted(estimators.REGISTRY))
@settings(max_examples=60, deadline=None)
@given(u=FAR)
@example(u=0.0)
@example(u=200.0)
@example(u=-200.0)
def test_an_estimate_and_its_slope_are_finite_at_any_log_ratio_and_zero_at_none(name, u):
    value, slope = sloped(name)(jnp.asarray(u))
    assert np.isfinite(value) and np.isfinite(slope)
    assert value == 0.0 if u == 0.0 else True


@pytest.mark.parametrize("name", sorted(estimators.REGISTRY))
def test_a_token_that_the_reference_never_takes_is_infinite_and_never_nan(name):
    assert np.isposinf(estimators.REGISTRY[name](jnp.asarray(np.inf)))


def ways() -> list[PenaltySettings]:
    every = [*options.combinations("kl_pi_ref", 2), *options.combinations("kl_ref_pi", 2)]
    return [way for way in every if way.sampler == "policy"]


@pytest.fixture(scope="module", params=[8, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def surrogates(request):
    """A function of (logits, the reference's) a combination: the training's own loss on every sequence, and its gradient."""
    task, _ = short_task(2, 2)
    run, legal = run_of(task), jnp.asarray(task.automaton.legal)
    every = enumerate_all(task.automaton)

    def of(way):
        import dataclasses

        chosen = dataclasses.replace(run.settings, penalty=dataclasses.replace(way, beta=1.0))
        chosen = dataclasses.replace(chosen, algorithm=dataclasses.replace(chosen.algorithm, name="reinforce"))

        def loss(logits, reference):
            policy = policies.tabular.Tabular(logits, legal)
            own = dataclasses.replace(run, settings=chosen, reference=policies.tabular.Tabular(reference, legal))
            assert isinstance(own, Run)
            batch = every._replace(weight=jax.lax.stop_gradient(jnp.exp(scoring.log_probability(policy, every))))
            at = scoring.positions(task.automaton, policy, own.reference, batch)
            made = terms.make_terms(chosen.penalty, jnp.float64)
            value = jnp.sum(batch.weight * jnp.sum(made.in_loss(at, batch), axis=1))
            return sampled_loss(own, at, batch), value

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    return (task.automaton.horizon, *legal.shape), {way: of(way) for way in ways()[:: request.param]}


def test_no_combination_of_estimator_and_placement_turns_far_log_ratios_into_nan(surrogates):
    """In float64, where e^400 is a number: logits as far apart as +-200, and policies that are their reference."""
    shape, made = surrogates
    draw = np.random.default_rng(0)
    cases = [(draw.normal(size=shape), None)]
    for scale in (1.0, 40.0, 200.0):
        cases += [(scale * draw.uniform(-0.5, 0.5, size=shape), scale * draw.uniform(-0.5, 0.5, size=shape))]
    for way, loss in made.items():
        for logits, reference in cases:
            same = reference is None
            (value, term), gradient = loss(jnp.asarray(logits), jnp.asarray(logits if same else reference))
            assert np.isfinite(value) and np.isfinite(gradient).all(), way
            if same:
                np.testing.assert_allclose(term, 0.0, atol=1e-12)
