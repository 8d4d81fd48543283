"""Sequences as mappings, a record each (the lines of a JSON lines file), packed into chunks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from rlkl.diagnostics.diagnose.reading.chunk import (
    FIELDS,
    FORMAT,
    LOG_PROBS,
    SEQUENCE_FIELDS,
    TOKEN_FIELDS,
    Chunk,
    Header,
    checked,
    group_number,
    without_masked,
)
from rlkl.errors import SettingsError, nearest

TOKENS_AT_ONCE = 2**16  # tokens of a chunk, about
LISTS = (*LOG_PROBS, "tokens", "mask", "advantages")
MAY_BE_NULL = (*LOG_PROBS, "advantages")  # at tokens that the mask leaves out
KINDS = {"tokens": "iu", "mask": "biuf"}  # of dtypes; others: "fiu"
MOST = 2**63 - 1


class Record(NamedTuple):
    """A sequence of a file: where it stands, as in `run.jsonl, line 7`, and its fields."""

    where: str
    fields: Mapping[str, Any]


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


def pack(records: Iterable[Record], path: Path, known: Header) -> Iterator[Chunk]:
    """Chunks of about TOKENS_AT_ONCE tokens, without the tokens that the mask leaves out.

    Raises `SettingsError` for a file without records, and for a record whose fields are others than the first record's, whose
    lists have unequal lengths, or whose numbers cannot be.
    """
    present: tuple[str, ...] | None = None
    batch: list[Record] = []
    lengths: list[int] = []
    size = 0
    for record in records:
        names = tuple(name for name in FIELDS if record.fields.get(name) is not None and name != "mask")
        if present is None:
            present = names
        elif names != present:
            name = min(set(present) ^ set(names))
            raise SettingsError(record.where, "", f"{'lacks' if name in present else 'has'} {name}, other than those before it")
        batch.append(record)
        lengths.append(_length(record))
        size += lengths[-1] + 1  # so that a chunk of empty sequences ends, too
        if size > TOKENS_AT_ONCE:
            yield _packed(batch, lengths, present, known)
            batch, lengths, size = [], [], 0
    if present is None:
        raise SettingsError("PATH", path, "holds no sequence")
    if batch:
        yield _packed(batch, lengths, present, known)


def _is_list(value: Any) -> TypeGuard[list[Any] | np.ndarray]:
    return isinstance(value, (list, np.ndarray))


def _length(record: Record) -> int:
    """The number of tokens of a record, masked ones included; raises `SettingsError` for lists of unequal lengths."""
    counts = {}
    for name in LISTS:
        values = record.fields.get(name)
        if _is_list(values):
            counts[name] = len(values)
        elif values is not None and name != "advantages":
            raise SettingsError(f"{record.where}: {name}", values, "must be a list with an entry for each token")
    first, *others = counts or {"": 0}
    for name in others:
        if counts[name] != counts[first]:
            raise SettingsError(f"{record.where}: {name}", "", f"has {counts[name]} entries, and {first} has {counts[first]}")
    return counts.get(first, 0)


def _packed(batch: Sequence[Record], lengths: Sequence[int], names: Sequence[str], known: Header) -> Chunk:
    arrays = {name: _per_sequence(name, batch) for name in names if name in SEQUENCE_FIELDS}
    arrays |= {name: _per_token(name, batch, lengths) for name in names if name in TOKEN_FIELDS}
    mask = _per_token("mask", batch, lengths) if any(record.fields.get("mask") is not None for record in batch) else None
    chunk = without_masked(np.array(lengths, np.int64), mask, arrays)
    return checked(chunk, known, lambda index: batch[index].where)


def _per_sequence(name: str, batch: Sequence[Record]) -> np.ndarray:
    """The values of a field with one number a sequence."""
    values = []
    for record in batch:
        value = record.fields[name]
        if name == "group":
            if isinstance(value, bool) or not isinstance(value, (int, str, np.integer)):
                raise SettingsError(f"{record.where}: group", value, "must be a whole number or a text")
            value = group_number(value)
        elif isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise SettingsError(f"{record.where}: {name}", value, "must be a number")
        elif not -MOST <= value <= MOST:
            raise SettingsError(f"{record.where}: {name}", value, "must be a finite number")
        elif name == "step" and value != int(value):
            raise SettingsError(f"{record.where}: step", value, "must be a whole number")
        values.append(value)
    return np.array(values, np.float64 if name == "reward" else np.int64)


def _per_token(name: str, batch: Sequence[Record], lengths: Sequence[int]) -> np.ndarray:
    """The values of a field with one number a token, of all sequences one after another; NaN for null."""
    parts = []
    for record, length in zip(batch, lengths, strict=True):
        values = record.fields.get(name)
        if not _is_list(values):
            values = [1 if name == "mask" and values is None else values] * length
        parts.append(_array(name, values, record.where))
    flat = np.concatenate(parts)
    if name == "mask" and ((flat != 0) & (flat != 1)).any():
        wrong = int(((flat != 0) & (flat != 1)).argmax())
        place = int(np.searchsorted(np.cumsum(lengths), wrong, side="right"))
        raise SettingsError(f"{batch[place].where}: mask", flat[wrong].item(), "must be of 0 and 1")
    return flat.astype(np.int64 if name == "tokens" else np.float64, copy=False)


def _array(name: str, values: Any, where: str) -> np.ndarray:
    """The numbers of a sequence; raises `SettingsError` for what is no number, or no whole one."""
    kinds = KINDS.get(name, "fiu")
    try:
        array = np.asarray(values.tolist() if isinstance(values, np.ndarray) and values.dtype == object else values)
        if array.dtype == object and name in MAY_BE_NULL and {*map(type, values)} <= {int, float, type(None)}:
            array = np.array(values, np.float64)
    except (ValueError, OverflowError):  # lists within the list, or a number that is too large
        array = np.array([None])
    if not array.size:
        return np.zeros(0, np.float64)
    if array.dtype.kind in kinds and array.ndim == 1 and not (name == "tokens" and (array > MOST).any()):
        return array
    rule = "must be a whole number" if name == "tokens" else "must be a number"
    numbers = (int, np.integer) if name == "tokens" else (int, float, np.number)
    for position, value in enumerate(values):
        is_right = isinstance(value, numbers)
        if not is_right or isinstance(value, bool) or (isinstance(value, int) and abs(value) > MOST):
            raise SettingsError(f"{where}, token {position}: {name}", value, rule)
    raise SettingsError(f"{where}: {name}", str(array.dtype), rule)
