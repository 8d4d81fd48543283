"""estimator=top_k: its values and gradients against plain NumPy sums and finite differences, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import settings
from rlkl.config.build import build
from rlkl.diagnostics.audit import top_k_cases
from rlkl.diagnostics.audit.measure import audit, penalty_alone
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.penalties import estimators, options, top_k
from rlkl.penalties.expected_gradient import TAILS, expected_gradient
from rlkl.policies.tabular import Tabular
from rlkl.reports import listing
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.tasks import Automaton, Task
from rlkl.tasks.bandits import bandit
from rlkl.training import describe
from tests.helpers import PARAMS, random_rows, run_of, sampled_loss, sequences

FEW = [  # each direction, source and tail
    ("kl_pi_ref", "reference", "dropped"),
    ("kl_pi_ref", "policy", "renormalised"),
    ("kl_ref_pi", "policy", "bucket"),
]
WAYS = list(itertools.product(("kl_pi_ref", "kl_ref_pi"), ("policy", "reference"), TAILS))


def chosen(p: np.ndarray, k: int) -> list[int]:
    """The places of the k largest, of equal ones the first."""
    return sorted(range(len(p)), key=lambda v: (-p[v], v))[:k]


def summed(name: str, tail: str, inside: list[int], pi: np.ndarray, ref: np.ndarray) -> float:
    """The definition, term by term."""
    p, q = (pi, ref) if name == "kl_pi_ref" else (ref, pi)
    outside = [v for v in range(len(p)) if v not in inside]
    first, second = [p[v] for v in inside], [q[v] for v in inside]
    if tail == "renormalised":
        first, second = [x / sum(first) for x in first], [x / sum(second) for x in second]
    if tail == "bucket":
        first, second = [*first, sum(p[v] for v in outside)], [*second, sum(q[v] for v in outside)]
    return sum(x * np.log(x / y) for x, y in zip(first, second, strict=True) if x > 0)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "source", "tail"), [*FEW, *(pytest.param(*way, marks=pytest.mark.slow) for way in WAYS if way not in FEW)]
)
@pytest.mark.parametrize("k", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_values_and_gradients_are_those_of_plain_sums(name, source, tail, k):
    """The gradient by finite differences with the set held fixed; some tokens are illegal."""
    draw = np.random.default_rng(1)
    logits, log_ref = draw.normal(size=(4, 6)), log_softmax(draw.normal(size=(4, 6)))
    illegal = np.zeros((4, 6), bool)
    illegal[1, 2] = illegal[3, 1:4] = True
    log_ref = log_softmax(np.where(illegal, -np.inf, log_ref))
    legal = lambda x: jnp.where(illegal, -jnp.inf, x)  # noqa: E731

    def loss(x):
        value = top_k.top_k(REGISTRY[name], k, source, tail, jax.nn.log_softmax(legal(x)), jnp.asarray(log_ref))
        return jnp.sum(value), value

    (_, values), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(logits))
    pi, ref = np.exp(log_softmax(np.where(illegal, -np.inf, logits))), np.exp(log_ref)
    sets = [chosen(row, k) for row in (pi if source == "policy" else ref)]
    expected = [summed(name, tail, *each) for each in zip(sets, pi, ref, strict=True)]
    np.testing.assert_allclose(values, expected, atol=1e-13)
    h = 1e-6

    def moved(r, v, by):
        x = np.where(illegal, -np.inf, logits)[r]
        x[v] += by
        return summed(name, tail, sets[r], np.exp(log_softmax(x)), ref[r])

    for r, v in itertools.product(range(4), range(6)):
        slope = 0.0 if illegal[r, v] else (moved(r, v, h) - moved(r, v, -h)) / (2 * h)
        np.testing.assert_allclose(gradient[r, v], slope, atol=1e-8)


@pytest.mark.parametrize("name", ["kl_pi_ref", pytest.param("kl_ref_pi", marks=pytest.mark.slow)])
def test_over_the_whole_vocabulary_it_is_full_and_with_one_token_left_a_bucket_is(name):
    draw = np.random.default_rng(2)
    log_ref, logits = jnp.asarray(log_softmax(draw.normal(size=(5, 7)))), jnp.asarray(draw.normal(size=(5, 7)))
    ways = [(7, tail) for tail in TAILS] + [(9, "dropped"), (6, "bucket")]

    def values(log_pi):
        full = estimators.full(REGISTRY[name], PARAMS, log_pi, log_ref)
        return jnp.stack([full, *(top_k.top_k(REGISTRY[name], k, "policy", tail, log_pi, log_ref) for k, tail in ways)])

    full, *same = jax.jit(values)(jax.nn.log_softmax(logits))
    for value in same:
        np.testing.assert_allclose(value, full, atol=1e-12)


def test_ties_are_broken_by_index():
    rows = jnp.log(jnp.array([[0.2, 0.2, 0.2, 0.2, 0.2], [0.1, 0.3, 0.3, 0.0, 0.3]]))
    expected = [[True, True, False, False, False], [False, True, True, False, False]]
    np.testing.assert_array_equal(top_k.most_likely(rows, 2), expected)


def test_a_token_that_the_reference_lacks_costs_infinitely_much_only_where_it_is_summed():
    log_pi, log_ref = jnp.log(jnp.array([[0.5, 0.3, 0.2]])), jnp.log(jnp.array([[0.0, 0.6, 0.4]]))
    ways = [*(("policy", tail) for tail in TAILS), ("reference", "dropped")]
    over_one = jax.jit(lambda: [top_k.top_k(REGISTRY["kl_pi_ref"], 1, *way, log_pi, log_ref)[0] for way in ways])
    *of_policy, of_reference = over_one()
    assert np.isposinf(of_policy).all()
    np.testing.assert_allclose(of_reference, 0.3 * np.log(0.5), atol=1e-14)


def small(horizon: int) -> tuple[Task, np.random.Generator]:
    """A random automaton of three states and four tokens, or a bandit of five arms."""
    draw = np.random.default_rng(horizon)
    if horizon == 1:
        return bandit(np.zeros(5), draw.dirichlet(np.ones(5))), draw
    automaton = Automaton(draw.integers(0, 4, size=(3, 4)), 4, horizon)
    return Task(automaton, np.zeros(4), random_rows(draw, automaton.legal), np.zeros(()), np.arange(4.0)), draw


@pytest.mark.parametrize(
    ("placement", "tail", "future_kl"),
    [
        ("loss", "bucket", True),
        *(pytest.param(*way, marks=pytest.mark.slow) for way in (("loss", "dropped", False), ("reward", "bucket", False))),
    ],
)
def test_expected_gradients_on_sequences_are_those_of_plain_loops(placement, tail, future_kl):
    """The semi-gradient, with the later tokens' term in the loss, and that term alone in the reward."""
    task, draw = small(3)
    options_of = {"placement": placement, "top_k": 2, "top_k_tail": tail, "future_kl": future_kl, "allow_biased": True}
    penalty = options.resolve_penalty("sampled", settings.PenaltySettings(estimator="top_k", **options_of), 3)
    run, legal, every = penalty_alone(run_of(task), penalty), jnp.asarray(task.automaton.legal), enumerate_all(task.automaton)
    logits = draw.normal(size=(3, *task.log_reference.shape))

    def loss(x):
        policy = Tabular(x, legal)
        batch = every._replace(weight=jax.lax.stop_gradient(jnp.exp(scoring.log_probability(policy, every))))
        return sampled_loss(run, scoring.positions(task.automaton, policy, run.reference, batch), batch)

    found = np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(logits)))
    ref, visits, paths = np.exp(task.log_reference), {}, [path for path, _ in sequences(task.automaton)]
    pi = np.exp(log_softmax(logits))
    value = {(t, s): summed("kl_pi_ref", tail, chosen(ref[s], 2), pi[t, s], ref[s]) for t in range(3) for s in range(3)}
    expected = np.zeros(logits.shape)
    for path in paths:
        probability = np.prod([pi[at] for at in path])
        for place, (t, s, v) in enumerate(path):
            visits[t, s] = visits.get((t, s), 0.0) + probability
            if placement == "reward" or future_kl:
                later = sum(value[at[:2]] for at in path[place + 1 :])
                expected[t, s] += probability * later * ((np.arange(4) == v) - pi[t, s])
    for (t, s), visited in visits.items():
        for v in range(4) if placement == "loss" else ():
            moved = [log_softmax(logits[t, s] + by * (np.arange(4) == v)) for by in (1e-6, -1e-6)]
            up, down = (summed("kl_pi_ref", tail, chosen(ref[s], 2), np.exp(each), ref[s]) for each in moved)
            expected[t, s, v] += visited * (up - down) / 2e-6
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize(("name", "source", "tail"), [way for way in WAYS if way[2] != "dropped"])
def test_the_audit_s_slopes_by_hand_are_derivatives(name, source, tail):
    draw = np.random.default_rng(4)
    logits, ref = draw.normal(size=(1, 5)), draw.dirichlet(np.ones(5), size=1)
    penalty = settings.PenaltySettings(name, estimator="top_k", top_k=2, top_k_of=source, top_k_tail=tail)
    pi = np.exp(log_softmax(logits))
    inside = chosen((pi if source == "policy" else ref)[0], 2)
    at = top_k_cases.rows(penalty, pi, ref)
    np.testing.assert_allclose(at.value, summed(name, tail, inside, pi[0], ref[0]), atol=1e-13)
    by_logits = pi[0] * (at.slope[0] - pi[0] @ at.slope[0])
    for v in range(5):
        moved = [np.exp(log_softmax(logits[0] + by * (np.arange(5) == v))) for by in (1e-6, -1e-6)]
        up, down = (summed(name, tail, inside, each, ref[0]) for each in moved)
        np.testing.assert_allclose(by_logits[v], (up - down) / 2e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 3])
def test_the_audit_measures_what_is_declared(horizon):
    task, draw = small(horizon)
    logits = jnp.asarray(draw.normal(size=(horizon, *task.log_reference.shape)))
    rows = list(audit(run_of(task), Tabular(logits, jnp.asarray(task.automaton.legal)), jax.random.key(0)))
    over_k = [row for row in rows if row.estimator.startswith("top_k")]
    assert len(over_k) == 2 * 7 and len({(row.divergence, row.estimator, row.placement) for row in over_k}) == 14
    assert [(row.descends, row.declared) for row in over_k if row.descends != row.declared] == []
    assert min(row.relative_error for row in over_k) > 1e-3


def said(horizon: int, **chosen) -> tuple[str, str]:
    unresolved = settings.PenaltySettings(**{"estimator": "top_k", "top_k": 2, "allow_biased": True, **chosen})
    return tuple(expected_gradient(options.resolve_penalty("sampled", unresolved, horizon), horizon))


def test_what_it_descends_is_said():
    merged = "KL(pi‖pi_ref) with all tokens outside the top k merged"
    assert said(1) == ("other", merged)
    assert said(1, top_k_tail="dropped") == ("none", "the gradient of no divergence")
    assert said(1, top_k_tail="renormalised", divergence="kl_ref_pi") == (
        "other",
        "KL(pi_ref‖pi) of both restricted to the top k",
    )
    assert said(1, placement="reward")[0] == said(2, placement="reward", credit="immediate")[0] == "inert"
    assert said(1, top_k_tail="renormalised", top_k=1)[0] == "inert"
    assert said(2)[0] == "semi" and said(2)[1].startswith(f"the semi-gradient of each token's {merged}")
    assert said(2, placement="reward") == ("none", f"the later tokens' {merged} alone")
    assert said(2, future_kl=True) == ("other", f"{merged} summed over the policy's own states")


def test_the_defaults_are_the_reference_s_tokens_and_a_bucket():
    unresolved = settings.PenaltySettings(estimator="top_k", top_k=3, allow_biased=True)
    filled = options.resolve_penalty("sampled", unresolved, 3)
    assert (filled.top_k_of, filled.top_k_tail, filled.placement, filled.level) == ("reference", "bucket", "loss", "token")
    assert options.resolve_penalty("sampled", filled, 3) == filled
    assert describe.entrance(filled) == "top_k (3 of the reference, tail bucket) in the loss, of each token"
    assert options.resolve_penalty("sampled", settings.PenaltySettings(), 3).top_k_tail is None


REFUSED = [
    ({"estimator": "top_k"}, "penalty.top_k", "needs the number of tokens"),
    ({"estimator": "top_k", "top_k": 0}, "penalty.top_k", "at least 1"),
    ({"estimator": "top_k", "top_k": 2.5}, "penalty.top_k", "whole number"),
    ({"estimator": "top_k", "top_k": 2}, "penalty.estimator", "all tokens outside the top k merged, not KL(pi‖pi_ref)"),
    ({"estimator": "top_k", "top_k": 2, "top_k_tail": "bin"}, "penalty.top_k_tail", "allowed: bucket, dropped, renormalised"),
    ({"estimator": "top_k", "top_k": 2, "top_k_of": "teacher"}, "penalty.top_k_of", "allowed: policy, reference"),
    ({"estimator": "top_k", "top_k": 2, "divergence": "hellinger"}, "penalty.estimator", "KL(pi_ref‖pi) alone"),
    ({"estimator": "top_k", "top_k": 2, "clamp": 5.0}, "penalty.clamp", "sampled log-ratios"),
    ({"estimator": "top_k", "top_k": 2, "gradient": "unbiased"}, "penalty.gradient", "in the loss"),
    ({"estimator": "k1", "top_k": 2}, "penalty.top_k", "is of estimator=top_k"),
    ({"top_k_of": "policy"}, "penalty.top_k_of", "is of estimator=top_k"),
    ({"estimator": "top_k", "top_k": 2, "sampler": "reference", "divergence": "kl_ref_pi"}, "penalty.estimator", "full, k1"),
]


@pytest.mark.parametrize(("penalty_options", "key", "says"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_does_not_go_together_is_refused_by_its_name(penalty_options, key, says):
    with pytest.raises(SettingsError) as refused:
        build({"task": {"name": "bandit/random"}, "algorithm": {"name": "rloo"}, "penalty": penalty_options})
    assert refused.value.key == key
    assert says in str(refused.value)


def test_the_list_has_its_tails():
    listed = [row for row in listing._penalties() if row[0] == "top_k"]
    assert [row[4] for row in listed] == 2 * [f"top_k_tail={tail}" for tail in TAILS]
    assert {row[5] for row in listed if row[1] == "reward"} == {"nothing: its expected gradient is zero"}
