"""`rlkl grade`: what its measurements are, that every score can fail, and what the command leaves."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import rlkl
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.diagnostics.audit.gradients import BANDIT, gradients, random_automaton
from rlkl.diagnostics.scorecard import command, extreme_ratios, grade, radar, scores, suite
from rlkl.errors import SettingsError
from rlkl.penalties.expected_gradient import ExpectedGradient
from rlkl.policies.tabular import Tabular
from rlkl.tasks.bandits import bandit
from rlkl.training import spec
from tests.helpers import EXAMPLE

MINI = suite.Size(betas=(0.1, 1.0), seeds=2, steps=120, policies=2)
STEEP = '''
import jax.numpy as jnp
from rlkl.divergences import register


@register("steep", zero=jnp.inf, infinity=0.2)
def steep(u, params):
    """sum pi_ref ((t^-4 - 1)/20 + (t - 1)/5): its slope at a log-ratio of -200 is no number of any dtype."""
    return jnp.expm1(-4.0 * u) / 20.0 + jnp.expm1(u) / 5.0, -jnp.expm1(-5.0 * u) / 5.0
'''


def resolved(task: str, *overrides: str):
    return build(compose([f"task={task}", "algorithm=rloo", *overrides])).run.settings


def softmax_gradient(pi: np.ndarray, by_pi: np.ndarray) -> np.ndarray:
    return pi * (by_pi - pi @ by_pi)


def test_gradients_are_compared_with_closed_forms():
    """On a bandit k3 in the loss descends KL(pi_ref‖pi), whose gradient by the logits is pi - pi_ref."""
    found = gradients(resolved("bandit/random", "penalty=trl_grpo_k3"), BANDIT, 3)
    draw = np.random.default_rng(0)
    log_ref, logits = draw.normal(size=(3, 10)), draw.normal(size=(3, 10))
    for i in range(3):
        ref, pi = (np.exp(x) / np.exp(x).sum() for x in (log_ref[i], logits[i]))
        right, other = softmax_gradient(pi, np.log(pi / ref)), pi - ref
        assert found.error[i] == pytest.approx(np.linalg.norm(other - right) / np.linalg.norm(right), rel=1e-9)
        assert found.cosine[i] == pytest.approx(right @ other / np.linalg.norm(right) / np.linalg.norm(other), rel=1e-9)


@pytest.mark.parametrize("way", ["penalty=reverse_kl", "penalty=forward_kl penalty.sampler=reference", "penalty=mixed"])
def test_the_expected_gradient_of_an_unbiased_way_is_exact(way):
    on = ("bandit/random", BANDIT), ("sequence/brackets", random_automaton())
    for task, automaton in on if "sampler" not in way else on[:1]:
        assert gradients(resolved(task, *way.split()), automaton, 2).error.max() <= 1e-10


def test_an_inert_penalty_s_gradient_has_an_error_of_one_and_no_cosine():
    found = gradients(resolved("sequence/brackets", "penalty=tunix_grpo"), random_automaton(), 2)
    np.testing.assert_allclose(found.error, 1.0, atol=1e-12)
    assert np.isnan(found.cosine).all()


def failed(task: str, horizon: int, *overrides: str) -> set[tuple[str, str]]:
    return {(c.name, c.dtype) for c in extreme_ratios.run_checks(resolved(task, *overrides), horizon) if not c.passed}


def test_what_overflows_fails_the_checks_and_what_does_not_passes():
    """e^200 is a number in float64 alone, and k2 and k1 are numbers in both."""
    assert failed("bandit/random", 1, "penalty=reverse_kl", "penalty.estimator=k1") == set()
    assert failed("bandit/random", 1, "penalty=reverse_kl", "penalty.estimator=k2") == set()
    assert failed("bandit/random", 1, "penalty=trl_grpo_k3") == {("-200", "float32")}
    assert failed("sequence/brackets", 2, "penalty=forward_kl") == {("-200", "float32")}


def test_a_plugin_that_overflows_in_every_dtype_fails_in_every_dtype(tmp_path):
    (tmp_path / "steep.py").write_text(STEEP)
    chosen = f"plugins=[{tmp_path / 'steep.py'}]", "penalty.divergence=steep"
    assert {("-200", "float32"), ("-200", "float64")} <= failed("sequence/brackets", 2, *chosen)


def test_a_task_keeps_the_proportions_of_what_is_equally_good():
    task = bandit([0.0, 1.0, 1.0, 0.5], [0.4, 0.3, 0.1, 0.2])
    run = spec.make_run(resolved("bandit/random"), jax.tree.map(jnp.asarray, task))
    policy = Tabular(jnp.log(jnp.asarray([0.1, 0.2, 0.4, 0.3]))[None, None], jnp.asarray(task.automaton.legal))
    assert float(suite.retained_mass(run, policy)) == pytest.approx(min(0.75, 1 / 3) + min(0.25, 2 / 3))
    assert float(suite.retained_mass(run, run.reference)) == pytest.approx(1.0)


def test_the_suite_is_what_it_says():
    setups = (*suite.bandits(), *map(suite.sequence, suite.SEQUENCES))
    assert {setup.name for setup in setups if setup.several} == {"modes", "motif", "brackets"}
    for setup in setups:
        reward = np.asarray(setup.task.reward)[setup.task.automaton.outcomes]
        assert reward.min() >= 0.0
        assert reward.max() <= 1.0
        assert setup.ends.sum() == pytest.approx(1.0)
    for far, setup in zip(suite.DROPPED, (setup for setup in setups if setup.lost is not None), strict=True):
        start = setup.start[0, 0] - np.logaddexp.reduce(setup.start[0, 0])
        log_ref = setup.task.log_reference[0]
        apart = (start - log_ref)[setup.lost - 1] - (start - log_ref)[setup.lost]
        assert apart == pytest.approx(-far)
        assert setup.task.reward.max() == 0.0


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """A mini grade of the exact KL, and the override that names the store it is in."""
    store = f"store={tmp_path_factory.mktemp('grades') / 'store'}"
    return rlkl.grade(["penalty=reverse_kl", store], MINI, ()), store


@pytest.mark.slow
def test_a_good_penalty_s_scores_are_high(mini):
    scored = mini[0].scores
    assert scored[["penalty", "candidate"]].to_numpy().tolist() == [["reverse_kl", True]]
    good = scored.iloc[0]
    assert good[list(grade.SCORES)].between(0.0, 1.0).all()
    assert good["gradient"] >= 1.0 - 1e-10
    assert good["extreme_ratios"] >= 0.9
    assert good["objective"] >= 0.6
    assert good["seeds"] >= 0.9


def test_learning_and_coverage_fail_where_the_penalty_is_inert():
    """On the bandits; the gradient's score of such a penalty, 0, and the checks at extreme log-ratios are above."""
    setups, size = suite.bandits(), suite.FULL._replace(betas=(0.1, 1.0), seeds=3)
    found = suite.train_suite(resolved("bandit/zipf", "penalty=tunix_grpo"), setups, size)
    for setup, at in zip(setups, found, strict=True):
        if setup.name in ("random", "zipf"):
            assert grade.uncertain(at, setup.reference_reward) is None
            assert scores.objective(at.objective, setup.reference_reward, at.best[:, 0]) <= 0.3
            assert scores.reward_at_kl(at.kl, at.reward, setup.ends, setup.rewards) <= 0.5
        elif setup.lost is not None:
            assert (at.ends[..., setup.lost] / setup.reference[setup.lost] <= 0.1).all()
        elif setup.several:
            assert at.kept.mean() <= 0.7


def test_details_hold_every_number_behind_a_score(mini):
    own = mini[0].details
    on = own[(own["task"] == "zipf") & own["measure"].isin(["objective", "optimal_objective"])]
    by = on.pivot_table(index=["beta", "seed"], columns="measure", values="value")
    objective, best = (by[name].unstack().to_numpy() for name in ("objective", "optimal_objective"))
    zipf = next(setup for setup in suite.bandits() if setup.name == "zipf")
    assert 0.0 < scores.objective(objective, zipf.reference_reward, best[:, 0]) < 1.0
    assert (objective <= best + 1e-12).all()
    errors = own[own["measure"] == "relative_error"]["value"]
    assert scores.gradient(errors.to_numpy()) == mini[0].scores["gradient"].iloc[0]
    assert (own[own["measure"] == "steps"]["value"] == MINI.steps).all()


def test_grades_are_kept(mini):
    found, store = mini
    heard = []
    again = rlkl.grade(["penalty=reverse_kl", store], MINI, (), lambda name, part: heard.append(name))
    assert heard == []
    pd.testing.assert_frame_equal(again.scores, found.scores)
    pd.testing.assert_frame_equal(again.details, found.details, check_dtype=False)


def test_an_edited_plugin_is_graded_anew(tmp_path):
    path, keys = tmp_path / "steep.py", []
    for text in (STEEP, STEEP.replace("20.0", "20.00"), STEEP):
        path.write_text(text)
        named, files, shared = command.entrants([str(path)], ())
        keys.append(grade.grade_fingerprint(command.entrant(named[0], files, shared)[0], MINI))
    assert keys[0] == keys[2] != keys[1]


def test_the_command_writes_its_table_frames_and_figure(mini, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "SHIPPED", ("reverse_kl",))
    command.run_grade([mini[1], "penalty=reverse_kl"], tmp_path / "grade", MINI)
    assert {path.name for path in (tmp_path / "grade").iterdir()} == {"grade.csv", "details.csv", "grade.png", "grade.pdf"}
    said = capsys.readouterr().out
    assert "1 of 1 grades were in the store" in said  # the candidate is the shipped one: it is not there twice
    table, details = (pd.read_csv(tmp_path / "grade" / f"{name}.csv") for name in ("grade", "details"))
    assert table["penalty"].tolist() == ["reverse_kl"]
    assert table["objective"].tolist() == mini[0].scores["objective"].tolist()
    assert len(details) == len(mini[0].details)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("score", "bad", "most"),
    [("gradient", "tunix_grpo", 1e-12), ("objective", "tunix_grpo", 0.1), ("reward_at_kl", "tunix_grpo", 0.7),
     ("coverage", "tunix_grpo", 0.5), ("seeds", "tunix_grpo", 0.9), ("extreme_ratios", "steep", 0.8)],
)  # fmt: skip
def test_every_score_of_the_whole_suite_can_fail(whole, score, bad, most):
    scored = whole.set_index("penalty")
    assert scored.loc[bad, score] <= most
    assert scored.loc["reverse_kl", score] >= (0.7 if score == "coverage" else 0.9)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pd.DataFrame:
    """The whole suite for the exact KL, a penalty that descends nothing, and a plugin whose numbers overflow."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "steep.py").write_text(STEEP)
    return rlkl.grade([str(folder / "steep.py"), f"store={folder / 'store'}"], shipped=("reverse_kl", "tunix_grpo")).scores


def test_what_is_undefined_is_a_dash_with_a_reason():
    best = np.full((2, 3), 0.5)
    reached = suite.Reached(best - 0.1, best, best, best, np.zeros((2, 3)), best, best[..., None], best)
    assert grade.uncertain(reached, 0.1) is None
    assert "no exact optimum" in grade.uncertain(reached._replace(best=best * np.nan), 0.1)
    assert "certified" in grade.uncertain(reached._replace(gap=np.full((2, 3), 0.1)), 0.1)
    assert "beat" in grade.uncertain(reached._replace(objective=best + 0.1), 0.1)
    assert "gains nothing" in grade.uncertain(reached, 0.5)
    named = dict.fromkeys(grade.SCORES, 0.5) | {"objective": np.nan}
    entry = grade.GradedPenalty(
        grade.NamedPenalty("mine", (), True),
        grade.Grade(named, {"objective": "zipf: why"}, []),
        (ExpectedGradient("exact", ""),) * 2,
        (),
        False,
    )
    assert list(command.notes([entry])) == ["- mine, objective: undefined (zipf: why)"]
    inert = entry._replace(descends=(ExpectedGradient("inert", "nothing"), ExpectedGradient("semi", "a part")))
    assert next(iter(command.notes([inert]))) == "* mine descends nothing, on sequences a part"
    assert list(command.scorecard_table([entry]).columns[2].cells) == ["-"]
    assert command.frames([entry]).scores["undefined"].tolist() == ["objective: zipf: why"]
    radar.radar_figure([entry])


def test_arguments_name_candidates(tmp_path):
    (tmp_path / "mine.py").write_text(EXAMPLE.group(1).replace("triangular", "named"))
    path = str(tmp_path / "mine.py")

    def names(*arguments):
        return [(each.name, each.overrides) for each in command.entrants(arguments, ())[0]]

    assert names() == []
    assert names(path) == [("named", ("penalty.divergence=named",))]
    assert names(path, "penalty.estimator=score") == [
        ("named estimator=score", ("penalty.divergence=named", "penalty.estimator=score"))
    ]
    assert names("penalty=verl_grpo", "penalty.gradient=unbiased") == [
        ("verl_grpo gradient=unbiased", ("penalty=verl_grpo", "penalty.gradient=unbiased"))
    ]
    assert names("penalty.estimator=k2") == [("reverse_kl estimator=k2", ("penalty=reverse_kl", "penalty.estimator=k2"))]
    assert names("algorithm=grpo") == []
    assert command.entrants(["algorithm=grpo"], ("mixed",)) == (
        [grade.NamedPenalty("mixed", ("penalty=mixed",), False)], [], ["algorithm=grpo"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.py"], "no such file"),
        (["empty.py"], "registers no divergence"),
        (["penalty.beta=0.5"], "the same coefficients: 0.02, 0.05"),
        (["task=bandit/zipf"], "is fixed"),
        (["steps=9"], "rlkl grade takes penalty, algorithm"),
        (["penalty=reverse_k"], "did you mean 'reverse_kl'"),
        (["penalty.estimater=k1"], "unknown option"),
        (["penalty.estimator=k3", "penalty.placement=loss"], "allow_biased"),
        (["penalty.controller=lagrangian", "penalty.target_kl=1"], "fixed coefficients"),
        (["nonsense"], "is no command"),
    ],
)
def test_what_cannot_be_graded_is_refused_in_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(SettingsError) as refused:
        command.graded_penalties(arguments, MINI, (), lambda name, part: None)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_no_penalty_has_no_gradient_to_be_right_about():
    chosen = resolved("bandit/random", "penalty=none")
    assert {run.settings.penalty.beta for run in suite.runs(chosen, suite.bandits()[0].task, MINI)} == {0.0}
    entrant = grade.Entrant(chosen, resolved("sequence/brackets", "penalty=none"))
    tiny = MINI._replace(betas=(1.0,), seeds=1, steps=2)
    found = grade.measure_grade(entrant, tiny, lambda part: None)
    assert np.isnan([found.scores["gradient"], found.scores["extreme_ratios"]]).all()
    assert found.reasons == {"gradient": grade.NO_PENALTY, "extreme_ratios": grade.NO_PENALTY}
    assert np.isfinite([found.scores["objective"], found.scores["coverage"]]).all()
    json.dumps([grade.none_for_nan(detail.value) for detail in found.details], allow_nan=False)
