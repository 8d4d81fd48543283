"""Write rollouts in rlkl's format, as JSON lines or .npz."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rlkl.diagnostics.diagnose.reading.chunk import FORMAT, SEQUENCE_FIELDS, VERSION, Chunk, Header
from rlkl.diagnostics.server_logprobs import MINUS_INFINITY
from rlkl.errors import SettingsError

DIGITS = 7  # significant digits of numbers in JSON lines


def write_rollouts(path: Path, header: Header, chunks: Iterable[Chunk]) -> None:
    """Write sequences to a file whose name ends in .jsonl or .npz."""
    if path.suffix == ".npz":
        parts = list(chunks)
        arrays: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in parts]) for name in parts[0].fields}
        arrays["lengths"] = np.concatenate([each.lengths for each in parts])
        np.savez(path, **arrays, **_said(header))
    elif path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.write(json.dumps(_said(header)) + "\n")
            for chunk in chunks:
                file.writelines(json.dumps(record) + "\n" for record in records(chunk))
    else:
        raise SettingsError("PATH", path, "must end in .jsonl or .npz")


def _said(header: Header) -> dict[str, Any]:
    return {FORMAT: VERSION} | {key: value for key, value in header._asdict().items() if value is not None}


def records(chunk: Chunk) -> Iterable[dict[str, Any]]:
    """The sequences of a chunk as records of the format."""
    ends = np.cumsum(chunk.lengths)
    for index, (start, end) in enumerate(zip(ends - chunk.lengths, ends, strict=True)):
        record: dict[str, Any] = {}
        for name in chunk.fields:
            values = getattr(chunk, name)
            if name in SEQUENCE_FIELDS:
                record[name] = values[index].item()
            else:
                record[name] = [_rounded(value) for value in values[start:end].tolist()]
        yield record


def _rounded(value: int | float) -> int | float:
    if isinstance(value, int):
        return value
    return MINUS_INFINITY if value == -np.inf else float(f"{value:.{DIGITS}g}")
