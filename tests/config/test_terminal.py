"""What is shown is shown as it is: no name is obeyed as markup, mathematics or a terminal's control, and none is refused."""

import dataclasses
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.table import Table

import rlkl
from rlkl import cli, errors
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.reports import plots
from rlkl.reports.console import PLAIN, PlainConsole
from rlkl.runs.folder import samples
from tests.helpers import C3, HOSTILE

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_what_does_not_print_is_escaped_and_the_rest_is_as_it_was(name):
    shown = errors.visible(name)
    assert len(shown.splitlines()) <= 1
    assert not CONTROLS.search(shown)
    assert shown == name or not name.isprintable()


def shown_by(encoding: str, *things) -> str:
    """What the console of this encoding writes to a terminal."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = PlainConsole(**PLAIN, file=out, width=200, force_terminal=True, color_system=None)
    for thing in things:
        console.print(thing)
    out.flush()
    return out.buffer.getvalue().decode(encoding)


def test_names_in_tables_titles_and_lines_are_shown_as_they_are():
    names = ["[bold]x[/]", "[/]", ":smile:", "\x1b[31mred", "a\\[b]", "\u202ecba", "7\b8"]
    table = Table("name", title=names[0], caption=names[3])
    for name in names:
        table.add_row(name)
    shown = shown_by("utf-8", table, *names)
    assert not CONTROLS.search(shown)
    for name in names:
        assert shown.count(errors.visible(name)) >= 2
    assert r"\x1b[31mred" in shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_tables_are_aligned_in_whatever_encoding(encoding):
    table = Table("KL(pi‖pi_ref)", "±")
    table.add_row("猫", "–")
    lines = shown_by(encoding, table).splitlines()
    assert len(set(map(len, lines))) == 1
    assert r"KL(pi\u2016pi_ref)" in lines[1]
    assert r"\u732b" in lines[3]


PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
OTHERS = [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "latin-1"}, PLAIN_C]


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii:strict"}, *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)],
    ids=str,
)
def test_every_command_ends_well_where_its_symbols_cannot_be_encoded(tmp_path, cache, variables):
    """One process for all of them, through the console script's own entry."""
    named = 'task.names=["$a$","猫","\u202e"]'
    commands = [
        [*C3, named, "hydra.run.dir=run"], ["-m", *C3, named, "penalty.beta=0.1,0.2", "hydra.sweep.dir=sweep"], ["list"],
        ["summary", "sweep"], ["plot", "run"], ["compare", "猫", "b"], ["--cfg", "job", *C3, named], ["task.names=‖", "猫=1"],
    ]  # fmt: skip
    code = f"""
import sys
from rlkl.__main__ import entry
for arguments in {commands!r}:
    sys.argv = ["rlkl", *arguments]
    try:
        entry()
    except SystemExit as ended:
        print("status", ended.code)
"""
    (tmp_path / "commands.py").write_text(code, encoding="utf-8")
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "COLUMNS": "160"} | variables
    done = subprocess.run([sys.executable, "commands.py"], cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    shown = done.stdout.decode(variables.get("PYTHONIOENCODING", "ascii").split(":")[0])
    assert "Traceback" not in done.stderr.decode("latin-1")
    assert re.findall(r"^status (\w+)$", shown, re.MULTILINE) == ["0", "0", "0", "0", "0", "2", "0", "2"]
    assert r"KL(pi\u2016pi_ref)" in shown
    assert rlkl.load(tmp_path / "run").outcomes["outcome"].tolist() == ["$a$", "猫", "\u202e"]


def test_an_error_shows_control_characters_and_does_not_send_them(capsys):
    assert cli.main(["pen\x1b[31malty=x\r"]) == 2
    assert cli.main(["task=bandit/words", "task.path=\u202egpj.\x07"]) == 2
    said = capsys.readouterr().err
    assert r"pen\x1b[31malty" in said
    assert not CONTROLS.search(said)
    assert len(said.splitlines()) == 2


def test_a_sequence_is_one_line_of_samples_txt():
    built = build(compose(["task=sequence/motif"]))
    built = built._replace(card=dataclasses.replace(built.card, tokens=("a\nb", "\u2028", "c"), joiner=""))
    written = samples.samples_txt(built, {"policy": [np.arange(3)] * samples.SHOWN})
    assert written.splitlines()[0] == r"policy    a\nb\u2028c"
    assert len(written.splitlines()) == 2 * samples.SHOWN - 1


@pytest.mark.parametrize("count", [len(HOSTILE) - 1, 5])
def test_a_figure_draws_every_name_as_it_is_and_warns_of_nothing(tmp_path, count):
    """Warnings are errors here: of glyphs that the font lacks, of a layout without room."""
    names = [*list(filter(None, HOSTILE[::-1]))[: count - 3], r"$\frac$", "a$b$", "$$"]
    built = [f"task.reward={list(range(len(names)))}", f"task.reference={[1 / len(names)] * len(names)}"]
    assert cli.main([C3[0], *built, *C3[3:], f"hydra.run.dir={tmp_path}", f"store={tmp_path / 'store'}"]) == 0
    runs = rlkl.load(tmp_path)
    runs.outcomes["outcome"] = names
    figure = plots.draw(runs._replace(summary=runs.summary.assign(task="$x^", formula="D\x1b($a$‖猫)")))
    plots.save(figure, tmp_path / "figure")
    drawn = [tick.get_text().replace(r"\$", "$") for tick in figure.axes[2].get_xticklabels()]
    assert drawn[-3:] == [r"$\frac$", "a$b$", "$$"]
    assert all(not tick._preprocess_math(tick.get_text())[1] for tick in figure.axes[2].get_xticklabels())
    assert figure.axes[0].get_title().replace(r"\$", "$") == r"E[r] - 0.1 D\x1b($a$‖\u732b)"


def test_outcomes_that_are_numbers_lie_on_an_axis_and_others_are_bars(tmp_path):
    assert cli.main(["task=bandit/bimodal", *C3[3:], f"hydra.run.dir={tmp_path}", f"store={tmp_path / 'store'}"]) == 0
    runs = rlkl.load(tmp_path)
    assert len(plots.draw(runs).axes[2].lines) == 3
    runs.outcomes.loc[0, "outcome"] = "1e3"
    assert not plots.draw(runs).axes[2].lines


def test_a_process_ends_with_its_status_once_its_handlers_have_run():
    code = """
import atexit, sys
from rlkl.config import terminal
atexit.register(lambda: print("handled"))
print("said", end=" ")
terminal.end_process(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said handled\n", "")


def test_a_process_whose_reader_has_gone_ends_too():
    code = """
import sys
from rlkl.config import terminal
class Gone:
    def flush(self):
        raise BrokenPipeError
sys.stdout = Gone()
terminal.end_process(0)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
