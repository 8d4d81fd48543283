"""What stands in an experiment's folder, whether it is whole and current, and what it says of everyday sayings."""

import ast
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from experiments.harness import build, provenance

SAYINGS = Path(__file__).with_name("sayings.yaml")
VERDICTS = ("true", "partly", "false")


class About(NamedTuple):
    """What an experiment's docstring says: its title, what it shows (one paragraph), more paragraphs, its sources."""

    title: str
    headline: str
    more: list[str]
    sources: list[str]


class Shown(NamedTuple):
    """An experiment as the page shows it; claims, manifest, figure and numbers are empty where it is not built."""

    name: str
    about: About
    claims: list[dict[str, Any]]
    manifest: dict[str, Any]
    figure: str
    numbers: str
    complaints: list[str]


class Saying(NamedTuple):
    """An everyday saying, what is true of it, the experiment and the claims that show it; complaints say of the experiment why
    it does not."""

    saying: str
    verdict: str
    because: str
    experiment: str
    claims: list[dict[str, Any]]
    complaints: list[str]


def describe(name: str) -> About:
    """An experiment's description, read from its figure.py without importing it."""
    text = ast.get_docstring(ast.parse((build.HERE / name / "figure.py").read_text(encoding="utf-8"))) or name
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    named = [each for each in paragraphs if each.startswith(("Source:", "Sources:"))]
    rest = [each for each in paragraphs if each not in named]
    title, _, headline = rest[0].partition(": ")
    sources = [source.strip(" .") for each in named for source in each.partition(":")[2].split(";")]
    return About(title.strip("."), headline or rest[0], rest[1:], sources)


def gather(name: str, folder: Path) -> Shown:
    """What stands in an experiment's folder; every complaint names the experiment."""
    about = describe(name)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
        figure, numbers = ((folder / each).read_text(encoding="utf-8") for each in ("figure.svg", "figure.csv"))
        left = provenance.files(folder)
    except FileNotFoundError:
        missing = f"{name}: is not built (python -m experiments {name})"
        return Shown(name, about, [], {}, "", "", [missing])
    if manifest["quick"]:
        complaints = [f"{name}: is reduced (--quick), so that its claims say nothing"]
    else:
        changed = [key for key, digest in provenance.inputs(name).items() if manifest["inputs"][key] != digest]
        complaints = [f"{name}: is out of date: {', '.join(changed)} changed since it was built"] if changed else []
        complaints += [f"{name}: {file} is not as it was built" for file in left if left[file] != manifest["files"][file]]
        complaints += [f"{name}: is false: {claim['claim']}: {claim['value']}, not {claim['bound']}" for claim in false(claims)]
    return Shown(name, about, claims, manifest, figure, numbers, complaints)


def false(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that do not hold."""
    return [claim for claim in claims if not claim["verdict"]]


def state(name: str, folder: Path) -> str:
    """What to say of an experiment's folder, in a few words."""
    found = gather(name, folder)
    if not found.manifest:
        return "no"
    if not found.complaints:
        return f"yes, {len(found.claims)} claims hold"
    return found.complaints[0].partition(": ")[2]


def sayings(shown: list[Shown]) -> list[Saying]:
    """The sayings of sayings.yaml beside what the experiments found."""
    known = {each.name: each for each in shown}
    return [_saying(given, known.get(given["experiment"])) for given in yaml.safe_load(SAYINGS.read_text(encoding="utf-8"))]


def _saying(given: dict[str, Any], found: Shown | None) -> Saying:
    """A saying's `claims` are beginnings of the claims that it rests on."""
    saying, verdict, because, experiment = (given[key].strip() for key in ("saying", "verdict", "because", "experiment"))
    claims, lacking = [], []
    for start in given["claims"]:
        those = [claim for claim in found.claims if claim["claim"].startswith(start)] if found else []
        claims += those
        lacking += [] if those else [start]
    if verdict not in VERDICTS:
        raise ValueError(f"{saying!r} has the verdict {verdict!r}: must be one of {', '.join(VERDICTS)}")
    if found is None:
        complaints = ["which does not exist"]
    elif not found.manifest:
        complaints = ["which is not built"]
    elif found.manifest["quick"]:
        complaints = ["which is reduced"]
    else:
        complaints = [f"which has no claim that starts with “{start}”" for start in lacking]
        complaints += [f"where this is false: {claim['claim']}" for claim in false(claims)]
    return Saying(saying, verdict, because, experiment, claims, complaints)
