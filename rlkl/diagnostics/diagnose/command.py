"""`rlkl diagnose PATH...`: what rollouts say, as sentences, tables, warnings, a page, a JSON file and figures."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkl.config import machine
from rlkl.diagnostics.diagnose.diagnosis import Diagnosis, diagnose
from rlkl.diagnostics.diagnose.reading import files
from rlkl.diagnostics.diagnose.reading.chunk import Header
from rlkl.diagnostics.diagnose.showing.progress import reading_progress
from rlkl.diagnostics.diagnose.showing.text import print_diagnosis
from rlkl.errors import SettingsError, nearest
from rlkl.reports.console import console

FOLDER = Path("outputs") / "diagnose"
EXAMPLE = "example:"
KEY = re.compile(r"[A-Za-z_][\w.]*")
OVERRIDES = ("penalty", "algorithm")
TRACKING = ("none", "wandb", "wandb_offline")


@dataclasses.dataclass
class Request:
    """The arguments of the command. penalty: overrides of a run. header: what holds for all files."""

    paths: list[str] = dataclasses.field(default_factory=list)
    out: Path = FOLDER
    library: str | None = None
    tracking: str = "none"
    strict: bool = False
    penalty: list[str] = dataclasses.field(default_factory=list)
    header: dict[str, Any] = dataclasses.field(default_factory=dict)


def run_diagnose(arguments: Sequence[str]) -> bool:
    """Diagnose rollouts, print and write the answer; false where there is a warning and `strict` forbids one."""
    request = parse(arguments)
    if request.penalty or request.library is not None:
        machine.compile_quickly()
        machine.configure()
    diagnosis = _diagnosis(request)
    print_diagnosis(diagnosis)
    _write(diagnosis, request)
    return not (request.strict and diagnosis.warnings)


def _diagnosis(request: Request) -> Diagnosis:
    settings: dict[str, Any] = {"penalty": request.penalty, "library": request.library, **request.header}
    if request.paths[0].startswith(EXAMPLE):
        return dataclasses.replace(diagnose(_example(request.paths), **settings), sources=request.paths)
    paths = list(files.files(request.paths))
    with reading_progress(paths) as on_progress:
        return diagnose(paths, on_progress=on_progress, **settings)


def _example(paths: list[str]) -> Mapping[str, Any]:
    """The arrays of a shipped example."""
    if len(paths) > 1:
        raise SettingsError("PATH", " ".join(paths), "an example is diagnosed alone")
    from rlkl.diagnostics.diagnose.examples import example

    return example(paths[0].removeprefix(EXAMPLE)).arrays


def _write(diagnosis: Diagnosis, request: Request) -> None:
    """Write the report, log it where that is wanted, and say where it is."""
    try:
        paths = diagnosis.report(request.out)
    except OSError as error:
        raise SettingsError("out", request.out, f"cannot be written ({error.strerror})") from None
    console.print()
    for path in paths:
        if path.suffix != ".pdf":
            console.print(f"wrote {path}", markup=False)
    if request.tracking != "none":
        from rlkl.diagnostics.diagnose.showing.tracking import log_diagnosis

        log_diagnosis(diagnosis, request.tracking, request.out, paths)


def parse(arguments: Sequence[str]) -> Request:
    """The request of arguments `PATH... KEY=VALUE ...`; raises `SettingsError` on what cannot be read."""
    request = Request()
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or not KEY.fullmatch(key) or os.path.exists(argument):
            request.paths.append(argument)
        elif key.split(".")[0] in OVERRIDES:
            request.penalty.append(argument)
        elif key in Header._fields:
            request.header[key] = HEADER.get(key, _text)(key, text)
        elif key in READERS:
            setattr(request, key, READERS[key](key, text))
        else:
            raise SettingsError(key, text, "is no key of rlkl diagnose; " + nearest(key, KEYS))
    if not request.paths:
        raise SettingsError("rlkl diagnose", " ".join(arguments), "takes files or folders of rollouts, and KEY=VALUE")
    return request


def _text(key: str, text: str) -> str:
    return text


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(key, text, "must be a number") from None


def _whole(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SettingsError(key, text, "must be a whole number") from None


def _choice(key: str, text: str, allowed: Sequence[str]) -> str:
    if text not in allowed:
        raise SettingsError(key, text, nearest(text, allowed))
    return text


HEADER: dict[str, Callable[[str, str], Any]] = {
    "temperature": _number,
    "top_p": _number,
    "top_k": _whole,
    "vocab_size": _whole,
}
READERS: dict[str, Callable[[str, str], Any]] = {
    "out": lambda key, text: Path(text),
    "library": _text,
    "tracking": lambda key, text: _choice(key, text, TRACKING),
    "strict": lambda key, text: _choice(key, text, ("true", "false")) == "true",
}
KEYS = (*READERS, *Header._fields, *OVERRIDES)
