"""`rlkl diagnose` as a user meets it: arguments, refusals, the answer, its files, its page and wandb."""

import dataclasses
import functools
import io
import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import rlkl
from rlkl import cli
from rlkl.diagnostics.diagnose import command, penalty
from rlkl.diagnostics.diagnose.faults import FAULTS
from rlkl.diagnostics.diagnose.reading.chunk import Chunk, Header
from rlkl.diagnostics.diagnose.reading.write import write_rollouts
from rlkl.diagnostics.diagnose.showing import answer, figures, report, sheets, text, tracking
from rlkl.diagnostics.diagnose.showing.advice import ADVICE
from rlkl.diagnostics.diagnose.showing.page import page
from rlkl.errors import SettingsError
from rlkl.reports import plots
from rlkl.reports.console import PLAIN, PlainConsole
from rlkl.runs.tracking import wandb_log
from tests.helpers import loaded_by
from tests.reports.test_report import Page

N, T, V = 60, 6, 4
DRAW = np.random.default_rng(0)
PENALTY = ("penalty.estimator=k3", "penalty.placement=loss", "algorithm=grpo")


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum())


PI = log_softmax(DRAW.normal(size=V))
REF, MU = (log_softmax(PI + size * DRAW.normal(size=V)) for size in (0.3, 0.05))
TOKENS = DRAW.choice(V, size=(N, T), p=np.exp(MU))
FIELDS = {
    "log_probs": PI[TOKENS],
    "ref_log_probs": REF[TOKENS],
    "sampler_log_probs": MU[TOKENS],
    "tokens": TOKENS,
    "advantages": (TOKENS[:, 0] == 1) - 0.25,
    "reward": (TOKENS[:, 0] == 1).astype(float),
    "group": np.arange(N) // 4,
    "step": np.arange(N) // 4,
    "mask": np.arange(T) < DRAW.integers(1, T + 1, size=N)[:, None],
}
WEAKER = np.where(DRAW.random((N, T)) < 0.02, -9999.0, REF[TOKENS])  # the reference gives some tokens no probability
CASES = {
    "policy": (["log_probs"], {}, {}),
    "sampler alone": (["sampler_log_probs"], {}, {}),
    "reference": (["log_probs", "ref_log_probs", "mask"], {}, {}),
    "sampler": (["log_probs", "sampler_log_probs", "mask"], {}, {}),
    "all": (["log_probs", "ref_log_probs", "sampler_log_probs", "mask"], {}, {}),
    "groups": (["log_probs", "ref_log_probs", "group", "reward", "advantages"], {}, {}),
    "steps": (["log_probs", "ref_log_probs", "sampler_log_probs", "step", "tokens"], {}, {}),
    "everything": (list(FIELDS), {}, {"temperature": 0.7, "reported": "raw", "model": "a <b>", "reference": "[red]x"}),
    "samples of the reference": (["log_probs", "ref_log_probs", "step"], {}, {"sampled_from": "reference"}),
    "policy's samples, scored by a sampler": (["log_probs", "sampler_log_probs"], {}, {"sampled_from": "policy"}),
    "infinite": (["log_probs", "ref_log_probs", "step", "group", "reward"], {"ref_log_probs": WEAKER}, {}),
    "one sequence": (["log_probs", "ref_log_probs"], {name: FIELDS[name][:1] for name in ("log_probs", "ref_log_probs")}, {}),
}


def arrays(case: str) -> dict:
    names, other, _ = CASES[case]
    return {name: other.get(name, FIELDS[name]) for name in names}


@pytest.fixture(scope="module")
def diagnoses():
    """Every case, without and with a penalty, whose setting is resolved once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(penalty, "known_setting", functools.cache(penalty.known_setting))
        return {
            (case, penalised): rlkl.diagnose(arrays(case), penalty=PENALTY if penalised else (), **CASES[case][2])
            for case in CASES
            for penalised in (False, True)
        }


@pytest.fixture
def file(tmp_path) -> Path:
    """A file of JSON lines with every field but group and advantages."""
    flat = {name: FIELDS[name][FIELDS["mask"]] for name in ("log_probs", "ref_log_probs", "sampler_log_probs", "tokens")}
    chunk = Chunk(FIELDS["mask"].sum(1), **flat, reward=FIELDS["reward"], step=FIELDS["step"])
    write_rollouts(tmp_path / "run.jsonl", Header(reported="raw"), [chunk])
    return tmp_path / "run.jsonl"


@pytest.mark.parametrize("penalised", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_whatever_is_missing_the_answer_is_whole(diagnoses, monkeypatch, case, penalised):
    """No empty table, no line wider than the console, and every KL with its formula."""
    diagnosis = diagnoses[case, penalised]
    out = PlainConsole(**PLAIN, width=100, file=io.StringIO())
    monkeypatch.setattr(text, "console", out)
    text.print_diagnosis(diagnosis)
    printed = out.file.getvalue()
    assert max(map(len, printed.splitlines())) <= 100
    for sheet in [*sheets.short_sheets(diagnosis), *sheets.all_sheets(diagnosis)]:
        assert sheet.rows and {len(row) for row in sheet.rows} == {len(sheet.columns)}
        assert any(any(row[sheet.names :]) for row in sheet.rows)
    for sentence in answer.sentences(diagnosis):
        assert "nan" not in sentence
    for warning in diagnosis.warnings:
        assert warning.says.split()[0] in printed and f"docs/{warning.page}.md" in " ".join(printed.split())
    for what in ("KL(pi‖pi_ref)", "KL(mu‖pi)"):
        assert (what in " ".join(answer.sentences(diagnosis))) <= (what in printed)
    assert ("KL(pi‖pi_ref) is" in printed) == ("ref_log_probs" in CASES[case][0] and case != "samples of the reference")
    assert ("KL(pi_ref‖pi) is" in printed) == (case == "samples of the reference")
    assert ("The penalty (k3 in the loss, of each token; grpo" in printed) == penalised


def test_infinite_numbers_are_shown_as_such(diagnoses):
    diagnosis = diagnoses["infinite", False]
    said = " ".join(answer.sentences(diagnosis))
    assert "By k1 it is inf and inf." in said and "is not finite" in said
    assert any("inf" in row for sheet in sheets.all_sheets(diagnosis) for row in sheet.rows)
    assert diagnosis.warnings[0].name == "zero_probability"


def same(value, kept) -> bool:
    """Whether a number or text is what the JSON file has for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return kept == (None if math.isnan(value) else "inf" if value > 0 else "-inf")
    return value == kept


@pytest.mark.parametrize("case", ["everything", "infinite", "samples of the reference", "one sequence"])
def test_the_json_file_is_valid_and_has_the_whole_diagnosis(diagnoses, case):
    def refuse(constant):
        raise AssertionError(constant)

    diagnosis = diagnoses[case, True]
    content = json.loads(json.dumps(report.as_json(diagnosis), allow_nan=False), parse_constant=refuse)
    assert content["schema_version"] == 1
    assert content["answer"] == answer.sentences(diagnosis)
    assert {field.name for field in dataclasses.fields(diagnosis)} <= set(content)
    frames = {name: value for name, value in vars(diagnosis).items() if isinstance(value, pd.DataFrame)}
    assert len(frames) == 10
    for frame, rows in [(diagnosis.penalty.pulls, content["penalty"]["pulls"]), *((frames[n], content[n]) for n in frames)]:
        assert len(frame) == len(rows)
        for (_, row), kept in zip(frame.iterrows(), rows, strict=True):
            assert list(row.index) == list(kept) and all(same(row[name], kept[name]) for name in kept)
    assert content["penalty"]["setting"]["penalty"]["estimator"] == "k3"
    for warning, kept in zip(diagnosis.warnings, content["warnings"], strict=True):
        assert same(warning.value, kept["value"])
        assert (kept["name"], kept["why"]) == (warning.name, FAULTS[warning.name].why)
    assert [each["what"] for each in content["left_out"]] == [each.what for each in diagnosis.left_out]
    if diagnosis.groups is not None:
        assert [row["share"] for row in content["groups"]["rows"]] == [row.share for row in diagnosis.groups.rows]


@pytest.mark.parametrize("case", ["everything", "policy", "infinite"])
def test_the_page_stands_alone_and_shows_the_answer(diagnoses, case):
    diagnosis = diagnoses[case, case == "everything"]
    shown = Page(page(diagnosis))
    assert all(link.startswith("#") for link in shown.links)  # within figures alone
    assert not {"script", "link", "iframe", "img", "b", "red"} & set(shown.tags)
    words = " ".join(shown.text.split())
    for sentence in answer.sentences(diagnosis):
        assert sentence in words
    for warning in diagnosis.warnings:
        assert f"What to do: {ADVICE[warning.name]}. See docs/{warning.page}.md." in words
        assert FAULTS[warning.name].why in words
    for sheet in sheets.all_sheets(diagnosis):
        assert sheet.title in words
    assert shown.tags.count("svg") == sum(map(len, figures.panels(diagnosis).values()))


def test_only_panels_with_data_are_drawn(diagnoses):
    names = {case: {name: len(each) for name, each in figures.panels(diagnoses[case, False]).items()} for case in CASES}
    assert names["everything"] == {"course": 2, "mismatch": 3, "tails": 1, "groups": 2}
    assert names["sampler alone"] == {}
    assert names["policy"] == {"course": 1}  # its surprise by position
    assert "pulls" in figures.panels(diagnoses["everything", True])
    assert "mismatch" not in names["policy's samples, scored by a sampler"]


def test_no_text_of_a_figure_is_cut_off(diagnoses):
    for name, figure in figures.figures(diagnoses["everything", True]).items():
        with plots.styled():
            figure.draw_without_rendering()
            for axes in figure.axes:
                box, whole = axes.get_tightbbox(), figure.bbox
                assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1, name
                assert box.y0 >= whole.y0 - 1 and box.y1 <= whole.y1 + 1, name


def test_every_warning_has_an_advice():
    assert set(ADVICE) == set(FAULTS)


@pytest.fixture
def without_figures(monkeypatch):
    """Reports without figures, which take most of the time."""
    monkeypatch.setattr(figures, "panels", lambda diagnosis: {})


def test_the_command_prints_and_writes_the_answer(file, tmp_path, capsys, without_figures):
    out = tmp_path / "out"
    assert cli.main(["diagnose", str(file), f"out={out}", "temperature=0.7"]) == 0
    printed = capsys.readouterr().out
    assert "60 sequences with " in printed and f"wrote {out / 'report.json'}" in printed
    content = json.loads((out / "report.json").read_text())
    assert content["sources"] == [str(file)]
    assert (content["header"]["temperature"], content["header"]["reported"]) == (0.7, "raw")
    assert [warning["name"] for warning in content["warnings"]] == ["raw_log_probs"]


@pytest.mark.parametrize(("temperature", "strict", "status"), [(0.7, "true", 1), (0.7, "false", 0), (1.0, "true", 0)])
def test_strict_forbids_warnings(file, tmp_path, without_figures, temperature, strict, status):
    arguments = [str(file), f"out={tmp_path / 'out'}", f"temperature={temperature}", f"strict={strict}"]
    assert cli.main(["diagnose", *arguments]) == status


def test_a_penalty_is_read_as_a_run_reads_it(file, tmp_path, capsys, without_figures):
    arguments = [str(file), f"out={tmp_path}", "library=trl_grpo_k3", "penalty.beta=0.3"]
    assert cli.main(["diagnose", *arguments]) == 0
    assert "The penalty (k3 in the loss, of each token; grpo, token-mean) descends" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "report.json").read_text())["penalty"]["setting"]["penalty"]["beta"] == 0.3


REFUSED = [
    (["temprature=1"], "temprature='1': is no key of rlkl diagnose; did you mean 'temperature'?"),
    (["temperature=warm"], "temperature='warm': must be a number"),
    (["top_k=1.5"], "top_k='1.5': must be a whole number"),
    (["top_p=2"], "top_p=2.0: must be above 0 and at most 1"),
    (["reported=rae"], "reported='rae': did you mean 'raw'?"),
    (["strict=yes"], "strict='yes': allowed: false, true"),
    (["tracking=wand"], "tracking='wand': did you mean 'wandb'?"),
    (["library=trl_grp"], "library='trl_grp': did you mean 'trl_grpo'?"),
    (["penalty.estimater=k1"], "penalty.estimater"),
    (["algorithm=exact"], "algorithm='exact': has exact gradients"),
    (["penalty=none"], "penalty='none': there is no penalty to diagnose"),
    (["nowhere.jsonl"], "nowhere.jsonl'"),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=[each[0][0] for each in REFUSED])
def test_what_cannot_be_is_refused_in_one_line(file, tmp_path, capsys, arguments, says):
    assert cli.main(["diagnose", str(file), f"out={tmp_path / 'out'}", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_it_needs_a_path(capsys):
    assert cli.main(["diagnose", "temperature=1"]) == 2
    assert "takes files or folders of rollouts" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(file, capsys):
    assert cli.main(["diagnose", str(file), f"out={file}/x"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: out='") and f"{file.name}/x': cannot be written (" in message


def test_a_file_whose_name_looks_like_a_setting_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a=b.npz").touch()
    assert command.parse(["a=b.npz", "runs/a=b", "model=x=y"]) == command.Request(
        ["a=b.npz", "runs/a=b"], header={"model": "x=y"}
    )


def test_an_example_is_diagnosed_by_name(tmp_path, monkeypatch, capsys, without_figures):
    module = types.ModuleType("examples")
    module.example = lambda name: types.SimpleNamespace(arrays=arrays("everything") | {"model": name})
    monkeypatch.setitem(sys.modules, "rlkl.diagnostics.diagnose.examples", module)
    monkeypatch.setattr("rlkl.diagnostics.diagnose.examples", module, raising=False)
    assert cli.main(["diagnose", "example:clean", f"out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["sources"], content["header"]["model"]) == (["example:clean"], "clean")
    assert cli.main(["diagnose", "example:clean", "b.npz"]) == 2
    assert "an example is diagnosed alone" in capsys.readouterr().err


def test_reading_many_files_is_shown_as_lines_where_there_is_no_terminal(file, tmp_path, monkeypatch):
    from rlkl.diagnostics.diagnose.showing import progress

    console = Console(file=io.StringIO(), width=100)
    monkeypatch.setattr(progress, "errors", console)
    monkeypatch.setattr(progress, "LINE_INTERVAL", -1.0)
    (tmp_path / "second.jsonl").write_bytes(file.read_bytes())
    paths = [file, tmp_path / "second.jsonl"]
    with progress.reading_progress(paths) as on_progress:
        diagnosis = rlkl.diagnose(paths, on_progress=on_progress)
    lines = console.file.getvalue().split("\n")
    half = diagnosis.tokens // 2
    assert lines[:2] == [f"{half:,} tokens read", f"{2 * half:,} tokens read, 50% of 0 MB"]


class Run:
    """A stub of wandb's run."""

    def __init__(self, **options):
        self.options, self.logged, self.summary, self.code = options, {}, {}, None
        self.settings = types.SimpleNamespace(sync_dir=options["dir"], mode="offline")

    def define_metric(self, *names, **options):
        pass

    def log(self, values, step=None):
        self.logged |= values

    def finish(self, exit_code):
        self.code = exit_code


@pytest.fixture
def run(monkeypatch):
    """The run of a stub of wandb, in a list once it has started."""
    started: list[Run] = []
    stub = types.ModuleType("wandb")
    stub.init = lambda **options: started.append(Run(**options)) or started[-1]
    stub.Settings = lambda **options: options
    stub.Image = lambda image: image.size
    stub.Table = lambda columns, data, dtype: types.SimpleNamespace(columns=columns, data=data, dtype=dtype)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_NAME", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    return started


def test_wandb_gets_the_numbers_the_tables_and_the_figures(file, tmp_path, capsys, run, monkeypatch):
    monkeypatch.setattr(figures, "panels", lambda diagnosis: {"pulls": list(figures._pulls(diagnosis))})
    out = tmp_path / "out"
    assert cli.main(["diagnose", str(file), f"out={out}", "tracking=wandb_offline", *PENALTY]) == 0
    (logged,) = run
    assert logged.options["job_type"] == "diagnose" and logged.options["mode"] == "offline"
    assert logged.options["config"]["setting"]["algorithm"] == "grpo"
    content = json.loads((out / "report.json").read_text())
    k3 = next(row for row in content["kl"] if (row["kl"], row["estimator"], row["per"]) == ("KL(pi‖pi_ref)", "k3", "token"))
    assert logged.summary["KL(pi‖pi_ref) by k3, token weights, a token"] == k3["value"]
    assert logged.summary["warnings"] == len(content["warnings"])
    assert {"pulls", "tables/kl", "tables/pulls", "tables/warnings"} <= set(logged.logged)
    table = logged.logged["tables/mismatch"]
    assert table.columns == list(content["mismatch"][0]) and table.data[0][2] == content["mismatch"][0]["value"]
    assert None in [cell for row in table.data for cell in row]  # the effective share has no standard error
    assert logged.code == 0 and "to upload: wandb sync" in capsys.readouterr().out


def test_wandb_stops_nothing(file, tmp_path, capsys, monkeypatch, without_figures):
    def broken(*arguments):
        raise RuntimeError("no disk")

    monkeypatch.setattr(wandb_log, "start_wandb", broken)
    assert cli.main(["diagnose", str(file), f"out={tmp_path / 'out'}", "tracking=wandb_offline"]) == 0
    assert "wandb could not log the diagnosis (no disk)" in " ".join(capsys.readouterr().err.split())


def test_wandb_is_off_where_the_environment_disables_it(file, tmp_path, run, monkeypatch, without_figures):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert cli.main(["diagnose", str(file), f"out={tmp_path / 'out'}", "tracking=wandb"]) == 0
    assert not run


def test_every_number_of_the_tables_is_one_that_wandb_takes(diagnoses):
    for table in tracking.tables(diagnoses["infinite", True]).values():
        for row in table.rows:
            json.dumps(row, allow_nan=False)


def test_without_a_penalty_neither_jax_nor_matplotlib_nor_wandb_is_loaded():
    code = "import rlkl.cli, rlkl.diagnostics.diagnose.command"
    assert not {"jax", "matplotlib", "wandb", "jinja2"} & loaded_by(code)


def test_python_writes_what_the_command_writes(tmp_path, monkeypatch):
    diagnosis = rlkl.diagnose(arrays("everything"))
    tails = figures.panels(diagnosis)["tails"]
    monkeypatch.setattr(figures, "panels", lambda diagnosis: {"tails": tails})  # one is enough, and quicker
    assert isinstance(diagnosis, rlkl.Diagnosis)
    names = [path.name for path in diagnosis.report(tmp_path)]
    assert names == ["report.json", "report.html", "tails.png", "tails.pdf"]
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SettingsError, match="log_prob: "):
        rlkl.diagnose({"log_prob": FIELDS["log_probs"]})
