"""The Python blocks of the page on sweeps run after its first command, and draw what they say."""

import os
import re
import subprocess
import sys

from tests.docs.commands import commands
from tests.helpers import CLONE

PAGE = (CLONE / "docs" / "how_to" / "sweeps.md").read_text(encoding="utf-8")
SMALL = ("steps=4", "batch_size=8", "tracking=none", "seed=range(2)")


def test_the_recipes_of_sweeps_run(tmp_path, command):
    first = [word for word in commands(PAGE)[0][1:] if not word.startswith("seed=")]
    done = command(*first, *SMALL)
    assert done.returncode == 0, done.stderr
    after = PAGE.split("## Look at the results")[1]
    blocks = re.findall(r"```python\n(.*?)```", after, re.S)
    assert len(blocks) == 2
    for block in blocks:
        ran = subprocess.run(
            [sys.executable, "-c", block],
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "160"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "betas" / "entropy.png").stat().st_size > 0
