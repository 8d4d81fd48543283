"""Networks: what they draw is what they score, they start where they say, learn, and are graded exactly or with errors."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import exact, policies, tasks
from rlkl.config.build import build
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.evaluation import final, metrics, rows
from rlkl.evaluation.expectations import DynamicProgram, enumeration, sequence_expectations
from rlkl.evaluation.sampled_values import sample
from rlkl.exact import Objective, optimal_policy
from rlkl.policies import Fixed
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.tasks import automaton as automata
from rlkl.tasks import transforms
from rlkl.training import blocks, exact_losses, loop, observe, sampled_losses, spec
from tests.helpers import PARAMS, random_task, shortened

NETWORKS = sorted(name for name, family in policies.REGISTRY.items() if family.network)
FEW = {"name": "sequence/brackets", "horizon": 6}
MANY = {"name": "sequence/motif", "horizon": 8, "motifs": ["ab", "hh"]}


def run_of(task: dict, name: str, **groups) -> spec.Run:
    plain = {"task": task, "policy": {"name": name, "width": 8, "heads": 2, **groups.pop("policy", {})}}
    return jax.tree.map(jnp.asarray, build({"algorithm": {"name": "rloo"}, **plain, **groups}).run)


def random_network(name: str, task: dict, seed: int = 0):
    """A run and a network of it with logits of about 1."""
    run = run_of(task, name, policy={"init": "random"}, dtype="float64")
    return run, jax.jit(lambda run: spec.first_policy(run, jax.random.key(seed)))(run)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("task", [FEW, MANY], ids=["few", "many"])
def test_the_rows_drawn_from_are_those_scored(name, task):
    run, policy = random_network(name, task)
    automaton = run.task.automaton

    @jax.jit
    def both(policy, key):
        batch, rows = sampling.sample_with_rows(key, automaton, policy, 50)
        return batch._replace(size=None), rows, policy.score(batch.tokens, batch.states)

    batch, drawn, scored = both(policy, jax.random.key(1))
    inside = np.asarray(batch.mask)
    np.testing.assert_allclose(np.asarray(drawn)[inside], np.asarray(scored)[inside], atol=1e-12)
    np.testing.assert_allclose(np.exp(scored).sum(axis=-1), 1.0, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_reads_its_whole_history_and_nothing_ahead(name):
    _, policy = random_network(name, MANY)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 8, (1, 8)).astype(np.int32))
    states = jnp.zeros((1, 9), jnp.int32)
    rows = np.asarray(policy.score(tokens, states))
    for at in (0, 3, 6):
        other = np.asarray(policy.score(tokens.at[0, at].set((tokens[0, at] + 1) % 8), states))
        np.testing.assert_array_equal(other[0, : at + 1], rows[0, : at + 1])
        assert (np.abs(other - rows)[0, at + 1 :].max(axis=-1) > 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_listed_sequences_of_a_network_sum_to_one_and_a_part_at_a_time_is_the_same(name, monkeypatch):
    run, policy = random_network(name, FEW)
    listed = enumerate_all(run.task.automaton)
    whole = np.asarray(scoring.log_probability(policy, listed))
    np.testing.assert_allclose(np.exp(whole).sum(), 1.0, atol=1e-12)
    monkeypatch.setattr(scoring, "CHUNK_SIZE", 7)
    np.testing.assert_allclose(scoring.log_probability(policy, listed), whole, atol=1e-12)


TASKS = {"few": FEW, "many": MANY}
QUICK = {"few-gru-reference", "many-gru-uniform", "many-transformer-reference", "few-transformer-uniform"}
STARTS = [f"{task}-{name}-{init}" for task in TASKS for name in NETWORKS for init in ("reference", "uniform")]


@pytest.mark.parametrize("start", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in STARTS])
def test_a_network_starts_where_it_says(start):
    """Also a guard against the compiler's misreading that `observe.prepare` speaks of."""
    task, name, init = start.split("-")
    run = run_of(TASKS[task], name, policy={"init": init}, dtype="float64")
    block, compiled = blocks.stack([run], 1), blocks.programs(run)
    _, row = compiled.prepare(block, compiled.start(block))
    values = jax.tree.map(lambda x: x[0], row.report.values)
    if init == "reference":
        assert abs(values.kl_pi_ref) < 1e-12
        assert abs(values.kl_ref_pi) < 1e-12
    else:
        np.testing.assert_allclose(values.entropy / values.length, np.log(run.task.automaton.vocabulary), rtol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_an_enumerated_objective_is_that_of_finite_differences(name):
    run, policy = random_network(name, {"name": "sequence/brackets", "horizon": 4})
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)
    of = jax.jit(lambda parameters: exact_losses.exact_loss(spec.objective(run), eqx.combine(parameters, rest)))
    gradient = jax.jit(jax.grad(of))(trainable)
    draw = np.random.default_rng(0)
    along = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape)), trainable)
    along = eqx.tree_at(lambda p: p.head.base, along, jnp.zeros_like(policy.head.base))  # never trained
    step = 1e-5
    ahead, back = (of(jax.tree.map(lambda x, d, s=s: x + s * d, trainable, along)) for s in (step, -step))
    slope = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True))
    np.testing.assert_allclose(slope, (ahead - back) / (2 * step), rtol=1e-6)
    assert np.abs(gradient.head.base).max() == 0.0


@pytest.mark.parametrize("divergence", [pytest.param("kl_ref_pi", marks=pytest.mark.slow), "jensen_shannon"])
def test_exact_training_of_a_network_comes_close_to_the_optimum_of_listed_sequences(divergence):
    penalty = {"divergence": divergence, "beta": 0.3}
    optimizer = {"learning_rate": 0.03}
    run = run_of(FEW, "gru", algorithm={"name": "exact"}, penalty=penalty, steps=300, optimizer=optimizer, policy={"width": 16})
    trained = blocks.train_runs([run])[0]
    report = trained.rows.report
    assert report.stderr == {}
    assert report.regret[-1] <= 0.05 * report.regret[0]
    assert report.regret[-1] >= -1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("divergence", ["kl_pi_ref", "kl_ref_pi"])
def test_rloo_brings_a_small_network_closer_on_sequences_that_cannot_be_listed(name, divergence):
    penalty = {"divergence": divergence, "beta": 0.3}
    trained = blocks.train_runs(
        [run_of(MANY, name, penalty=penalty, steps=100, batch_size=32, log_every=100, optimizer={"learning_rate": 0.01})]
    )[0]
    report = trained.rows.report
    assert report.regret[-1] <= 0.7 * report.regret[0]
    assert 0.0 < report.stderr["regret"][-1] < report.stderr["regret"][0] + 0.02  # the last row has more samples


def test_a_network_s_run_is_the_same_alone_and_in_a_group():
    one = run_of(FEW, "gru", steps=6, log_every=3)
    other = run_of(FEW, "gru", steps=6, log_every=3, seed=5)
    alone, (_, together) = blocks.train_runs([one])[0], blocks.train_runs([other, one])
    for a, b in zip(jax.tree.leaves(alone.rows), jax.tree.leaves(together.rows), strict=True):
        np.testing.assert_array_equal(a, b)


def test_exact_gradients_are_refused_to_a_network_whose_sequences_are_too_many():
    with pytest.raises(SettingsError, match="reads the whole history") as refused:
        run_of({"name": "sequence/motif"}, "gru", algorithm={"name": "exact"})
    assert refused.value.key == "algorithm"


def test_heads_must_divide_the_width():
    with pytest.raises(SettingsError, match="must divide") as refused:
        run_of(FEW, "transformer", policy={"heads": 3})
    assert refused.value.key == "policy.heads"


@pytest.mark.parametrize("order", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_an_automaton_that_remembers_is_the_same_task(order):
    """Values of one table policy, read through the states that remember, and an ngram of full memory reaches the optimum."""
    task = shortened(random_task(np.random.default_rng(order)))
    automaton = task.automaton
    card = tasks.Card(task, tuple(str(i) for i in automaton.outcomes))
    remembered = transforms.remember(card, order).task
    beta = jnp.asarray(0.3)
    for name in ("kl_pi_ref", "kl_ref_pi", "hellinger"):

        def optimum(t, div=REGISTRY[name]):
            return optimal_policy.solve(Objective(t, Fixed(t.log_reference, t.automaton.horizon), div, PARAMS, beta))

        before, after = (jax.jit(optimum)(jax.tree.map(jnp.asarray, t)).objective for t in (task, remembered))
        np.testing.assert_allclose(before, after, rtol=1e-12)
    assert remembered.automaton.sequences == automaton.sequences


def test_an_ngram_shares_its_rows_between_positions_and_states():
    built = build({"task": {"name": "sequence/grammar"}, "policy": {"name": "ngram", "order": 1, "init": "random"}})
    run = built.run
    policy = jax.jit(lambda run: spec.first_policy(run, jax.random.key(0)))(run)
    table, context = np.asarray(policy.table()), run.task.automaton.context
    assert policy.logits.shape[0] == context.max() + 1
    with np.errstate(invalid="ignore"):
        shifted = table[3] - np.asarray(policy.logits)[context]  # one shift a row: the logits are the context's
    spread = np.nanmax(np.where(np.isfinite(shifted), shifted, np.nan), axis=1) - np.nanmin(
        np.where(np.isfinite(shifted), shifted, np.nan), axis=1
    )
    assert spread.max() < 1e-12
    np.testing.assert_array_equal(table[0], table[5])


def test_a_fitted_bigram_is_the_maximum_likelihood_one():
    """On a text's order-1 model an order-1 policy holds the reference itself."""
    task = {"name": "sequence/text", "unit": "word", "size": 8, "order": 1, "horizon": 4}
    run = build({"task": task, "policy": {"name": "ngram", "order": 1}}).run
    state = jax.jit(loop.start)(run)
    _, row = jax.jit(observe.prepare)(run, state)
    assert abs(row.report.values.kl_pi_ref) < 1e-12
    rare = build({"task": {"name": "sequence/motif"}, "policy": {"name": "ngram", "order": 2}}).run
    _, row = jax.jit(observe.prepare)(rare, jax.jit(loop.start)(rare))
    assert abs(row.report.values.kl_ref_pi) < 1e-12  # letters are independent there


SEEDS = 400
Z_TASK = {"name": "sequence/grammar", "horizon": 6, "reward": "length", "target": 5}


@pytest.fixture(scope="module")
def many_seeds():
    """400 estimates of a table policy's report, and the exact one: the estimators do not know that it is a table."""
    run = jax.tree.map(jnp.asarray, build({"task": Z_TASK, "penalty": {"beta": 0.3}}).run)
    task, horizon = run.task, run.task.automaton.horizon
    noise = np.random.default_rng(0).normal(size=(horizon, *task.log_reference.shape))
    table = jax.nn.log_softmax(jnp.asarray(np.asarray(task.log_reference) + 0.2 * noise), axis=-1)
    policy, beta, size = Fixed(table, horizon), jnp.asarray(0.3), 512

    @functools.cache
    def found(name: str):
        div = REGISTRY[name]

        @jax.jit
        def of(keys):
            best = optimal_policy.solve(Objective(task, run.reference, div, PARAMS, beta))
            exactly = metrics.evaluate(Objective(task, run.reference, div, PARAMS, beta), policy, best, keys[0])

            def one(key):
                drawn = sample(Objective(task, run.reference, div, PARAMS, beta), policy, key, size)
                return metrics.report(drawn, best)

            return exactly, jax.lax.map(one, keys)

        return of(jax.random.split(jax.random.key(3), SEEDS))

    return found


COLUMNS = (
    "reward", "objective", "regret", "divergence_value", "kl_pi_ref", "kl_ref_pi", "kl_pi_optimum", "entropy",
    "entropy_per_token", "typicality", "kl_per_token", "kl_ref_pi_per_token", "length",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl_ref_pi", "kl_pi_ref", "hellinger"])
def test_estimates_have_the_standard_errors_that_they_say(many_seeds, name):
    """z-scores over 400 seeds: mean within .15 of 0, standard deviation within .85 and 1.15."""
    from rlkl.runs.folder.summary import history

    exactly, drawn = many_seeds(name)
    none = np.full(SEEDS, np.nan)
    no_batch = sampled_losses.BatchStats(none, dict.fromkeys(sampled_losses.LOGGED, none), none, none, none, none)
    of = lambda report: history(  # noqa: E731
        observe.Row(np.zeros(SEEDS), jax.tree.map(np.asarray, report), *[np.zeros(SEEDS)] * 2, no_batch, None)
    )
    values, truth = of(drawn), of(exactly)
    for column in COLUMNS:
        z = (values[column] - truth[column]) / values[f"{column}_stderr"]
        assert abs(z.mean()) <= 0.15, column
        assert 0.85 <= z.std() <= 1.15, column


@pytest.fixture(scope="module")
def closing_seeds():
    """400 sampled closings' details and distances of a random network, and the listed ones."""
    run, policy = random_network("gru", {"name": "sequence/brackets", "horizon": 6, "reward": "depth"}, seed=1)
    best = jax.jit(
        lambda: optimal_policy.solve(Objective(run.task, run.reference, REGISTRY["kl_pi_ref"], PARAMS, jnp.asarray(0.3)))
    )()

    def both(key):
        known = sequence_expectations(Objective(run.task, run.reference), policy, key, 512)
        return rows.detail(known.weighted_rows()), final.distances(known, best, key)

    exactly = jax.jit(both)(jax.random.key(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automata, "MOST_SEQUENCES", 1)
        drawn = jax.jit(lambda keys: jax.lax.map(both, keys))(jax.random.split(jax.random.key(9), SEEDS))
    return exactly, drawn


def z_holds(values, errors, truth):
    z = (np.asarray(values) - np.asarray(truth)) / np.asarray(errors)
    assert abs(z.mean()) <= 0.15
    assert 0.85 <= z.std() <= 1.15


@pytest.mark.parametrize("name", ["kl_optimum_pi", "tv_optimum"])
def test_distances_to_the_optimum_have_the_errors_that_they_say(closing_seeds, name):
    (_, truth), (_, drawn) = closing_seeds
    assert float(truth[name][1]) == 0.0
    z_holds(*drawn[name], truth[name][0])


@pytest.mark.parametrize("place", [0, 1])
def test_the_mass_on_the_reference_s_likeliest_tokens_has_the_error_that_it_says(closing_seeds, place):
    (truth, _), (drawn, _) = closing_seeds
    if place == 0:  # all of it lies on two brackets, and so on the five likeliest
        z_holds(drawn.top_mass[:, 0], drawn.top_stderr[:, 0], truth.top_mass[0])
    else:
        np.testing.assert_allclose(drawn.top_mass[:, 1], 1.0, atol=1e-12)


def test_details_of_a_table_are_those_of_its_listed_sequences():
    run = jax.tree.map(jnp.asarray, build({"task": {"name": "sequence/grammar", "horizon": 4}}).run)
    task, horizon = run.task, run.task.automaton.horizon
    noise = np.random.default_rng(0).normal(size=(horizon, *task.log_reference.shape))
    policy = Fixed(jax.nn.log_softmax(jnp.asarray(np.asarray(task.log_reference) + noise), axis=-1), horizon)
    objective = Objective(task, run.reference)

    @jax.jit
    def of(objective, policy):
        known = (each.weighted_rows() for each in (DynamicProgram(objective, policy), enumeration(objective, policy)))
        length = exact.values(
            dataclasses.replace(objective, divergence=REGISTRY["kl_pi_ref"], params=PARAMS), policy.table()
        ).length
        return [(rows.detail(each), each.ends) for each in known], length

    ((one, ends), (other, listed_ends)), length = of(objective, policy)
    for a, b in zip(one[:4], other[:4], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_allclose(ends, listed_ends, atol=1e-12)
    np.testing.assert_allclose(np.sum(one.alive), length)
