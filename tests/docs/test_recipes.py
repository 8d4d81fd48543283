"""The Python blocks of the page on sweeps run after its first command, and draw what they say."""

import re

from tests.docs.commands import commands
from tests.helpers import CLONE

PAGE = (CLONE / "docs" / "how_to" / "sweeps.md").read_text(encoding="utf-8")
SMALL = ("steps=4", "batch_size=8", "tracking=none", "seed=range(2)")


def test_the_recipes_of_sweeps_run(tmp_path, call):
    first = [word for word in commands(PAGE)[0][1:] if not word.startswith("seed=")]
    done = call(*first, *SMALL)
    assert done.returncode == 0, done.stderr
    after = PAGE.split("## Look at the results")[1]
    blocks = re.findall(r"```python\n(.*?)```", after, re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})  # in the folder in which the command was called
    assert (tmp_path / "betas" / "entropy.png").stat().st_size > 0
