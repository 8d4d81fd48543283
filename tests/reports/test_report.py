"""The one-page report: its contents against the files of the folder, escaped, alone and the same each time."""

import csv
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from rlkl import cli
from rlkl.reports import tables
from rlkl.reports.one_page import citation, contents, page, pdf, provenance
from rlkl.runs.folder import versions
from tests.helpers import loaded_by

NAMES = ["<script>alert(1)</script>", "[red]x[/]", "a & b", '"quoted" $x$', "猫\u202e", "long " * 200]
CITATION = Path(__file__).parents[2] / "CITATION.cff"


class Page(HTMLParser):
    """The tags of a page, the attributes that could load something, and its visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder of a hostile name with a run of hostile outcomes, a diverged run, and a sweep in which a job diverged."""
    folder = tmp_path_factory.mktemp("finished") / "a [red]x <i>b"
    folder.mkdir()
    task = {"reward": list(range(len(NAMES))), "reference": [1 / len(NAMES)] * len(NAMES), "names": NAMES}
    named = [f"task.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in task.items()]
    stored = ["tracking=none", "store=" + str(folder.parent / "store")]
    sweep = ["penalty=reverse_kl,neyman", "optimizer=sgd", "optimizer.learning_rate=1e308", "seed=0,1", "steps=4"]
    runs = {
        "run": ["task=bandit/custom", *named, "steps=40", "penalty.beta=0.2"],
        "diverged": ["task=bandit/random", "penalty=neyman", "optimizer=sgd", "optimizer.learning_rate=1e308", "steps=4"],
    }
    for name, overrides in runs.items():
        quoted = "'" + str(folder / name) + "'"
        assert cli.main([*overrides, *stored, f"hydra.run.dir={quoted}"]) == (name == "diverged")
    swept = "'" + str(folder / "sweep") + "'"
    assert cli.main(["-m", "task=bandit/random", *sweep, *stored, f"hydra.sweep.dir={swept}"]) == 1
    return folder


@pytest.fixture
def written(root, capsys):
    def write(name: str, *arguments: str) -> Page:
        capsys.readouterr()
        assert cli.main(["report", str(root / name), *arguments]) == 0
        said = capsys.readouterr()
        assert (said.out, said.err) == (f"wrote {root / name / 'report.html'}\n", "")
        return Page((root / name / "report.html").read_text())

    return write


def test_a_run_s_page_holds_the_numbers_of_its_files(root, written):
    shown = written("run")
    summary = json.loads((root / "run" / "summary.json").read_text())
    for key in ("reward", "objective", "kl_pi_ref", "kl_ref_pi", "entropy", "optimum_reward", "optimal_objective", "regret"):
        assert tables.number(summary[key]) in shown.text, key
    with (root / "run" / "outcomes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert tables.number(float(row["policy"])) in shown.text
    recorded = yaml.safe_load((root / "run" / ".hydra" / "config.yaml").read_text())
    for group, value in recorded.items():
        for key, leaf in value.items() if isinstance(value, dict) else [(None, value)]:
            name = group if key is None else f"{group}.{key}"
            if isinstance(leaf, int | float) and not isinstance(leaf, bool):
                assert f"{name}: {leaf}" in shown.text
    for name, version in versions.installed().items():
        assert f"{name} {version}" in shown.text
    assert "rlkl task=bandit/custom" in shown.text


@pytest.mark.parametrize("name", ["run", "diverged", "sweep"])
def test_a_page_stands_alone_and_obeys_no_name(root, written, name):
    shown, text = written(name), (root / name / "report.html").read_text()
    assert not {"script", "link", "iframe", "object", "embed", "i", "base"} & set(shown.tags)
    assert all(link.startswith("#") for link in shown.links)
    assert not re.search(r"url\((?!#)|@import|<!--", text)
    assert "@page" in text and "prefers-color-scheme: dark" in text and "@media print" in text
    assert shown.tags.count("svg") == 1
    if name == "run":
        for outcome in NAMES[:4]:
            assert html.escape(outcome, quote=False) in text.replace("&#34;", '"').replace("&#39;", "'")
            assert outcome in shown.text
        assert r"猫\u202e" in shown.text
        assert "long " * 15 in shown.text and "long " * 20 not in shown.text.split("Settings that differ")[0]


def test_the_same_folder_gives_the_same_bytes(root, written, tmp_path):
    for suffix, name in (("html", "sweep"), ("pdf", "run")):
        twice = []
        for i in range(2):
            out = tmp_path / f"{i}.{suffix}"
            assert cli.main(["report", "--out", str(out), str(root / name)]) == 0
            twice.append(out.read_bytes())
        assert twice[0] == twice[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.html", "0.pdf", "1.html", "1.pdf"]


@pytest.mark.parametrize("name", ["run", pytest.param("diverged", marks=pytest.mark.slow), "sweep"])
def test_a_pdf_has_one_page(root, tmp_path, name):
    out = tmp_path / "new" / "r.pdf"
    assert cli.main(["report", str(root / name), "--out", str(out)]) == 0
    content = out.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b(?!s)", content)) == 1


def test_a_sweep_s_page_has_its_settings_its_seeds_and_its_command(root, written):
    shown = written("sweep")
    summaries = [json.loads(path.read_text()) for path in root.glob("sweep/*/summary.json")]
    diverged = sum(summary["diverged_at"] is not None for summary in summaries)
    assert diverged > 0
    assert f"4 jobs: {4 - diverged} finished, {diverged} diverged" in shown.text
    assert "rlkl -m task=bandit/random penalty=reverse_kl,neyman" in shown.text
    assert "Interquartile means over seeds" in shown.text
    report = contents.gather(root / "sweep")
    changed = {setting.key: setting.values for setting in report.changed}
    assert changed["penalty.divergence"] == ("kl_pi_ref", "neyman")
    assert changed["seed"] == ("0", "1")
    assert changed["steps"] == ("4",)
    assert not {"tracking.name", "store", "dtype", "log_every"} & set(changed)
    (sheet,) = report.sheets
    assert [row[0] for row in sheet.rows] == ["reverse_kl", "neyman"]
    assert all(row[1] == "2" for row in sheet.rows)


def test_settings_that_rlkl_chose_are_no_changes_and_those_of_overrides_and_presets_are(root):
    changed = {setting.key: (setting.values, setting.default) for setting in contents.gather(root / "run").changed}
    assert changed["penalty.beta"] == (("0.2",), "0.1")
    assert changed["steps"] == (("40",), "null")
    assert changed["task.name"] == (("bandit/custom",), "bandit/two_modes")
    assert not {"optimizer.learning_rate", "policy.init", "penalty.estimator", "dtype"} & set(changed)


def test_what_a_folder_does_not_record_is_said_to_be_unknown(root, tmp_path):
    bare = shutil.copytree(root / "run", tmp_path / "bare", ignore=shutil.ignore_patterns(".hydra"))
    report = contents.gather(bare)
    assert (report.settings, report.command, set(report.versions.values())) == (None, None, {None})
    text = page.page(report._replace(citation=None))
    assert text.count("Unknown: ") == 3
    assert "jax unknown" in text
    assert pdf.document(report).startswith(b"%PDF")


def test_a_damaged_record_is_refused_by_name(root, tmp_path, capsys):
    for name, content in (("config.yaml", "- a"), ("versions.yaml", "["), ("overrides.yaml", "3")):
        folder = shutil.copytree(root / "run", tmp_path / name)
        (folder / ".hydra" / name).write_text(content)
        assert cli.main(["report", str(folder)]) == 2
        said = capsys.readouterr().err
        assert f"its {name} is not as it was written" in said
        assert said.count("\n") == 1


def test_versions_that_differ_between_jobs_are_all_shown(root, tmp_path):
    for i, version in enumerate(("1", "2")):
        folder = shutil.copytree(root / "run", tmp_path / str(i))
        (folder / ".hydra" / versions.FILE).write_text(f"jax: '{version}'\n")
    found = provenance.recorded_versions([tmp_path / "0", tmp_path / "1"])
    assert found["jax"] == "1, 2"
    assert found["numpy"] is None


def test_the_citation_is_that_of_the_file(tmp_path):
    record = yaml.safe_load(CITATION.read_text())
    entry = citation.bibtex(citation.citation_file())
    assert f"title   = {{{{{record['title']}}}}}" in entry
    assert f"year    = {{{str(record['date-released'])[:4]}}}" in entry
    assert f"version = {{{record['version']}}}" in entry
    other = tmp_path / "CITATION.cff"
    other.write_text("title: R&D\nauthors: [{family-names: Doe, given-names: J_}, {name: A group}]\n")
    assert citation.bibtex(other).splitlines()[1:3] == [r"  author  = {Doe, J\_ and {A group}},", r"  title   = {{R\&D}},"]
    assert citation.bibtex(tmp_path / "missing") is None


def test_a_report_is_refused_in_one_line(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments, says in (
        ([str(tmp_path)], "is no folder with a finished run (a summary.json) in it or below it"),
        ([str(root / "run"), "--out", "r.txt"], "--out='r.txt': must end in .html or .pdf"),
        ([str(root / "run"), "--out", str(tmp_path / "file" / "r.html")], "cannot be written"),
        ([str(root / "run"), "--output", "r.html"], "takes one folder"),
        (["--out", "r.html"], "takes one folder"),
    ):
        capsys.readouterr()
        assert cli.main(["report", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and says in said
        assert said.count("\n") == 1


def test_neither_jinja_nor_matplotlib_is_loaded_before_it_is_needed():
    assert not {"jax", "jinja2", "matplotlib", "pandas"} & loaded_by("import rlkl.cli, rlkl.reports.one_page.write")
