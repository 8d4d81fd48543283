"""TRL's trainers, run as they are: what one step of theirs descends. Skipped where TRL is not installed."""

import dataclasses

import numpy as np
import pytest

from rlkl.diagnostics.check import preference_losses, trl_trainers
from rlkl.diagnostics.check.matching import Match, match
from rlkl.diagnostics.check.worlds import WORLDS, World, bandit, random_world, tree
from rlkl.errors import SettingsError

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
BETA = 0.25
UNSCALED = {"scale_rewards": "none"}


@pytest.fixture(autouse=True, scope="module")
def _trl():
    pytest.importorskip("torch")
    pytest.importorskip("trl")


def gradient(*arguments, **options) -> np.ndarray:
    return trl_trainers.first_step(*arguments, **options).gradient


def matched(trainer: str, world: World, **options) -> Match:
    without = gradient(trainer, world, 0.0, options)
    return match(world, without, gradient(trainer, world, BETA, options), BETA)


@pytest.mark.parametrize(
    ("trainer", "options", "divergence"),
    [
        ("GRPOTrainer", UNSCALED, "kl_pi_ref"),
        ("GRPOTrainer", UNSCALED | {"use_bias_correction_kl": False}, "kl_ref_pi"),
        ("RLOOTrainer", {}, "kl_pi_ref"),
    ],
)
def test_a_trainer_descends_the_divergence(trainer, options, divergence):
    on_one_token, on_several = (matched(trainer, WORLDS[name](), **options) for name in ("bandit", "unequal"))
    assert (on_one_token.divergence, on_one_token.kind) == (divergence, "exact")
    assert (on_several.divergence, on_several.kind) == (divergence, "exact" if trainer == "RLOOTrainer" else "semi")
    for each in (on_one_token, on_several):
        assert each.coefficient == pytest.approx(1.0, abs=1e-5)
        assert each.residual < 1e-6 and each.reward_residual < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("world", ["bandit", "unequal"])
@pytest.mark.parametrize(
    ("options", "coefficient"),
    [
        ({"loss_type": "cispo"}, 5.0),
        ({"loss_type": "dr_grpo"}, 1.0),
        ({"loss_type": "bnpo"}, 1.0),
        ({"loss_type": "vespo"}, 1.0),
    ],
)
def test_loss_types_that_average_over_all_tokens_differ_in_the_coefficient_alone(world, options, coefficient):
    answer = matched("GRPOTrainer", WORLDS[world](), **UNSCALED, **options)
    assert answer.divergence == "kl_pi_ref"
    assert answer.coefficient == pytest.approx(coefficient, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"loss_type": "grpo"}, {"loss_type": "sapo"}, {"importance_sampling_level": "sequence"}])
def test_dividing_by_lengths_or_one_ratio_a_sequence_leaves_no_divergence(options):
    assert matched("GRPOTrainer", WORLDS["bandit"](), **UNSCALED, **options).divergence == "kl_pi_ref"
    assert matched("GRPOTrainer", WORLDS["unequal"](), **UNSCALED, **options).divergence is None


@pytest.mark.slow
def test_the_logged_kl_of_grpo_is_the_mean_over_tokens():
    world = WORLDS["unequal"]()
    log_ratio = (world.sequences.log_pi - world.sequences.log_ref).sum(axis=1)
    logged = trl_trainers.first_step("GRPOTrainer", world, BETA, {}).metrics["kl"]
    assert logged == pytest.approx(world.probability @ log_ratio / (world.probability @ world.lengths), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "divergence"), [({}, "kl_pi_ref"), ({"use_bias_correction_kl": False}, None)])
def test_on_samples_of_one_update_ago_only_the_corrected_penalty_is_a_divergence(options, divergence):
    world = bandit()
    step = trl_trainers.second_step("GRPOTrainer", world, BETA, options)
    moved = dataclasses.replace(world, policy=step.policy)
    assert 0.5 * np.abs(step.policy - world.policy).sum() > 0.05
    assert match(moved, np.zeros_like(step.gradient), step.gradient, BETA).divergence == divergence


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_the_mean_of_a_group_shrinks_the_reward_and_leave_one_out_does_not(size):
    world, shrunk = bandit(arms=4, draws=6), (size - 1) / size
    for trainer, options, scale in (("GRPOTrainer", UNSCALED, shrunk), ("RLOOTrainer", {}, 1.0)):
        without, with_penalty = (gradient(trainer, world, beta, options, group_size=size) for beta in (0.0, BETA))
        answer = match(world, without, with_penalty, BETA)
        assert answer.step_scale == pytest.approx(scale, abs=1e-5)
        assert answer.coefficient == pytest.approx(1.0 / scale, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "options"),
    [("DPOTrainer", {}), ("DPOTrainer", {"f_divergence_type": "forward_kl"}), ("OnlineDPOTrainer", {"loss_type": "ipo"})],
)
@pytest.mark.parametrize("world", [bandit(arms=4, draws=8), random_world(tree(3, 2, ends=1), 4, 4)], ids=["bandit", "unequal"])
def test_a_step_of_dpo_is_the_gradient_of_its_definition(trainer, options, world):
    step, definition = gradient(trainer, world, BETA, options), preference_losses.dpo(world, BETA, **options)
    assert np.linalg.norm(step - definition) < 1e-5 * np.linalg.norm(definition)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["bandit", "unequal"])
def test_a_step_of_kto_holds_its_kl_fixed(world):
    step, definition = (
        gradient("KTOTrainer", WORLDS[world](), BETA, {}), preference_losses.kto(WORLDS[world](), BETA)
    )  # fmt: skip
    assert np.linalg.norm(step - definition) < 1e-6 * np.linalg.norm(definition)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["GKDTrainer", "DistillationTrainer"])
@pytest.mark.parametrize(("beta", "divergence"), [(0.0, "kl_ref_pi"), (0.5, "jensen_shannon"), (1.0, "kl_pi_ref")])
def test_distillation_descends_the_divergence_that_beta_says(trainer, beta, divergence):
    step = gradient(trainer, WORLDS["unequal"](), beta, {})
    answer = match(WORLDS["unequal"](), np.zeros_like(step), step, 1.0)
    assert (answer.divergence, answer.kind) == (divergence, "semi")


def test_unknown_trainers_and_options_are_named():
    with pytest.raises(SettingsError, match="did you mean 'GRPOTrainer'"):
        gradient("GRPOTrain", bandit(), BETA, {})
    with pytest.raises(SettingsError, match="is no option of GRPOConfig; did you mean 'loss_type'"):
        gradient("GRPOTrainer", bandit(), BETA, {"los_type": "dapo"})
    with pytest.raises(SettingsError, match="is set by the check, to 64"):
        gradient("GRPOTrainer", bandit(), BETA, {"num_generations": 2})


@pytest.mark.slow
def test_what_trl_refuses_is_one_line():
    with pytest.raises(SettingsError, match="TRL refuses this: Unknown loss type: none"):
        gradient("GRPOTrainer", bandit(), BETA, {"loss_type": "none"})
