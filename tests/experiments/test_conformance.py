"""The conformance matrix: its committed table, its presets, what a later run finds otherwise, and where training ended."""

import importlib

import numpy as np
import pandas as pd
import pytest

from experiments.conformance import matrix, table
from experiments.conformance.rows import Row
from rlkl.diagnostics.check import check
from tests.helpers import CLONE

FOLDER = CLONE / "experiments" / "conformance"
READ = [path.stem for path in sorted((FOLDER / "read").glob("[a-z]*.py")) if path.stem not in ("estimators", "policy_gradient")]
TABLE = table.read_rows(table.TABLE)
LINES = matrix.lines(TABLE)
PRESETS = {  # a preset's library, and the setting whose row it copies
    "trl_grpo": ("TRL", "1.16.0", "default (GRPO, beta above 0)"),
    "trl_grpo_k3": ("TRL", "1.9.2", "default (GRPO, beta above 0)"),
    "trl_rloo": ("TRL", "1.16.0", "RLOO"),
    "verl_grpo": ("verl", "0.9.1", "default (use_kl_loss, kl_loss_type=low_var_kl)"),
    "tunix_grpo": ("Tunix", "0.1.7", "loss_agg_mode=token-mean"),
    "openrlhf_reinforce": ("OpenRLHF", "0.11.2", "k1 in the reward, estimator=reinforce"),
}


def line(library: str, version: str, setting: str) -> matrix.Line:
    return next(each for each in LINES if (each.library, each.version, each.setting) == (library, version, setting))


@pytest.mark.parametrize("name", READ)
def test_every_row_that_is_read_is_in_the_table(name):
    module = importlib.import_module(f"experiments.conformance.read.{name}")
    rows = TABLE[(TABLE["library"] == module.LIBRARY) & (TABLE["version"] == module.VERSION)]
    assert list(dict.fromkeys(rows["setting"])) == [row.setting for row in module.ROWS]
    assert set(rows["how"]) == {"read"}
    assert module.ROWS[0].setting.startswith(("default", "PPO"))
    for row in module.ROWS:
        assert row.loss.__doc__ and row.loss.__module__ == module.__name__


def test_a_row_that_is_read_says_what_the_table_says():
    """One of them anew; `make conformance` runs all."""
    module = importlib.import_module("experiments.conformance.read.torchforge")
    origin = table.Origin(module.LIBRARY, module.VERSION, "read", "", module.ROWS[0].setting, "", "")
    names = ("bandit", "unequal")
    measured = pd.DataFrame(
        table.checked_rows(lambda: check.check_loss(module.ROWS[0].loss, worlds=names), origin), columns=table.COLUMNS
    )
    measured = table.read_text(measured.to_csv(index=False))
    committed = TABLE[(TABLE["library"] == module.LIBRARY) & (TABLE["setting"] == origin.setting) & TABLE["world"].isin(names)]
    assert list(table.differences(committed, measured)) == []


def test_a_run_that_finds_otherwise_says_so():
    part = TABLE[(TABLE["library"] == "verl") & (TABLE["world"] == "bandit")].iloc[:4]
    changed = part.copy()
    changed.loc[changed.index[0], "divergence"] = "pearson"
    changed.loc[changed.index[1], "coefficient"] = str(float(part["coefficient"].iloc[1]) + 1e-7)  # rounding
    found = list(table.differences(part, changed.iloc[:3]))
    assert [each.split(":")[0] for each in found] == ["gone", "differs"]
    assert "divergence was kl_ref_pi and is pearson" in found[1]


def raising(log_probs, beta):
    raise NotImplementedError("not here")


def test_a_setting_that_raises_is_a_row():
    origin = table.Origin("a", "1", "live", "today", "full", "", "")
    (row,) = table.checked_rows(lambda: check.check_loss(Row("full", raising).loss), origin)
    assert row["kind"] == "raises" and "NotImplementedError" in row["descends"]
    assert line("verl", "0.9.1", "kl_loss_type=full").descends == {"": "raises"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_descends_what_the_library_s_row_does(preset):
    """On one token and on sequences, as the preset's own comment says."""
    row, said = line(*PRESETS[preset]), (CLONE / "configs" / "penalty" / f"{preset}.yaml").read_text()
    for place, world in (("a bandit", "bandit"), ("sequences", "equal")):
        words = next(each for each in said.splitlines() if each.startswith(f"# On {place} it descends"))
        expected = words.removeprefix(f"# On {place} it descends ").rstrip(".")
        semi = expected.startswith("the semi-gradient")
        text = row.descends[world]
        assert text == (
            expected.removeprefix("the semi-gradient of each token's ").partition(" (")[0].join(("semi ", "")) if semi
            else "nothing" if expected.startswith("nothing") else expected
        )  # fmt: skip


def test_trl_changed_direction_at_1_10_0():
    setting = "default (GRPO, beta above 0)"
    assert [line("TRL", version, setting).descends["bandit"] for version in ("1.9.2", "1.10.0", "1.16.0")] == [
        "KL(pi_ref‖pi)", "KL(pi‖pi_ref)", "KL(pi‖pi_ref)",
    ]  # fmt: skip
    assert line("TRL", "1.9.2", setting).descends["unequal"] == "semi KL(pi_ref‖pi)"
    assert line("TRL", "1.16.0", setting).descends["unequal"] == "semi KL(pi‖pi_ref)"


@pytest.mark.parametrize("world", ["bandit", "equal", "unequal"])
def test_every_library_has_its_default_and_each_row_is_small_in_residual_or_of_no_divergence(world):
    assert {each.library for each in LINES if each.setting.startswith(("default", "PPO"))} == {each.library for each in LINES}
    rows = TABLE[(TABLE["world"] == world) & TABLE["kind"].isin(("exact", "semi", "other"))]
    assert (rows["residual"].astype(float) < 1e-5).all()


def test_training_ended_where_the_check_says():
    """In every case and with every seed the predicted end is the nearest, by a factor of two or more."""
    ends = pd.read_csv(FOLDER / "ends.csv")
    runs = ends.groupby(["trainer", "options", "tokens", "seed"], dropna=False)
    assert len(runs) == 30
    for case, run in runs:
        predicted = run[run["predicted"]]["total_variation"]
        assert len(predicted) == 1
        assert predicted.iloc[0] < run[~run["predicted"]]["total_variation"].min() / 2, case


def test_a_line_is_short():
    assert matrix.short(
        "semi", "kl_pi_ref", "the semi-gradient of each token's KL(pi‖pi_ref) (the states that follow are left out)"
    ) == ("semi KL(pi‖pi_ref)")
    assert matrix.short("none", "", "the gradient of no divergence; the nearest is KL(pi‖pi_ref)") == "no divergence"
    assert np.allclose(matrix.colour("semi KL(pi‖pi_ref)")[:3], matrix.colour("KL(pi‖pi_ref)")[:3])
