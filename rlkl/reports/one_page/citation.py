"""Make a BibTeX entry of CITATION.cff."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlkl.runs.load import hydra_record

SPECIAL = re.compile(r"[&%$#_]")


def citation_file() -> Path:
    """Return the path of CITATION.cff: in the installed package, or at the top of a clone."""
    package = Path(__file__).parents[2]
    installed = package / "CITATION.cff"
    return installed if installed.is_file() else package.parent / "CITATION.cff"


def bibtex(path: Path) -> str | None:
    """Return a citation file as a BibTeX entry, None where there is no such file."""
    record = hydra_record(path)
    if not isinstance(record, dict):
        return None
    released = str(record.get("date-released", ""))
    fields = {
        "author": " and ".join(map(_author, record.get("authors", ()))),
        "title": _escaped(record["title"]),
        "year": released[:4],
        "version": _escaped(record.get("version", "")),
        "license": _escaped(record.get("license", "")),
        "doi": _escaped(record.get("doi", "")),
        "url": _escaped(record.get("url") or record.get("repository-code", "")),
    }
    lines = [f"  {name:<7} = {{{_protected(name, value)}}}," for name, value in fields.items() if value]
    return "\n".join(["@software{rlkl,", *lines, "}"])


def _protected(name: str, value: str) -> str:
    """Return a title in braces, so that its capitals stay."""
    return f"{{{value}}}" if name == "title" else value


def _author(author: Mapping[str, Any]) -> str:
    """Return a person as `family, given`, and a group in braces, so that its words are not taken for names."""
    if "name" in author:
        return f"{{{_escaped(author['name'])}}}"
    return ", ".join(_escaped(author[key]) for key in ("family-names", "given-names") if key in author)


def _escaped(value: Any) -> str:
    return SPECIAL.sub(r"\\\g<0>", str(value))
