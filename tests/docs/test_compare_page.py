"""The page on `rlkl compare` works as shown: its scripts run, and its commands on the files that they write."""

import re
import runpy

from rlkl import cli
from tests.diagnostics import kl_base_file
from tests.docs.commands import commands, write_files
from tests.helpers import CLONE

PAGE = (CLONE / "docs" / "how_to" / "compare.md").read_text(encoding="utf-8")


def test_the_page_s_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    for script in re.findall(r"# (make_\w+\.py)", PAGE):
        runpy.run_path(str(tmp_path / script))
    tokens = kl_base_file.text(3, 10, 20)
    for seed, name in enumerate(("base.kld", "quant.kld")):  # in place of llama.cpp's
        kl_base_file.write(tmp_path / name, tokens, kl_base_file.logits(3, 10, 20, 1.0, seed))
    ours = [words[1:] for words in commands(PAGE) if words[0] == "rlkl" and not words[2].startswith("hf:")]
    assert len(ours) == 4
    for arguments in ours:
        assert cli.main(arguments) == 0, arguments
    table = capsys.readouterr().out.split("quant.json against base.json")[1]
    least = next(line for line in table.splitlines() if "top-k KL(base‖quant)" in line and "minimum" in line)
    assert float(least.split("│")[3]) < 0.0


def test_the_page_s_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    runpy.run_path(str(tmp_path / "make_files.py"))
    exec(re.search(r"## From Python\n\n```python\n(.*?)```", PAGE, re.S)[1], {})
    assert 0.0 < float(capsys.readouterr().out) < 0.01
