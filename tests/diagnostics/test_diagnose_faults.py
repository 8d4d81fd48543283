"""Each warning is raised on a run that has its fault, and none on a healthy run; numbers of a batch agree with a diagnosis."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from rlkl.diagnostics.diagnose import examples
from rlkl.diagnostics.diagnose.diagnosis import diagnose
from rlkl.diagnostics.diagnose.faults import FAULTS
from rlkl.diagnostics.diagnose.monitor import monitor
from rlkl.errors import SettingsError

SETTING = ["algorithm=grpo", "penalty.estimator=k1", "penalty.placement=reward"]  # averages by sequences; descends its name
RAISED = {  # by example: the warnings that its fault must raise, and those that may come with it
    "negative_kl": ({"negative_kl", "k1_k3_disagree"}, set()),
    "temperature": ({"k1_k3_disagree"}, set()),
    "heavy_tails": ({"heavy_tails"}, {"k1_k3_disagree"}),
    "kl_at_start": ({"kl_at_start"}, set()),
    "sampler_mismatch": ({"sampler_mismatch", "mismatch_grows", "clipped"}, set()),
    "top_p": ({"truncated_sampling", "sampler_mismatch", "k1_k3_disagree"}, set()),
    "raw": ({"raw_log_probs", "k1_k3_disagree"}, set()),
    "clamped": ({"clamped"}, set()),
    "clipped": ({"clipped", "sampler_mismatch"}, set()),
    "zero_std": ({"zero_std_groups"}, set()),
    "entropy_collapse": ({"entropy_collapse"}, {"k1_k3_disagree", "heavy_tails", "clamped"}),
    "length_bias": ({"length_bias"}, set()),
}


def names(run: examples.Rollouts, penalty=()) -> set[str]:
    return {warning.name for warning in diagnose(run.arrays, penalty=penalty).warnings}


@pytest.mark.parametrize("seeds", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_healthy_run_raises_no_warning(seeds):
    raised = [names(examples.example("clean", seed)) for seed in range(seeds)]
    assert raised == [set()] * seeds


@pytest.mark.parametrize("example", RAISED)
def test_a_fault_raises_its_warnings(example):
    needed, allowed = RAISED[example]
    for seed in range(3):
        raised = names(examples.example(example, seed), SETTING if example == "length_bias" else ())
        assert needed <= raised <= needed | allowed, (seed, raised)


def test_the_other_faults_raise_their_warnings():
    arrays = examples.example("clean").arrays
    infinite = arrays | {
        "ref_log_probs": np.where(np.arange(len(arrays["mask"]))[:, None] == 7, -9999.0, arrays["ref_log_probs"])
    }
    assert "zero_probability" in {warning.name for warning in diagnose(infinite).warnings}
    assert names(examples.example("clean"), ["penalty.estimator=k3", "penalty.placement=loss"]) == {"descends_other"}


def test_every_fault_has_a_run_that_shows_it():
    shown = set.union(*(needed for needed, _ in RAISED.values())) | {"zero_probability", "descends_other"}
    assert shown == set(FAULTS)
    assert set(examples.EXAMPLES) == {*RAISED, "clean"}


def test_a_warning_says_its_number_and_its_threshold():
    warning = diagnose(examples.example("zero_std").arrays).warnings[0]
    assert warning.value > warning.threshold == 0.5
    assert f"{100 * warning.value:.0f}%" in warning.says and warning.page == "warnings/zero_std"


def test_an_unknown_example_is_refused():
    with pytest.raises(SettingsError, match="clean"):
        examples.example("cleen")


def test_examples_have_the_tables_that_they_say():
    """The sampler's tokens are drawn from the sampler's tables: frequencies at the start, within their error."""
    run, task = examples.example("top_p"), examples.tables()
    first = run.arrays["tokens"][:, 0]
    expected = np.exp(run.sampler[run.prompt, task.start])
    for token in np.flatnonzero((expected.mean(axis=0) > 0.01) & (expected.mean(axis=0) < 0.99)):
        p = expected[:, token]
        assert abs((first == token).sum() - p.sum()) < 4.0 * math.sqrt((p * (1 - p)).sum())
    assert np.allclose(np.exp(run.sampler).sum(axis=-1), 1.0)
    kept = np.where(np.isfinite(run.sampler), np.exp(run.policy), 0.0).sum(axis=-1)
    assert kept.min() >= 0.9 and kept.mean() < 0.999


@pytest.mark.parametrize("framework", ["numpy", "jax", "torch"])
def test_a_monitor_says_what_a_diagnosis_says(framework):
    arrays = {name: np.asarray(array) for name, array in examples.example("clean").arrays.items() if name != "temperature"}
    diagnosis = diagnose(arrays)
    if framework == "torch":
        torch = pytest.importorskip("torch")
        arrays = {name: torch.tensor(array) for name, array in arrays.items()}
        arrays["log_probs"].requires_grad_()
    elif framework == "jax":
        arrays = {name: jnp.asarray(array) for name, array in arrays.items()}
    watch = monitor(prefix="kl/")
    names = ("log_probs", "sampler_log_probs", "ref_log_probs", "mask")
    numbers = watch(
        **{name: arrays[name] for name in names}, reward=arrays["reward"], group=32 * arrays["step"] + arrays["group"]
    )
    mismatch = {row.name: row for row in diagnosis.mismatch[diagnosis.mismatch.per == "token"].itertuples()}
    unweighted = diagnosis.kl[(diagnosis.kl.kl == "log pi/pi_ref under mu") & (diagnosis.kl.per == "token")]
    for name in ("k1", "k3"):
        row = unweighted[unweighted.estimator == name].iloc[0]
        assert numbers[f"kl/kl_{name}"] == pytest.approx(row.value, rel=1e-9)
        assert numbers[f"kl/kl_{name}_stderr"] == pytest.approx(row.stderr, rel=1e-9)
    assert numbers["kl/mismatch_k3"] == pytest.approx(mismatch["k3 = r - 1 - log r"].value, rel=1e-7)
    assert numbers["kl/mean_ratio"] == pytest.approx(mismatch["mean ratio"].value, rel=1e-12)
    assert numbers["kl/effective_share"] == pytest.approx(mismatch["effective share"].value, rel=1e-9)
    assert numbers["kl/zero_std_groups"] == pytest.approx(diagnosis.groups.zero_std.value, rel=1e-12)
    clips = {row.limit: row for row in diagnosis.limits.itertuples()}
    assert numbers["kl/clipped"] == pytest.approx(clips["pi/mu outside [0.8, 1.2]"].tokens, abs=1e-12)
    assert numbers["kl/entropy_left"] == 1.0
    half = watch(log_probs=0.5 * np.asarray(examples.example("clean").arrays["log_probs"]), mask=np.asarray(arrays["mask"]))
    assert half["kl/entropy_left"] == pytest.approx(0.5, rel=1e-9)
    assert set(half) == {"kl/entropy", "kl/entropy_left"}


def test_a_monitor_refuses_other_shapes():
    with pytest.raises(SettingsError, match="ref_log_probs"):
        monitor()(log_probs=np.zeros((2, 3)), ref_log_probs=np.zeros((2, 4)))
    with pytest.raises(SettingsError, match="sequences x tokens"):
        monitor()(log_probs=np.zeros(3))
    with pytest.raises(SettingsError, match="above 0"):
        monitor()(log_probs=np.ones((2, 3)))
    with pytest.raises(SettingsError, match="needs group"):
        monitor()(log_probs=np.zeros((2, 3)), reward=np.zeros(2))
    with pytest.raises(SettingsError, match="no token"):
        monitor()(log_probs=np.zeros((2, 3)), mask=np.zeros((2, 3)))
