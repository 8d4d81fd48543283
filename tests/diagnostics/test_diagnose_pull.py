"""The pull of penalties, from every sequence of a task, against derivatives of exact divergences along the mixture."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import tasks
from rlkl.diagnostics.diagnose import examples, setting
from rlkl.diagnostics.diagnose.diagnosis import diagnose
from rlkl.diagnostics.diagnose.measures import pull
from rlkl.diagnostics.diagnose.measures.sequence_sums import token_values
from rlkl.diagnostics.diagnose.reading.chunk import Chunk
from rlkl.divergences import REGISTRY, Params
from rlkl.errors import SettingsError
from rlkl.penalties import options
from rlkl.penalties.expected_gradient import expected_gradient
from rlkl.settings import PenaltySettings

NAMES = ("kl_pi_ref", "kl_ref_pi", "jensen_shannon")


class Everything:
    """All sequences of a small task of unequal lengths: their probabilities, and their log-probabilities as a chunk."""

    def __init__(self) -> None:
        task = tasks.build("sequence/grammar", horizon=4).task
        automaton = task.automaton
        tokens, states = automaton.enumerated()
        self.reference = np.asarray(task.log_reference, float)
        tilt = 0.7 * np.random.default_rng(0).normal(size=self.reference.shape)
        self.policy = examples.normalised(self.reference + tilt)
        self.sampler = examples.normalised(self.policy + 0.3 * np.random.default_rng(1).normal(size=tilt.shape))
        self.inside = states[:, :-1] < automaton.decisions
        self.rows, self.tokens = np.minimum(states[:, :-1], automaton.decisions - 1), tokens
        self.lengths = self.inside.sum(axis=1)

    def along(self, table: np.ndarray) -> np.ndarray:
        """[N, T] log-probabilities of the tokens; 0 after the end."""
        return np.where(self.inside, table[self.rows, self.tokens], 0.0)

    def chunk(self, with_sampler: bool = False) -> Chunk:
        """The sequences as a chunk."""
        flat = {name: self.along(table)[self.inside] for name, table in self.tables(with_sampler).items()}
        return Chunk(self.lengths, **flat)

    def tables(self, with_sampler: bool) -> dict[str, np.ndarray]:
        """The tables by field."""
        both = {"log_probs": self.policy, "ref_log_probs": self.reference}
        return both | ({"sampler_log_probs": self.sampler} if with_sampler else {})

    def probability(self, table: np.ndarray) -> np.ndarray:
        """The probability of each sequence."""
        return np.exp(self.along(table).sum(axis=1))


@pytest.fixture(scope="module")
def everything() -> Everything:
    return Everything()


def exact_pull(everything: Everything, name: str, kind: str) -> float:
    """Minus the derivative of a divergence along (1 - x) pi + x pi_ref, by JAX from its definition.

    kind: exact, of the distributions of sequences; semi, of each token's on the policy's states, whose probabilities are fixed.
    """
    pi, ref = jnp.asarray(everything.along(everything.policy)), jnp.asarray(everything.along(everything.reference))
    params = Params()

    def log_mixture(x):
        return jnp.log((1 - x) * jnp.exp(pi) + x * jnp.exp(ref))

    def of_sequences(x):
        log_pi, log_ref = log_mixture(x).sum(axis=1), ref.sum(axis=1)
        return jnp.sum(jnp.exp(log_ref) * REGISTRY[name].both(log_pi - log_ref, params)[0])

    def of_tokens(x):
        log_pi = log_mixture(x)
        before = jnp.cumsum(pi, axis=1) - pi  # log-probability of the visit to each token's state
        after = jnp.exp(pi.sum(axis=1)[:, None] - before - pi)  # of what follows, which sums to 1
        weight = jnp.exp(before) * after * jnp.asarray(everything.inside, float)
        return jnp.sum(weight * jnp.exp(ref) * REGISTRY[name].both(log_pi - ref, params)[0])

    return -float(jax.grad({"exact": of_sequences, "semi": of_tokens}[kind])(jnp.asarray(0.0)))


@pytest.mark.parametrize("kind", ["exact", "semi"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_sampler", [False, True])
def test_the_pulls_of_divergences_are_their_derivatives(everything, name, kind, with_sampler):
    chunk = everything.chunk(with_sampler)
    penalty = PenaltySettings(
        name, estimator="score", placement="reward", level="sequence", credit="reward_to_go", sampler="policy"
    )
    columns = pull.pulls(penalty, chunk, token_values(chunk))
    probability = everything.probability(everything.sampler if with_sampler else everything.policy)
    found = float(probability @ columns[pull.column(name, kind)])
    expected = exact_pull(everything, name, kind)
    if with_sampler and kind == "semi":  # each token's, on the sampler's states
        assert found > 0.0 and found == pytest.approx(expected, rel=0.3)
    else:
        assert found == pytest.approx(expected, rel=1e-9)
        assert expected > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_a_penalty_pulls_as_the_gradient_that_it_is_known_to_have(everything, name):
    """Every legal combination of settings whose expected gradient is that of a divergence, or nothing."""
    chunk = everything.chunk()
    tokens, probability = token_values(chunk), everything.probability(everything.policy)
    pulls = {(each, kind): exact_pull(everything, each, kind) for each in NAMES for kind in ("exact", "semi")}
    kinds = set()
    for penalty in options.combinations(name, 2):
        if penalty.sampler == "reference":
            continue
        descended = expected_gradient(penalty, 2)
        found = float(probability @ pull.pulls(penalty, chunk, tokens)[pull.MINE])
        if descended.kind == "inert":
            assert found == pytest.approx(0.0, abs=1e-12), penalty
        elif descended.kind == "exact":
            assert found == pytest.approx(pulls[name, "exact"], rel=1e-9), penalty
        else:
            same = [each for each in NAMES if descended.says == _says(each, descended.kind)]
            if not same:
                continue
            assert found == pytest.approx(pulls[same[0], "semi" if descended.kind == "semi" else "exact"], rel=1e-9), penalty
        kinds.add(descended.kind)
    assert {"exact", "inert"} <= kinds


def _says(name: str, kind: str) -> str:
    formula = REGISTRY[name].formula
    semi = f"the semi-gradient of each token's {formula} (the states that follow are left out)"
    return {"semi": semi, "other": formula}.get(kind, "")


def test_a_clamp_takes_the_gradient_beyond_it(everything):
    chunk = everything.chunk()
    u = token_values(chunk).u
    plain = PenaltySettings(estimator="k3", placement="loss", level="token", credit="reward_to_go", sampler="policy")
    weights = pull.score_weights(dataclasses.replace(plain, clamp=0.5), u, chunk.lengths)
    assert np.array_equal(weights, np.where(np.abs(u) <= 0.5, -np.expm1(-u), 0.0))
    assert 0.1 < np.mean(np.abs(u) > 0.5) < 0.9


def test_the_pull_is_estimated_within_its_error():
    """k3 in the loss has the semi-gradient of KL(pi_ref‖pi): its ratio to it is 1, sample by sample."""
    run = examples.without(examples.example("clean"), "sampler_log_probs")
    diagnosis = diagnose(run.arrays, penalty=["penalty.estimator=k3", "penalty.placement=loss"])
    assert diagnosis.penalty is not None
    rows = {(row.gradient, row.kind): row for row in diagnosis.penalty.pulls.itertuples()}
    assert rows["KL(pi_ref‖pi)", "semi"].ratio == pytest.approx(1.0, rel=1e-12)
    other = rows["KL(pi‖pi_ref)", "semi"]
    assert abs(other.ratio - 1.0) > 4.0 * other.ratio_stderr
    assert [warning.name for warning in diagnosis.warnings] == ["descends_other"]
    assert diagnosis.penalty.nearest[0] == "penalty.estimator=full penalty.future_kl=true"


def test_beta_is_worth_less_beside_standardised_advantages():
    """Rewards of 0 and 1 with success p = .5 in groups of 8: the division by the deviation is worth a known factor."""
    rng = np.random.default_rng(0)
    prompts, size = 4000, 8
    reward = (rng.random(prompts * size) < 0.5).astype(float)
    log_pi = np.log(np.where(rng.random((prompts * size, 3)) < 0.5, 0.5, 0.25))
    arrays = {
        "log_probs": log_pi, "ref_log_probs": log_pi - 0.1 * rng.random(log_pi.shape), "reward": reward,
        "group": np.repeat(np.arange(prompts), size),
    }  # fmt: skip
    overrides = ["penalty.estimator=k2", "penalty.placement=loss", "penalty.beta=0.3", "algorithm=grpo"]
    penalty = diagnose(arrays, penalty=[*overrides, "algorithm.loss_aggregation=token-mean"]).penalty
    k = np.arange(size + 1)
    chance = np.array([math.comb(size, each) for each in k]) / 2**size
    variance = k / size * (1 - k / size)
    deviation = np.sqrt(variance * size / (size - 1))
    along = float(chance @ np.divide(size * variance, deviation, out=np.zeros(size + 1), where=deviation > 0))
    expected = along / float(chance @ (size * variance * size / (size - 1)))
    assert penalty is not None and penalty.scale is not None and penalty.coefficient is not None
    assert abs(penalty.scale.value - expected) < 4.0 * penalty.scale.stderr
    ratio = penalty.pulls[(penalty.pulls.gradient == "KL(pi‖pi_ref)") & (penalty.pulls.kind == "exact")].ratio.iloc[0]
    assert penalty.coefficient[0] == pytest.approx(0.3 * ratio / penalty.scale.value, rel=1e-12)
    inside = diagnose(
        arrays, penalty=["penalty.estimator=k1", "penalty.placement=reward", "penalty.beta=0.3", "algorithm=grpo"]
    )
    assert inside.penalty is not None and inside.penalty.coefficient is not None
    assert inside.penalty.coefficient[0] == pytest.approx(0.3, rel=0.3)  # divided as the reward is


@pytest.mark.parametrize(
    ("library", "kind", "nearest"),
    [
        ("trl_grpo", "semi", "penalty.estimator=k1 penalty.placement=reward penalty.gradient=naive"),
        ("verl_grpo", "semi", "penalty.estimator=k1 penalty.placement=reward"),
        ("instructgpt_ppo", "exact", None),
    ],
)
def test_presets_bring_what_they_go_with(library, kind, nearest):
    resolved = setting.resolve_setting([], library)
    assert (resolved.descends.kind, resolved.aggregation) == (kind, "token-mean")
    assert nearest is None or setting.nearest_exact(resolved)[0] == nearest


def test_every_nearest_setting_is_exact():
    for estimator in ("k1", "k2", "k3", "full"):
        overrides = [f"penalty.estimator={estimator}", "penalty.placement=loss"]
        for change in setting.nearest_exact(setting.resolve_setting(overrides)):
            changed = {each.split("=")[0]: each for each in (*overrides, *change.split())}
            assert setting.resolve_setting(list(changed.values())).descends.kind == "exact"


@pytest.mark.parametrize(
    ("overrides", "library", "message"),
    [
        (["penalty.beta=0.1"], None, "penalty.estimator='null': must be named"),
        ([], "none", "library='none'"),
        (["penalty=none"], None, "penalty='none': there is no penalty to diagnose"),
        (["algorithm=exact", "penalty.estimator=exact"], None, "algorithm='exact': has exact gradients"),
        (["penalty.estimator=k9"], None, "penalty.estimator='k9'"),
        (["penalty.sampler=reference", "penalty=forward_kl", "penalty.estimator=k1"], None, "penalty.sampler='reference'"),
        ([], "trl_grop", "library='trl_grop': did you mean 'trl_grpo'"),
    ],
)
def test_settings_that_no_diagnosis_knows_are_refused_in_one_line(overrides, library, message):
    with pytest.raises(SettingsError) as refused:
        diagnose({"log_probs": np.full((3, 2), -1.0)}, penalty=overrides, library=library)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "unknown",
    [
        {"importance_correction": "geometric"},
        {"importance_correction": "token", "importance_limit": "mask"},
        {"importance_correction": "token", "importance_min": 0.5},
        {"kl_mask": "opsm"},
    ],
)
def test_weights_whose_pull_is_not_known_are_refused(unknown):
    penalty = dataclasses.replace(PenaltySettings(estimator="k1", sampler="policy"), **unknown)
    with pytest.raises(SettingsError) as refused:
        pull.check_estimator(penalty)
    assert refused.value.key == f"penalty.{list(unknown)[-1]}"
