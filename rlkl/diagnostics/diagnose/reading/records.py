"""Sequences as mappings, a record each (the lines of a JSON lines file), packed into chunks."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from rlkl.diagnostics.diagnose.reading.chunk import (
    FIELDS,
    FORMAT,
    LOG_PROBS,
    SEQUENCE_FIELDS,
    Chunk,
    Header,
    checked,
    group_number,
    header,
    without_masked,
)
from rlkl.errors import SettingsError, nearest

TOKENS_AT_ONCE = 2**16  # tokens of a chunk, about


class Record(NamedTuple):
    """A sequence of a file: where it stands, as in `run.jsonl, line 7`, and its fields."""

    where: str
    fields: Mapping[str, Any]


def lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file, a line each, with the place of each; raises `SettingsError` for a line that is no JSON."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            where = f"{path.name}, line {number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError):
                ends = "; the file is truncated" if not line.endswith("\n") else ""
                raise SettingsError(where, "", f"is no JSON{ends}") from None
            except UnicodeDecodeError:
                raise SettingsError(where, "", "is no text in UTF-8") from None


def open_text(path: Path) -> IO[str]:
    """The file, opened as text; raises `SettingsError` if it cannot be."""
    try:
        return path.open(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise SettingsError("PATH", str(path), f"cannot be read ({error.strerror})") from None


def read_jsonl(path: Path) -> tuple[Header, Iterator[Chunk]]:
    """The header and the chunks of a file in rlkl's format: an optional first line with the header, then a line a sequence."""
    values = lines(path)
    first = next(values, None)
    if first is None:
        raise SettingsError("PATH", str(path), "holds no sequence")
    where, value = first
    if isinstance(value, dict) and FORMAT in value:
        known = header(value, where)
    else:
        known, values = Header(), itertools.chain([first], values)
    return known, pack((Record(where, record_fields(where, value)) for where, value in values), known)


def record_fields(where: str, value: Any) -> Mapping[str, Any]:
    """The fields of a sequence in rlkl's format; raises `SettingsError` for what is none, and for an unknown field."""
    if not isinstance(value, dict):
        raise SettingsError(where, "", "must be an object with the fields of a sequence")
    if FORMAT in value:
        raise SettingsError(where, "", "is a second header; only the first line may be one")
    for key in value:
        if key not in FIELDS and key != "extra":
            raise SettingsError(f"{where}: {key}", "", "is no field of a sequence (`extra` takes what rlkl does not read); "
                                + nearest(key, FIELDS))  # fmt: skip
    return value


def pack(records: Iterable[Record], known: Header, tokens_at_once: int = TOKENS_AT_ONCE) -> Iterator[Chunk]:
    """Chunks of about `tokens_at_once` tokens, without the tokens that the mask leaves out.

    Raises `SettingsError` for a record whose fields are others than the first record's, whose lists have unequal lengths, or
    whose numbers cannot be.
    """
    present: tuple[str, ...] | None = None
    batch: list[Record] = []
    size = 0
    for record in records:
        names = tuple(name for name in FIELDS if record.fields.get(name) is not None and name != "mask")
        if present is None:
            present = names
        elif names != present:
            missing = sorted(set(present) ^ set(names))
            where = "lacks" if missing[0] in present else "has"
            raise SettingsError(record.where, "", f"{where} {missing[0]}, other than the sequences before it")
        batch.append(record)
        size += _length(record)
        if size >= tokens_at_once:
            yield _packed(batch, present, known)
            batch, size = [], 0
    if batch and present is not None:
        yield _packed(batch, present, known)
    if present is None:
        raise SettingsError("PATH", "", "holds no sequence")


def _length(record: Record) -> int:
    """The number of tokens of a record, masked ones included; raises `SettingsError` for lists of unequal lengths."""
    counts = {}
    for name in (*LOG_PROBS, "tokens", "mask", "advantages"):
        values = record.fields.get(name)
        if isinstance(values, (list, tuple, np.ndarray)):
            counts[name] = len(values)
        elif values is not None and name != "advantages":
            raise SettingsError(f"{record.where}: {name}", values, "must be a list with an entry for each token")
    first, *others = counts or {"": 0}
    for name in others:
        if counts[name] != counts[first]:
            raise SettingsError(f"{record.where}: {name}", "", f"has {counts[name]} entries, and {first} has {counts[first]}")
    return counts.get(first, 0)


def _packed(batch: Sequence[Record], names: Sequence[str], known: Header) -> Chunk:
    lengths = np.array([_length(record) for record in batch], np.int64)
    total = int(lengths.sum())
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        column = [record.fields[name] for record in batch]
        if name in SEQUENCE_FIELDS:
            arrays[name] = _per_sequence(name, column, batch)
        else:
            spread = [value if isinstance(value, (list, tuple, np.ndarray)) else [value] * length
                      for value, length in zip(column, lengths, strict=True)]  # fmt: skip
            arrays[name] = _flat(name, spread, batch, total)
    mask = None
    if any("mask" in record.fields for record in batch):
        masks = [record.fields.get("mask") or [1] * length for record, length in zip(batch, lengths, strict=True)]
        mask = _flat("mask", masks, batch, total)
    chunk = without_masked(lengths, mask, arrays)
    return checked(chunk, known, lambda index: batch[index].where)


def _per_sequence(name: str, column: Sequence[Any], batch: Sequence[Record]) -> np.ndarray:
    if name == "group":
        return np.array([group_number(value) for value in column], np.int64)
    for value, record in zip(column, batch, strict=True):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise SettingsError(f"{record.where}: {name}", value, "must be a number")
        if name == "step" and value != int(value):
            raise SettingsError(f"{record.where}: step", value, "must be a whole number")
    return np.array(column, np.int64 if name == "step" else np.float64)


def _flat(name: str, column: Sequence[Any], batch: Sequence[Record], total: int) -> np.ndarray:
    dtype = np.int64 if name == "tokens" else np.float64
    try:
        return np.fromiter(itertools.chain.from_iterable(column), dtype, total)
    except (TypeError, ValueError, OverflowError):
        for values, record in zip(column, batch, strict=True):
            for position, value in enumerate(values):
                is_number = isinstance(value, (int, float, np.number))
                if not is_number or (dtype is np.int64 and not -(2**63) <= value < 2**63):
                    raise SettingsError(f"{record.where}: {name}, token {position}", value, "must be a number") from None
        raise
