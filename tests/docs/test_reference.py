"""The reference is whole: every option with its meaning, every public function, class and method with its entry."""

import pkgutil
import re
import sys

import pytest

import rlkl
from rlkl import settings
from rlkl.exact import objective
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


@pytest.mark.parametrize("name", LISTED)
def test_every_public_method_has_an_entry(name):
    """Those that a class defines itself; what counts as one is read from the class anew."""
    for module in api.modules(name):
        for class_name, cls in api.public(module):
            if not isinstance(cls, type):
                continue
            entry = api._entry(class_name, cls)
            for method, member in vars(cls).items():
                is_property = type(member).__name__ in ("property", "cached_property")
                if method.startswith("_") or not (is_property or callable(getattr(cls, method))) or isinstance(member, type):
                    continue
                kind = "property" if is_property else "method"
                assert re.search(rf"^:::\{{py:{kind}\}} {method}\b.*\n\n\S", entry, re.M), (
                    f"{module.__name__}.{class_name}.{method}"
                )


def test_a_method_s_entry_has_its_signature_and_the_first_paragraph_of_its_docstring():
    entry = api._entry("Objective", objective.Objective)
    assert ":::{py:method} value(reward, divergence)\n\nJ from the values of E_pi[r] and D.\n:::" in entry
    assert ":::{py:property} measured\n\nThe divergence whose value is reported" in entry


def test_the_picture_of_the_rooms_has_each_of_them():
    text = rooms.rooms()
    assert all(f"`{room}`" in text for room in ROOMS)


def test_every_function_of_a_page_is_known():
    for page in (CLONE / "docs").rglob("*.md"):
        if not {"_build", "_notebooks", "tutorials"} & set(page.parts):
            for name in re.findall(r"\{\{ *(\w+)", page.read_text(encoding="utf-8")):
                assert name in {*FUNCTIONS, "name", "group"}, f"{page}: {name}"
