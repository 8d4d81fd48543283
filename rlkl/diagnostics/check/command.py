"""`rlkl check`: what a loss descends, as a table, a sentence, check.json and a figure."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlkl.diagnostics.check import answer, expect
from rlkl.diagnostics.check.check import ALL_WORLDS, BETA, check_loss
from rlkl.diagnostics.check.report import Report
from rlkl.errors import SettingsError
from rlkl.reports import plots
from rlkl.reports.console import console, errors
from rlkl.runs.folder import files

FOLDER = Path("outputs") / "check"
NAMES = "names."


@dataclasses.dataclass
class Request:
    """The arguments of the command."""

    loss: str
    beta: float = BETA
    expect: str | None = None
    coefficient: float | None = None
    worlds: tuple[str, ...] | None = None
    out: Path = FOLDER
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def run_check(arguments: Sequence[str]) -> bool:
    """Check a loss, print the answer, write it, and return whether it is what `expect` says."""
    request = parse(arguments)
    with errors.status("") as status:
        report = check_loss(
            request.loss,
            beta=request.beta,
            names=request.names,
            settings=request.settings,
            worlds=request.worlds or ALL_WORLDS,
            on_progress=lambda world: status.update(f"checking {request.loss}: {world}"),
        )
    misses = []
    if request.expect is not None:
        worlds = request.worlds or expect.ON_POLICY
        misses = list(expect.differences(report, request.expect, worlds, request.coefficient))
    console.print_table(answer.table(report))
    if report.metrics:
        console.print_table(answer.metrics_table(report))
    console.print(answer.sentence(report))
    _write(report, request)
    for miss in misses:
        errors.print(f"not {request.expect}: {miss}", markup=False)
    if request.expect is not None and not misses:
        console.print(f"as expected: {request.expect}")
    return not misses


def _write(report: Report, request: Request) -> None:
    content = answer.as_json(report) | {"expect": request.expect}
    try:
        files.write(request.out / "check.json", json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        paths = [request.out / "check.json", *plots.save(answer.figure(report), request.out / "check")]
    except OSError as error:
        raise SettingsError("out", str(request.out), f"cannot be written ({error.strerror})") from None
    for path in paths:
        console.print(f"wrote {path}", markup=False)


def parse(arguments: Sequence[str]) -> Request:
    """The request of arguments `LOSS KEY=VALUE ...`; raises `SettingsError` on what cannot be read."""
    losses = [each for each in arguments if "=" not in each]
    if len(losses) != 1:
        raise SettingsError("rlkl check", " ".join(losses), "takes one loss, FILE.py:NAME or trl:TRAINER, and KEY=VALUE")
    request = Request(losses[0])
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator:
            continue
        if key.startswith(NAMES):
            request.names[key.removeprefix(NAMES)] = text
        elif key in READERS:
            setattr(request, key, READERS[key](key, text))
        else:
            request.settings[key] = _value(text)
    return request


def _worlds(key: str, text: str) -> tuple[str, ...]:
    """The worlds of a list; `groups` names all groups."""
    names = [each.strip() for each in text.strip("[]").split(",")]
    groups = [world for world in ALL_WORLDS if world.startswith("groups")]
    return tuple(world for name in names for world in (groups if name == "groups" else [name]))


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(key, text, "must be a number") from None


READERS: dict[str, Callable[[str, str], Any]] = {
    "beta": _number,
    "coefficient": _number,
    "worlds": _worlds,
    "expect": lambda key, text: text,
    "out": lambda key, text: Path(text),
}


def _value(text: str) -> Any:
    """A setting's value: a number, true, false, null or a text."""
    try:
        return float(text) if "e" in text.lower() and text[:1] in "+-.0123456789" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text
