"""What every penalty descends: its expected gradient against plain NumPy sums over sequences, and the audit's own words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import policies, settings, tasks
from rlkl.config.build import build
from rlkl.diagnostics.audit import known_gradients
from rlkl.diagnostics.audit.command import audit_figure, audit_table, row_kind
from rlkl.diagnostics.audit.measure import DIRECTIONS, AuditRow, audit, measure, penalty_alone
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.penalties import estimators, expected_gradient, options
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.training import spec
from tests.helpers import (
    PARAMS,
    random_rows,
    random_task,
    run_of,
    sampled_loss,
    sequence_log_probability,
    sequences,
    short_task,
    shortened,
)

VALUE = {"k1": lambda u: u, "k2": lambda u: u**2 / 2, "k3": lambda u: np.exp(-u) - 1 + u, "abs": np.abs}
SLOPE = {"k1": np.ones_like, "k2": lambda u: u, "k3": lambda u: 1 - np.exp(-u), "abs": np.sign}


@pytest.mark.parametrize(("estimator", "how"), expected_gradient.WEIGHTS)
def test_the_declared_weights_are_the_slopes_of_the_divergences_that_they_name(estimator, how):
    """As functions of u, up to a constant, whose expected gradient is zero; None: of no combination of the registered ones."""
    u = np.linspace(-3.0, 3.0, 41)
    value, slope = VALUE[estimator](u), SLOPE[estimator](u)
    weight = {"reward": value, "naive": slope, "unbiased": value + slope}[how]
    declared = expected_gradient.WEIGHTS[estimator, how]
    slopes = {name: np.asarray(div.both(jnp.asarray(u), PARAMS)[1]) for name, div in REGISTRY.items() if name != "mixed"}
    if declared is None:
        basis = np.stack([np.ones_like(u), *slopes.values()], axis=1)
        fits = [basis[:, [0, i]] for i in range(1, basis.shape[1])]
        off = [np.abs(weight - fit @ np.linalg.lstsq(fit, weight, rcond=None)[0]).max() for fit in fits]
        assert min(off) > 1e-3
        return
    left = weight - sum(factor * slopes[name] for name, factor in declared.items())
    np.testing.assert_allclose(left, left[0], atol=1e-12)


def measured(run: spec.Run, chosen: settings.PenaltySettings, logits: np.ndarray) -> np.ndarray:
    """The audit's expected gradient by the logits of a table."""
    policy = policies.tabular.Tabular(jnp.asarray(logits), jnp.asarray(run.task.automaton.legal))
    source = run.reference if chosen.sampler == "reference" else policy
    batch = sampling.weighted_batch(jax.random.key(0), run.task.automaton, source, 1)
    return np.asarray(measure(penalty_alone(run, chosen), policy, batch).gradient).reshape(logits.shape)


def summed(task, log_pi: np.ndarray, log_ref: np.ndarray, weights) -> np.ndarray:
    """sum_y pi(y) sum_t w_t grad log pi(y_t), by plain loops: weights(u of the tokens, the path) -> w of the tokens."""
    gradient = np.zeros(log_pi.shape)
    for path, _ in sequences(task.automaton):
        u = np.array([log_pi[at] - log_ref[at] for at in path])
        p = np.exp(sum(log_pi[at] for at in path))
        for (t, s, v), w in zip(path, weights(u, path), strict=True):
            score = -np.exp(log_pi[t, s])
            score[v] += 1.0
            gradient[t, s] += p * w * score
    return gradient


def weights_of(chosen: settings.PenaltySettings, log_pi, log_ref):
    """What each token's score is multiplied by, from the definitions (THEORY, section 4)."""
    name = chosen.estimator

    def later(u, path):
        return np.array([u[t + 1 :].sum() for t in range(len(u))])

    def weights(u, path):
        whole = np.full(len(u), u.sum())
        read = whole if chosen.level == "sequence" else u
        if name == "score":
            slope = np.asarray(REGISTRY[chosen.divergence].both(jnp.asarray(whole), PARAMS)[1])
            return slope
        if chosen.placement == "reward":
            value = VALUE[name](read)
            if chosen.level == "sequence" or chosen.credit == "immediate":
                return value
            return np.array([value[t:].sum() for t in range(len(u))])
        own = {
            "naive": lambda: SLOPE[name](read),
            "unbiased": lambda: VALUE[name](read) + SLOPE[name](read),
            "straight_through": lambda: SLOPE[chosen.gradient_estimator](read),
        }[chosen.gradient]()
        return own + (later(u, path) if chosen.future_kl else 0.0)

    return weights


def ways(name: str, horizon: int) -> list[settings.PenaltySettings]:
    """Those that read sampled tokens of the policy."""
    return [c for c in options.combinations(name, horizon) if c.estimator != "full" and c.sampler == "policy"]


def label(chosen) -> str:
    parts = (chosen.estimator, chosen.placement, chosen.level, chosen.credit, chosen.gradient, "future" * chosen.future_kl)
    return "-".join(part for part in parts if part)


@pytest.mark.parametrize("chosen", ways("kl_pi_ref", 1), ids=label)
def test_expected_gradients_on_fifty_random_bandits_are_theory_s(chosen):
    draw = np.random.default_rng(0)
    for _ in range(50):
        arms = 5
        task = tasks.bandits.bandit(np.zeros(arms), draw.dirichlet(np.ones(arms)))
        run, logits = run_of(task), draw.normal(size=(1, 1, arms))
        log_pi = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        log_ref = np.asarray(task.log_reference)[None]
        expected = summed(task, log_pi, log_ref, weights_of(chosen, log_pi, log_ref))
        np.testing.assert_allclose(measured(run, chosen, logits), expected, atol=1e-10)


@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.many) for seed in range(50) if seed != 3)])
def test_expected_gradients_on_fifty_random_automata_are_theory_s(seed):
    """All of them in one program: the training's loss on every sequence, weighted by its probability."""
    task, draw = short_task(seed, 2 + seed % 2)
    run, legal, every = run_of(task), jnp.asarray(task.automaton.legal), enumerate_all(task.automaton)
    logits = draw.normal(size=(task.automaton.horizon, *task.log_reference.shape))

    def loss(x, chosen):
        own, policy = penalty_alone(run, chosen), policies.tabular.Tabular(x, legal)
        batch = every._replace(weight=jax.lax.stop_gradient(jnp.exp(scoring.log_probability(policy, every))))
        at = scoring.positions(task.automaton, policy, run.reference, batch)
        return sampled_loss(own, at, batch)

    found = jax.jit(lambda x: [jax.grad(loss)(x, chosen) for chosen in ways("kl_pi_ref", 2)])(jnp.asarray(logits))
    log_pi = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    log_ref = np.broadcast_to(task.log_reference, log_pi.shape)
    for chosen, gradient in zip(ways("kl_pi_ref", 2), found, strict=True):
        expected = summed(task, log_pi, log_ref, weights_of(chosen, log_pi, log_ref))
        np.testing.assert_allclose(gradient, expected, atol=1e-10)
    jax.clear_caches()  # fifty such programs are more than a process should hold


@functools.cache
def audit_of(seed: int, horizon: int, directions: tuple[str, ...]) -> list[AuditRow]:
    task, draw = short_task(seed, horizon)
    logits = draw.normal(size=(task.automaton.horizon, *task.log_reference.shape))
    legal = jnp.asarray(task.automaton.legal)
    policy, older = (policies.tabular.Tabular(jnp.asarray(x), legal) for x in (logits, logits[..., ::-1]))
    return list(audit(run_of(task), policy, jax.random.key(0), directions, older))


KINDS = {
    "bandit": lambda: audit_of(5, 1, DIRECTIONS),
    "sequences": lambda: audit_of(3, 3, ("kl_pi_ref",)),
    "sequences, the other direction": lambda: audit_of(3, 3, ("kl_ref_pi",)),
}


SLOWLY = ["bandit", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "bandit")]


@pytest.mark.parametrize("kind", SLOWLY)
def test_what_is_measured_is_what_is_declared(kind):
    rows = KINDS[kind]()
    assert [(row.descends, row.declared) for row in rows if row.descends != row.declared] == []
    assert len(rows) > (30 if kind == "bandit" else 50)


def rows_of(kind, **which):
    return [row for row in KINDS[kind]() if all(getattr(row, key) == value for key, value in which.items())]


NAIVE = {"divergence": "kl_pi_ref", "gradient": "naive", "sampler": "policy", "future_kl": False}


def test_the_audit_of_a_bandit_says_what_theory_says():
    """The table of THEORY, section 4."""
    on_bandit = lambda **which: rows_of("bandit", **NAIVE, **which)[0].descends  # noqa: E731
    assert on_bandit(estimator="k1", placement="reward") == "KL(pi‖pi_ref)"
    assert on_bandit(estimator="k1", placement="loss") == "nothing: its expected gradient is zero"
    assert on_bandit(estimator="k2", placement="loss") == "KL(pi‖pi_ref)"
    assert on_bandit(estimator="k3", placement="loss") == "KL(pi_ref‖pi)"
    assert on_bandit(estimator="k3", placement="reward") == "KL(pi‖pi_ref) - KL(pi_ref‖pi)"


@pytest.mark.slow
def test_the_future_kl_term_closes_the_gap_of_the_semi_gradients():
    for estimator in ("k2", "full"):
        token = {**NAIVE, "estimator": estimator, "placement": "loss", "level": "token"}
        left_out, put_back = rows_of("sequences", **token)[0], rows_of("sequences", **{**token, "future_kl": True})[0]
        assert left_out.relative_error > 1e-2
        assert put_back.relative_error <= 1e-10


@pytest.mark.parametrize("kind", SLOWLY)
def test_exact_rows_have_no_error_and_biased_ones_have_one(kind):
    for row in KINDS[kind]():
        exactly = row.declared == REGISTRY[row.divergence].formula
        assert (row.relative_error <= 1e-10) == exactly, row
        if exactly:
            np.testing.assert_allclose(row.cosine, 1.0, atol=1e-12)


def test_variance_is_that_of_sampled_gradients():
    """k1 in the reward on a bandit: the variance of a batch's gradient against 4,000 sampled ones."""
    task, draw = short_task(5, 1)
    run, logits = run_of(task), draw.normal(size=(1, *task.log_reference.shape))
    policy = policies.tabular.Tabular(jnp.asarray(logits), jnp.asarray(task.automaton.legal))
    row = next(
        r for r in audit(run, policy, jax.random.key(0), ("kl_pi_ref",)) if (r.estimator, r.placement) == ("k1", "reward")
    )
    log_pi = logits[0, 0] - np.logaddexp.reduce(logits[0, 0])
    u = log_pi - np.asarray(task.log_reference)[0]
    arms = draw.choice(3, size=(4000, 64), p=np.exp(log_pi))
    batches = np.stack([(u[arms] * ((arms == v) - np.exp(log_pi[v]))).mean(axis=1) for v in range(3)], axis=1)
    np.testing.assert_allclose(row.variance, batches.var(axis=0).sum(), rtol=0.1)


REFUSED = [
    ({"estimator": "k1", "placement": "loss"}, "penalty.estimator", "nothing: its expected gradient is zero"),
    ({"estimator": "k3", "placement": "loss"}, "penalty.estimator", "descends KL(pi_ref‖pi), not KL(pi‖pi_ref)"),
    ({"estimator": "k2", "placement": "reward"}, "penalty.estimator", "the gradient of no divergence"),
    ({"estimator": "low_var_kl", "placement": "loss"}, "penalty.estimator", "descends KL(pi_ref‖pi)"),
    ({"estimator": "full", "gradient": "unbiased"}, "penalty.gradient", "in the loss"),
    ({"estimator": "score", "placement": "loss"}, "penalty.placement", "allowed: reward"),
    ({"estimator": "low_var_k"}, "penalty.estimator", "did you mean 'low_var_kl'"),
    ({"sampler": "reference"}, "penalty.sampler", "KL(pi_ref‖pi) alone"),
    ({"sampler": "reference", "divergence": "kl_ref_pi", "algorithm": "exact"}, "penalty.sampler", "sample nothing"),
    ({"future_kl": True}, "penalty.future_kl", "token by token"),
    ({"allow_biased": 1}, "penalty.allow_biased", "true or false"),
    ({"divergence": "mixed", "weights": [1]}, "penalty.weights", "two numbers"),
]


@pytest.mark.parametrize(("chosen", "key", "says"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_descends_something_else_is_refused_by_its_name(chosen, key, says):
    chosen = dict(chosen)
    plain = {"task": {"name": "bandit/random"}, "algorithm": {"name": chosen.pop("algorithm", "rloo")}, "penalty": chosen}
    with pytest.raises(SettingsError) as refused:
        build(plain)
    assert refused.value.key == key
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_biased_penalty_runs_where_it_is_allowed_and_is_said(call):
    done = call(
        "task=bandit/random", "algorithm=rloo", "penalty.estimator=low_var_kl", "penalty.placement=loss", "steps=4",
        "penalty.allow_biased=true", "tracking=none", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "biased: this penalty descends KL(pi_ref‖pi)\n" in done.stdout
    assert "k3 in the loss" in done.stdout


def test_the_audit_is_a_table_and_a_figure():
    rows = KINDS["bandit"]()
    named = [row for row in rows if row.divergence == "kl_pi_ref"]
    assert audit_table(named, "kl_pi_ref").row_count == len(named)
    assert len(audit_figure(rows).axes) == 2
    assert {row_kind(row) for row in named} >= {"the exact gradient", "zero", "no divergence"}


@pytest.mark.slow
def test_the_command_prints_the_audit_and_writes_it(command, tmp_path):
    done = command("audit", "task=bandit/random", "task.size=3")
    assert done.returncode == 0, done.stderr
    assert "penalties named KL(pi‖pi_ref): expected gradient against the exact one" in done.stdout
    written = tmp_path / "outputs" / "audit"
    assert {path.name for path in written.iterdir()} == {"audit.csv", "audit.png", "audit.pdf", "trust_regions.csv"}
    rows = (written / "audit.csv").read_text().splitlines()
    assert rows[0] == ",".join(AuditRow._fields)
    # stale samples under three corrections, three rounded and eight other samplers under two, three references; and truncation
    others = 2 * (3 + 2 * (3 + 8) + 3) + 1
    assert len(rows) == 1 + others + sum(len(options.combinations(name, 1)) for name in DIRECTIONS)
    refused = command("audit", "task=bandit/nope")
    assert refused.returncode == 2
    assert "task='bandit/nope': unknown choice" in refused.stderr


def test_what_is_read_on_the_reference_s_sequences_stands_in_the_loss():
    for estimator in ("full", "k1", None):
        given = settings.PenaltySettings("kl_ref_pi", sampler="reference", estimator=estimator)
        filled = options.resolve_penalty("sampled", given, 3)
        assert filled.placement == "loss"
        assert options.resolve_penalty("sampled", filled, 3) == filled


def test_every_estimator_has_its_definition_here():
    assert set(estimators.REGISTRY) == set(VALUE) == set(SLOPE)
    u = np.linspace(-2.0, 2.0, 9)
    for name, estimate in estimators.REGISTRY.items():
        np.testing.assert_allclose(estimate(jnp.asarray(u)), VALUE[name](u), atol=1e-14)


def schulman(mu: float) -> dict[str, tuple[float, float]]:
    """Bias and standard deviation over the true KL of k1, k2, k3 for q = N(0,1), p = N(mu,1), in closed form."""
    return {
        "k1": (0.0, 2.0 / mu),
        "k2": (mu**2 / 4.0, np.sqrt(2.0 + mu**2)),
        "k3": (0.0, 2.0 * np.sqrt(np.exp(mu**2) - 1.0 - mu**2) / mu**2),
    }


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_schulman_s_table(mu):
    """By Gauss-Hermite quadrature to 1e-12, and by sampling within four standard errors."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    true = mu**2 / 2
    x = np.random.default_rng(0).normal(size=400_000)
    for name, (bias, spread) in schulman(mu).items():
        estimate = lambda at: np.asarray(estimators.REGISTRY[name](jnp.asarray(mu**2 / 2 - mu * at)))  # noqa: E731, B023
        values = estimate(nodes)
        mean = weights @ values
        np.testing.assert_allclose((mean - true) / true, bias, atol=1e-12)
        np.testing.assert_allclose(np.sqrt(weights @ (values - mean) ** 2) / true, spread, rtol=1e-11)
        drawn = estimate(x)
        assert abs(drawn.mean() - true * (1 + bias)) <= 4 * drawn.std() / np.sqrt(x.size)


def test_the_mixed_divergence_is_its_parts_on_sequences():
    task = shortened(random_task(np.random.default_rng(3)))
    draw = np.random.default_rng(0)
    log_ref = np.broadcast_to(task.log_reference, (task.automaton.horizon, *task.log_reference.shape))
    log_pi = random_rows(draw, np.broadcast_to(task.automaton.legal, log_ref.shape))
    pi, ref = (np.exp(sequence_log_probability(table, task.automaton)) for table in (log_pi, log_ref))
    params = PARAMS._replace(weights=(0.3, 2.0))
    from rlkl import exact

    value = exact.sequence_divergence(task.automaton, REGISTRY["mixed"], params, jnp.asarray(log_pi), jnp.asarray(log_ref))
    np.testing.assert_allclose(value, 0.3 * np.sum(pi * np.log(pi / ref)) + 2.0 * np.sum(ref * np.log(ref / pi)), rtol=1e-12)


def test_a_sum_of_divergences_is_its_parts_on_sequences():
    task = shortened(random_task(np.random.default_rng(3)))
    draw = np.random.default_rng(0)
    log_ref = np.broadcast_to(task.log_reference, (task.automaton.horizon, *task.log_reference.shape))
    log_pi = random_rows(draw, np.broadcast_to(task.automaton.legal, log_ref.shape))
    pi, ref = (np.exp(sequence_log_probability(table, task.automaton)) for table in (log_pi, log_ref))
    from rlkl import exact

    value = exact.sequence_divergence(task.automaton, REGISTRY["kl_chi2"], PARAMS, jnp.asarray(log_pi), jnp.asarray(log_ref))
    np.testing.assert_allclose(value, np.sum(pi * np.log(pi / ref)) + 0.5 * (np.sum(pi**2 / ref) - 1.0), rtol=1e-12)


def test_known_gradients_on_several_prompts_are_exact():
    """The scores are weighted by the prompts' probabilities."""
    task = {"name": "bandit/custom", "reward": [[0, 1, 2], [1, 0, 0]], "reference": [[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]}
    made = build({"task": task | {"prompt_weights": [3, 1]}, "policy": {"init": "random"}})
    run = jax.tree.map(jnp.asarray, made.run)
    policy = jax.jit(lambda run: spec.first_policy(run, jax.random.key(0)))(run)
    batch = sampling.weighted_batch(jax.random.key(0), run.task.automaton, policy, 1)
    known = known_gradients.gradients_by_name(run, policy, batch)
    for name in ("kl_pi_ref", "kl_ref_pi"):
        exact = known_gradients.exact_gradient(run, policy, REGISTRY[name]).gradient
        np.testing.assert_allclose(known[REGISTRY[name].formula], exact, atol=1e-12)
