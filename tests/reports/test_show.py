"""What `rlkl show` and the end of a run print, held against the files of the run's folder."""

import csv
import io
import json
import math
import re
import shutil
from pathlib import Path

import pytest

from rlkl import cli
from rlkl.reports import console, outcomes, show, tables
from rlkl.runs.folder import csv_text
from tests.helpers import C3, HOSTILE, loaded_by

BORDERS = re.compile(r"[│┃]")


def row(text: str, first: str) -> list[str]:
    """The other cells of the table row whose first cell is this one."""
    cells = [[cell.strip() for cell in BORDERS.split(line)[1:-1]] for line in text.splitlines()]
    return next(each[1:] for each in cells if each and each[0] == first)


def moves(folder: Path) -> list[dict[str, str]]:
    """The rows of outcomes.csv, the largest |policy - reference| first, as the standard library reads them."""
    rows = list(csv.DictReader(io.StringIO((folder / "outcomes.csv").read_text(), newline="")))
    return sorted(rows, key=lambda each: -abs(float(each["policy"]) - float(each["reference"])))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Folders of a bandit's run, a sampled run and a sweep with a job that diverged."""
    folder = tmp_path_factory.mktemp("finished")
    store = f"store={folder / 'store'}"
    assert cli.main(["task=bandit/bimodal", "steps=20", "tracking=none", f"hydra.run.dir={folder / 'bandit'}", store]) == 0
    sampled = ["task=sequence/motif", "policy=gru", "policy.width=4", "algorithm=rloo", "steps=2", "batch_size=8"]
    assert cli.main([*sampled, "tracking=none", f"hydra.run.dir={folder / 'sampled'}", store]) == 0
    swept = ["penalty=reverse_kl,neyman", "optimizer=sgd", "optimizer.learning_rate=1e308", "task=bandit/random", "steps=4"]
    assert cli.main(["-m", *swept, "tracking=none", f"hydra.sweep.dir={folder / 'sweep'}", store]) == 1
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """The console of this process may have been made in a narrow terminal, by a test before."""
    monkeypatch.setattr(console.console, "width", 160)


def printed(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(list(arguments)) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_show_prints_what_the_run_printed_as_it_ended(tmp_path, call):
    ended = call(*C3, "hydra.run.dir=run").stdout
    tables_of_run = ended[ended.index("after ") : ended.index("in run")]
    assert "|policy - reference|" in tables_of_run
    done = call("show", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(tables_of_run)


def test_the_numbers_shown_are_the_files(root, capsys):
    shown, folder = printed(capsys, "show", str(root / "bandit")), root / "bandit"
    summary = json.loads((folder / "summary.json").read_text())
    assert shown.splitlines()[0] == f"E[r] - {summary['beta']:g} KL(pi‖pi_ref)"
    for name, key in (("E[r]", "reward"), ("entropy", "entropy"), ("KL(pi_ref‖pi)", "kl_ref_pi")):
        policy, best = map(float, row(shown, name))
        assert policy == pytest.approx(summary[key], abs=5e-5)
        assert best == pytest.approx(summary[f"optimum_{key}"], abs=5e-5)
    with (folder / "outcomes.csv").open() as file:
        rows = list(csv.DictReader(file))
    mean = math.fsum(float(each["optimum"]) * float(each["reward"]) for each in rows)
    assert summary["optimum_reward"] == pytest.approx(mean, abs=1e-12)
    entropy = -math.fsum(p * math.log(p) for each in rows if (p := float(each["optimum"])) > 0)
    assert summary["optimum_entropy"] == pytest.approx(entropy, abs=1e-12)


@pytest.mark.parametrize("name", ["bandit", "sampled"])
def test_the_ten_outcomes_that_moved_most_are_those_of_the_file(root, capsys, name):
    moved, count = moves(root / name), len(moves(root / name))
    shown = printed(capsys, "show", str(root / name))
    assert f"10 of {count} outcomes" in shown
    block = shown[shown.index(f"10 of {count} outcomes") :]
    assert sum(line.startswith("│") for line in block.splitlines()) == 10
    for each in moved[:10]:
        reward, reference, policy, optimum = row(block, each["outcome"])
        for text, key in (
            (reward, "reward"),
            (reference, "reference"),
            (policy.split(" ± ")[0], "policy"),
            (optimum, "optimum"),
        ):
            assert float(text) == pytest.approx(float(each[key]), rel=0.06, abs=5e-5), key
        assert (" ± " in policy) is (name == "sampled")
        if name == "sampled":
            assert float(policy.split(" ± ")[1]) == pytest.approx(float(each["policy_stderr"]), rel=0.06)


def test_fewer_outcomes_are_all_shown_and_ties_stand_in_their_order():
    rows = [("a", 1.0, 0.5, 0.25, 0.5), ("b", 0.0, 0.25, 0.5, 0.25), ("c", 0.0, 0.25, 0.25, 0.25)]
    text = csv_text.dumps(["outcome", *outcomes.COLUMNS], rows)
    moved = outcomes.most_moved(text.encode())
    assert [each.name for each in moved.outcomes] == ["a", "b", "c"]
    assert moved.title.startswith("all 3 outcomes")
    assert moved.note == ""


def test_what_outcomes_csv_leaves_out_is_said_and_a_name_like_the_note_is_none():
    note = "the 1 least likely of 2 outcomes are left out"
    rows = [("x\n# " + note, 1.0, 0.5, 0.25, None)]
    columns = ["outcome", *outcomes.COLUMNS]
    assert outcomes.most_moved(csv_text.dumps(columns, rows, note).encode()).note == note
    assert outcomes.most_moved(csv_text.dumps(columns, rows).encode()).note == ""


def test_without_a_known_move_nothing_is_shown():
    text = csv_text.dumps(["outcome", *outcomes.COLUMNS], [("a", 1.0, None, 0.5, 0.5)])
    assert outcomes.most_moved(text.encode()).outcomes == []


@pytest.mark.parametrize("width", [22, 40, 60, 120])
def test_a_long_name_is_cut_to_the_terminal_and_no_number_is(width):
    names = ["word " * 60, "猫" * 100, *(name for name in HOSTILE if name)]
    rows = [(name, 1.0, 0.5, 0.0625 + i / 1024, 0.5) for i, name in enumerate(names)]
    text = csv_text.dumps(["outcome", *outcomes.COLUMNS], rows)
    out = io.StringIO()
    shown = console.PlainConsole(**console.PLAIN, file=out, width=width)
    moved = outcomes.most_moved(text.encode())
    shown.print_table(outcomes.outcomes_table(moved, shown))
    lines = out.getvalue().splitlines()[1:]
    for outcome in moved.outcomes:
        assert any(f"{outcome.policy:.4f}" in line for line in lines)
    assert "…" in out.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out.getvalue())
    assert max(map(console.cell_len, lines)) <= width


def test_a_sweep_s_table_has_its_jobs_and_says_which_diverged(root, capsys):
    shown = printed(capsys, "show", str(root / "sweep"))
    for number, penalty in (("0", "reverse_kl"), ("1", "neyman")):
        summary = json.loads((root / "sweep" / number / "summary.json").read_text())
        cells = row(shown, number)
        assert cells[0] == penalty
        assert float(cells[1]) == pytest.approx(summary["reward"], abs=5e-5)
        assert cells[-1] == ("" if summary["diverged_at"] is None else str(summary["diverged_at"]))
    diverged = sum(json.loads(path.read_text())["diverged_at"] is not None for path in root.glob("sweep/*/summary.json"))
    assert diverged >= 1
    assert shown.splitlines()[-1] == f"2 jobs: {2 - diverged} finished, {diverged} diverged"
    assert "learning_rate" not in shown  # the jobs do not differ in it


def test_a_job_that_did_not_finish_is_counted(root, tmp_path, capsys):
    (tmp_path / "0").symlink_to(root / "bandit")
    (tmp_path / "1" / ".hydra").mkdir(parents=True)
    (tmp_path / "1" / ".hydra" / "config.yaml").write_text("seed: 1\n")
    finished = [tmp_path / "0"]
    summaries = [show.load.summary(path) for path in finished]
    assert show.counts(tmp_path, finished, summaries) == "2 jobs: 1 finished, 1 began and did not finish"


@pytest.mark.parametrize("columns", [22, 8])
def test_a_narrow_terminal_gets_every_number(root, call, columns):
    for name in ("bandit", "sampled", "sweep"):
        done = call("show", str(root / name), width=columns)
        assert (done.returncode, done.stderr) == (0, "")
        summary = json.loads(next((root / name).rglob("summary.json")).read_text())
        assert tables.number(summary["reward"]) in done.stdout


def test_a_folder_of_any_name_is_shown_and_one_without_a_run_is_refused(root, tmp_path, capsys):
    named = tmp_path / "a [red]x <i>b"
    named.mkdir()
    shutil.copytree(root / "bandit", named / "run")
    assert "bandit/bimodal" in printed(capsys, "show", str(named / "run"))
    empty = named / "empty"
    empty.mkdir()
    for arguments, says in (
        ([str(empty)], "is no folder with a finished run (a summary.json) in it or below it"),
        ([str(named / "missing")], "is no folder with a finished run in it"),
        ([], "takes one folder"),
        (["a", "b"], "takes one folder"),
    ):
        assert cli.main(["show", *arguments]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert says in said.err
        assert said.err.count("\n") == 1


def test_a_damaged_file_is_refused_by_name(root, tmp_path, capsys):
    for name, content in (("summary.json", "{"), ("outcomes.csv", "outcome,rew"), ("outcomes.csv", "outcome\na\n")):
        folder = tmp_path / f"{name}{len(content)}"
        folder.mkdir()
        for file in ("summary.json", "outcomes.csv"):
            (folder / file).write_bytes((root / "bandit" / file).read_bytes())
        (folder / name).write_text(content)
        assert cli.main(["show", str(folder)]) == 2
        assert f"its {name} is not as it was written" in capsys.readouterr().err


def test_showing_loads_no_jax():
    assert not {"jax", "pandas", "scipy", "matplotlib", "wandb"} & loaded_by("import rlkl.cli, rlkl.reports.show")
