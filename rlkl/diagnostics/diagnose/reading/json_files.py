"""Files of JSON, told apart by the keys of their objects: rlkl's format, dumps of prime-rl and NeMo-RL, servers' responses."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from rlkl.diagnostics.diagnose.reading import nemo_rl, prime_rl, servers
from rlkl.diagnostics.diagnose.reading.chunk import FORMAT, Chunk, Header, header, merged
from rlkl.diagnostics.diagnose.reading.records import Record, pack, record_fields
from rlkl.diagnostics.json_values import Value, json_values
from rlkl.errors import SettingsError

FOREIGN = (prime_rl, nemo_rl, servers)  # each has KEYS, and records(values, path, header)


def read_json(path: Path, settings: Header) -> tuple[Header, Iterator[Chunk]]:
    """The header and the chunks of a file; settings are used where it says nothing.

    In rlkl's own format an optional first line is the header, and each other line a sequence. Raises `SettingsError`.
    """
    values = json_values(path, path.name)
    first = next(values, None)
    if first is None:
        raise SettingsError("PATH", path, "holds no sequence")
    keys = set(first.content) if isinstance(first.content, dict) else set()
    if FORMAT in keys:
        known = merged(header(first.content, first.where), settings, path.name)
        return known, pack(_records(values), path, known)
    values = itertools.chain([first], values)
    library = next((each for each in FOREIGN if keys & each.KEYS), None)
    if library is None:
        return settings, pack(_records(values), path, settings)
    known = merged(library.header(first, path, settings), settings, path.name)
    return known, pack(library.records(values, path), path, known)


def _records(values: Iterator[Value]) -> Iterator[Record]:
    return (Record(where, record_fields(where, value)) for where, value in values)
