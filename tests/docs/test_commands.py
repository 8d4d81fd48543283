"""Every command that the README and the pages show can be given."""

import subprocess
import sys

import pytest

from rlkl.errors import SettingsError
from tests.docs.commands import ON_FOLDERS, PAGES, check, commands, write_files
from tests.helpers import CLONE

WITH_COMMANDS = [page for page in PAGES if commands(page.read_text(encoding="utf-8"))]
QUICK = ("steps=4", "tracking=none")


def name(page) -> str:
    return str(page.relative_to(CLONE))


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_are_valid(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    for words in commands(page.read_text(encoding="utf-8")):
        try:
            check(words)
        except SettingsError as error:
            pytest.fail(f"{' '.join(words)}: {error}")


@pytest.mark.parametrize(
    "line",
    ["rlkl task=bandit/wordz", "rlkl -m penalty.betta=0.1,1", "rlkl plot", "make paprika", "python -m experiments tales"],
)
def test_a_broken_command_is_found(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = f"# A page\n\n```console\n$ {line}\n```\n"
    with pytest.raises(SettingsError):
        check(commands(page)[0])


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_run(page, tmp_path, command):
    """In order, in one folder, with few steps; a folder of results that the page does not make is left out."""
    write_files(tmp_path)
    for words in commands(page.read_text(encoding="utf-8")):
        given = words[1:]
        if words[0] != "rlkl" or given[:1] in (["grade"], ["compare"], ["check"], ["diagnose"]) or "engine=submitit" in given:
            continue
        if given[0] in ON_FOLDERS and not (tmp_path / given[1]).exists():
            continue
        is_run = given[0] not in (*ON_FOLDERS, "list", "audit", "--help")
        extra = [word for word in QUICK if word.partition("=")[0] not in {each.partition("=")[0] for each in given}]
        done = command(*given, *(extra if is_run and "--help" not in given else []))
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def test_the_readme_s_python_runs(tmp_path):
    readme = (CLONE / "README.md").read_text(encoding="utf-8")
    block = readme.split("```python\n")[1].split("```")[0].replace('"penalty.beta=0.2"', '"penalty.beta=0.2", "tracking=none"')
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
