"""The builder, on experiments that a test makes: what it writes, what it runs again, what it lets pass."""

import json
import logging
import subprocess
import sys

import pandas as pd
import pytest

import experiments
import rlkl.cli
from experiments.harness import build, command, page, provenance
from experiments.harness.claims import at_least, at_most, claim_record, near
from experiments.harness.page import evidence
from tests.experiments import house


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty house, beside which one works; no saying rests on it. Logging is put back."""
    home = tmp_path / "house"
    home.mkdir()
    for module in (build, provenance):
        monkeypatch.setattr(module, "HERE", home)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(home)])
    monkeypatch.setattr(evidence, "SAYINGS", tmp_path / "sayings.yaml")
    (tmp_path / "sayings.yaml").write_text("[]\n")
    monkeypatch.chdir(tmp_path)
    in_turn = lambda names, out, given: [command.build_and_report(name, out / name, given) for name in names]  # noqa: E731
    monkeypatch.setattr(command, "build_side_by_side", in_turn)  # another process would not see this house
    command_of_rlkl, handlers = rlkl.cli.main, list(logging.root.handlers)
    silent = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    monkeypatch.setattr(rlkl.cli, "main", lambda argv: command_of_rlkl([*argv, *silent]))
    yield home
    logging.root.handlers = handlers
    for name in [name for name in sys.modules if name.startswith("experiments.") and name.endswith(("coin", "coin.figure"))]:
        del sys.modules[name]


def complaints(tmp_path) -> list[str]:
    return page.write(tmp_path / "paper")


def test_a_new_experiment_is_a_new_folder_and_nothing_else(home, tmp_path, capsys):
    house.add(home, "a_coin")
    assert command.main([]) == 0
    assert "a_coin" in capsys.readouterr().out
    assert command.main(["all"]) == 0
    assert {path.name for path in (tmp_path / "paper" / "a_coin").iterdir()} == {*provenance.KEPT, "manifest.json"}
    assert "All 2 claims of 1 experiments hold." in (tmp_path / "paper" / "index.html").read_text()
    assert command.main([]) == 0
    assert "2 claims hold" in capsys.readouterr().out


def test_a_false_claim_fails_the_build_and_the_page_says_which(home, tmp_path, capsys):
    house.add(home, "a_coin", slope=2.1)
    assert command.main(["a_coin"]) == 1
    assert command.main(["all"]) == 1
    assert "paper: a_coin: is false: slope of y & x: 2.1, not 2 +- 1e-09" in capsys.readouterr().out
    assert "does not hold" in (tmp_path / "paper" / "index.html").read_text()
    claims = json.loads((tmp_path / "paper" / "a_coin" / "claims.json").read_text())
    assert claims[0] == {"claim": "slope of y & x", "value": pytest.approx(2.1), "bound": "2 +- 1e-09", "verdict": False}


def test_an_experiment_that_raises_fails_and_leaves_the_others_their_turn(home, tmp_path, capsys):
    house.add(home, "a_coin")
    house.add(home, "b_coin")
    (home / "a_coin" / "figure.py").write_text('"""A coin: broken."""\n\nraise RuntimeError("no such coin")\n')
    assert command.main(["all"]) == 1
    assert (tmp_path / "paper" / "b_coin" / "figure.pdf").is_file()
    out, err = capsys.readouterr()
    assert "a_coin: not built" in out and "no such coin" in err
    assert "paper: a_coin: is not built" in out


def test_a_sweep_that_cannot_run_fails_its_experiment(home, capsys):
    house.add(home, "a_coin", "- [task=bandit/nothing, tracking=none]\n")
    assert command.main(["a_coin"]) == 1
    assert "a_coin: not built" in capsys.readouterr().out


def test_what_is_missing_changed_tampered_with_or_reduced_is_complained_of(home, tmp_path):
    house.add(home, "a_coin")
    assert complaints(tmp_path) == ["a_coin: is not built (python -m experiments a_coin)"]
    assert command.main(["a_coin"]) == 0
    assert complaints(tmp_path) == []
    folder = tmp_path / "paper" / "a_coin"
    numbers = (folder / "figure.csv").read_text()
    (folder / "figure.csv").write_text(numbers.replace("0.1", "0.7"))
    assert complaints(tmp_path) == ["a_coin: figure.csv is not as it was built"]
    (folder / "figure.csv").write_text(numbers)
    (home / "a_coin" / "sweep.yaml").write_text("[]  # now said\n")
    assert complaints(tmp_path) == ["a_coin: is out of date: sweep.yaml changed since it was built"]
    house.add(home, "a_coin", slope=3.0)
    assert complaints(tmp_path) == ["a_coin: is out of date: code changed since it was built"]
    house.add(home, "a_coin", quick=", quick=False")
    del sys.modules["experiments.a_coin.figure"]
    assert command.main(["a_coin", "--quick", "--out", "paper"]) == 0
    assert complaints(tmp_path) == ["a_coin: is reduced (--quick), so that its claims say nothing"]


def test_a_finished_sweep_is_not_trained_again_and_a_changed_one_reads_its_own_runs(home, tmp_path, capsys):
    house.add(home, "a_coin", house.TRAINED)
    runs = build.build("a_coin", tmp_path / "runs", tmp_path / "paper" / "a_coin").runs
    assert len(runs.summary) == 4
    capsys.readouterr()
    assert command.main(["a_coin"]) == 0
    assert "4 of them before" in capsys.readouterr().out
    house.add(home, "a_coin", house.TRAINED.replace("0.1,0.2", "0.1"))
    fewer = build.build("a_coin", tmp_path / "runs", tmp_path / "paper" / "a_coin").runs
    assert len(fewer.summary) == 2
    assert fewer.root != runs.root and fewer.root.parent == runs.root.parent


def test_a_redrawing_trains_nothing_and_writes_the_same(home, tmp_path, monkeypatch):
    house.add(home, "a_coin", house.TRAINED)
    assert command.main(["a_coin", "--redraw"]) == 1  # there is nothing yet
    assert command.main(["a_coin"]) == 0
    folder = tmp_path / "paper" / "a_coin"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(rlkl.cli, "main", lambda argv: pytest.fail("it trains"))
    monkeypatch.setattr(build.module("a_coin"), "table", lambda runs: pytest.fail("it computes"))
    assert command.main(["a_coin", "--redraw"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert complaints(tmp_path) == []


def test_a_redrawing_after_a_change_of_style_is_told_from_the_making_of_the_numbers(home, tmp_path):
    house.add(home, "a_coin")
    assert command.main(["a_coin"]) == 0
    old = json.loads((tmp_path / "paper" / "a_coin" / "manifest.json").read_text())
    house.add(home, "a_coin")
    (home / "a_coin" / "figure.py").write_text((home / "a_coin" / "figure.py").read_text().replace('"o"', '"s"'))
    del sys.modules["experiments.a_coin.figure"]
    assert command.main(["a_coin", "--redraw"]) == 0
    new = json.loads((tmp_path / "paper" / "a_coin" / "manifest.json").read_text())
    assert new["inputs"] == old["inputs"] and new["drawn_by"] != old["drawn_by"]
    assert {key for key in new["files"] if new["files"][key] != old["files"][key]} == {"figure.pdf", "figure.png", "figure.svg"}


def test_reduced_sweeps(home):
    house.add(home, "a_coin", house.TRAINED)
    assert build.sweeps("a_coin", quick=True) == [
        ["task=bandit/two_modes", "penalty.beta=0.1,0.2", "seed=0", f"steps={build.QUICK_STEPS}", "tracking=none"]
    ]
    house.add(home, "a_coin", f"{house.TRAINED}---\n- [task=bandit/zipf, steps=3]\n")
    assert build.sweeps("a_coin", quick=True) == [["task=bandit/zipf", "steps=3"]]
    assert build.sweeps("a_coin") == [
        ["task=bandit/two_modes", "steps=40", "penalty.beta=0.1,0.2", "seed=0,1", "tracking=none"]
    ]


@pytest.mark.parametrize(("sweep", "quick", "status"), [(house.TRAINED, "", 0), ("[]\n", ", quick=False", 0), ("[]\n", "", 1)])
def test_reduced_claims_are_stated_and_enforced_only_where_nothing_is_reduced(home, tmp_path, capsys, sweep, quick, status):
    house.add(home, "a_coin", sweep, slope=2.5, quick=quick)
    assert command.main(["a_coin", "--quick"]) == status
    assert ("not enforced" in capsys.readouterr().out) == (status == 0)
    assert (tmp_path / "outputs" / "quick" / "a_coin" / "claims.json").is_file()
    assert not (tmp_path / "paper").exists()


def test_what_the_readme_shows_is_put_beside_the_experiment(home, tmp_path):
    house.add(home, "a_coin")
    assert command.main(["a_coin", "--readme"]) == 0
    for name in ("figure.png", "figure.csv"):
        assert (home / "a_coin" / name).read_bytes() == (tmp_path / "paper" / "a_coin" / name).read_bytes()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a_con"], "did you mean 'a_coin'?"),
        (["a_coin", "--quick", "--redraw"], "--quick"),
        (["a_coin", "--quick", "--readme"], "--quick"),
    ],
)
def test_a_bad_command_line_says_so_in_a_line(home, capsys, argv, said):
    house.add(home, "a_coin")
    with pytest.raises(SystemExit) as stopped:
        command.main(argv)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_manifest_tells_what_the_files_came_from(home, tmp_path):
    house.add(home, "a_coin", house.TRAINED)
    assert command.main(["a_coin"]) == 0
    about = json.loads((tmp_path / "paper" / "a_coin" / "manifest.json").read_text())
    assert about["configs"] == build.sweeps("a_coin") and not about["quick"] and about["seconds"] > 0.0
    assert about["versions"]["pandas"] == pd.__version__
    assert about["drawn_by"] == about["inputs"]["code"]
    assert set(about["files"]) == set(provenance.KEPT)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_claim_without_a_number_is_false_and_valid_json(value):
    for claim in (near("a", value, 1.0, 0.1), at_most("a", abs(value), 1.0), at_least("a", -abs(value), 1.0)):
        assert not claim.verdict
        assert json.loads(json.dumps(claim_record(claim), allow_nan=False))["value"] is None


def test_several_are_built_side_by_side_and_one_that_fails_fails_all(tmp_path, monkeypatch, capsys):
    """Each by the command itself, with its flags; what it said is shown."""
    asked = []

    def run(line, **rest):
        asked.append(line[1:])
        return subprocess.CompletedProcess(line, int(line[3] == "rates"), f"[said] by {line[3]}\n")

    monkeypatch.setattr(command.subprocess, "run", run)
    flags = ["--quick", "--out", str(tmp_path)]
    assert command.main(["tails", "rates", *flags]) == 1
    assert sorted(asked) == [["-m", "experiments", name, *flags] for name in ("rates", "tails")]
    assert {"[said] by tails", "[said] by rates", "2 of 2 experiments"} <= set(capsys.readouterr().out.splitlines())
    assert command.main(["tails", "simplex", *flags]) == 0
