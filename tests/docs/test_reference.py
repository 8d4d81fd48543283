"""The reference is whole: every option with its meaning, every public function and class with its entry."""

import pkgutil
import re
import sys

import pytest

import rlkl
from rlkl import settings
from tests.helpers import CLONE

sys.path.append(str(CLONE / "docs"))
from pages import FUNCTIONS, api, options, rooms

LISTED = re.findall(
    r'\{\{ api\("([\w.]+)"\) \}\}', "".join(page.read_text() for page in (CLONE / "docs/reference/api").glob("*.md"))
)
ROOMS = sorted(module.name for module in pkgutil.iter_modules(rlkl.__path__) if module.name not in ("cli", "__main__"))


def test_every_option_stands_in_the_reference_with_its_meaning():
    page = (CLONE / "docs/reference/options.md").read_text()
    groups = re.search(r"for group in \[(.*?)\]", page).group(1)
    shown = "".join(options.options(group) for group in ["", *re.findall(r'"(\w+)"', groups)]) + page
    missing = {key for key in settings.known_keys() if f"`{key}`" not in shown}
    assert missing == {"task.name"}  # the name of a plugin's task
    assert not re.search(r"\| *\|$", shown, re.M), "an option has no meaning"


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_page(room):
    assert f"rlkl.{room}" in LISTED


@pytest.mark.parametrize("name", LISTED)
def test_every_public_function_has_an_entry(name):
    text = api.api(name)
    for module in api.modules(name):
        for entry, value in api.public(module):
            assert f"{{py:{'class' if isinstance(value, type) else 'function'}}} {entry}" in text
            assert value.__doc__, f"{module.__name__}.{entry} has no docstring"


def test_the_picture_of_the_rooms_has_each_of_them():
    text = rooms.rooms()
    assert all(f"`{room}`" in text for room in ROOMS)


def test_every_function_of_a_page_is_known():
    for page in (CLONE / "docs").rglob("*.md"):
        if not {"_build", "_notebooks", "tutorials"} & set(page.parts):
            for name in re.findall(r"\{\{ *(\w+)", page.read_text(encoding="utf-8")):
                assert name in {*FUNCTIONS, "name", "group"}, f"{page}: {name}"
