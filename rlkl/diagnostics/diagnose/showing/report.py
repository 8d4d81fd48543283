"""Write report.json, report.html and the figures of a diagnosis."""

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rlkl.diagnostics.diagnose.faults import FAULTS
from rlkl.diagnostics.diagnose.showing.advice import ADVICE
from rlkl.diagnostics.diagnose.showing.answer import sentences
from rlkl.runs.folder import files

if TYPE_CHECKING:
    from rlkl.diagnostics.diagnose.diagnosis import Diagnosis

SCHEMA_VERSION = 1


def write_report(diagnosis: "Diagnosis", folder: Path) -> list[Path]:
    """Write the report into a folder, and return the paths; raises `OSError` where that is not possible."""
    paths = [folder / "report.json", folder / "report.html"]
    text = json.dumps(as_json(diagnosis), ensure_ascii=False, indent=1, allow_nan=False)
    files.write(paths[0], f"{text}\n")
    from rlkl.diagnostics.diagnose.showing import figures, page  # these take long to import
    from rlkl.reports import plots

    files.write(paths[1], page.page(diagnosis))
    for name, figure in figures.figures(diagnosis).items():
        paths += plots.save(figure, folder / name)
    return paths


def as_json(diagnosis: "Diagnosis") -> dict[str, Any]:
    """The diagnosis as valid JSON values: frames as lists of rows, infinities as "inf" and "-inf", undefined numbers null."""
    content = {"schema_version": SCHEMA_VERSION, "answer": sentences(diagnosis), **plain(diagnosis)}
    for warning in content["warnings"]:
        fault = FAULTS[warning["name"]]
        warning |= {"title": fault.title, "rule": fault.rule, "why": fault.why, "advice": ADVICE[warning["name"]]}
    return content


def plain(value: Any) -> Any:
    """A value of a diagnosis as a value of JSON."""
    if isinstance(value, pd.DataFrame):
        return plain(value.to_dict("records"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0.0 else "-inf")
    return value
