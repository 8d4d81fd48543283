"""Sequences in Parquet files: a row a sequence, lists for the fields of tokens, the header in the file's metadata."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlkl.diagnostics.diagnose.reading.chunk import FIELDS, FORMAT, Chunk, Header, header, merged
from rlkl.diagnostics.diagnose.reading.records import Record, pack, record_fields
from rlkl.errors import SettingsError, one_line

ROWS_AT_ONCE = 256
BUFFER = 2**20  # bytes of a column that are read at once


def pyarrow() -> Any:
    """The module pyarrow, with its compute and parquet; raises `SettingsError` where it is not installed."""
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise SettingsError("Parquet", "", "needs pyarrow: pip install 'rlkl[parquet]'") from None
    return pyarrow


def read_parquet(path: Path, settings: Header) -> tuple[Header, Iterator[Chunk]]:
    """The header and the chunks of a Parquet file in rlkl's format; settings are used where the file says nothing."""
    arrow = pyarrow()
    try:
        file = arrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise SettingsError("PATH", path, f"is no Parquet file that can be read ({one_line(error)})") from None
    record_fields(path.name, dict.fromkeys(file.schema_arrow.names))
    known = merged(_header(file, path), settings, path.name)
    return known, pack(_records(arrow, file, path.name), path, known)


def _header(file: Any, path: Path) -> Header:
    content = (file.schema_arrow.metadata or {}).get(FORMAT.encode())
    if content is None:
        return Header()
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise SettingsError(f"{path.name}: {FORMAT}", "", "must be the header as JSON, in the file's metadata")
    return header(values, path.name)


def _records(arrow: Any, file: Any, name: str) -> Iterator[Record]:
    columns = [field for field in file.schema_arrow.names if field in FIELDS]
    row = 0
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False):
            cells = [_cells(arrow, batch.column(field)) for field in columns]
            for index, values in enumerate(zip(*cells, strict=True)):
                yield Record(f"{name}, row {row + index}", dict(zip(columns, values, strict=True)))
            row += batch.num_rows
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise SettingsError(f"{name}, row {row}", "", f"cannot be read ({one_line(error)})") from None


def _cells(arrow: Any, column: Any) -> Sequence[Any]:
    """The cells of a column as numbers, texts or arrays; None for a null."""
    types = arrow.types
    if not (types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)):
        return column.to_pylist()
    lengths = [0 if length is None else length for length in arrow.compute.list_value_length(column).to_pylist()]
    flat = column.flatten()
    whole = flat.null_count and types.is_integer(flat.type)  # which NumPy would make numbers with NaN
    values = np.array(flat.to_pylist(), object) if whole else flat.to_numpy(zero_copy_only=False)
    parts = np.split(values, np.cumsum(lengths)[:-1])
    return [part if cell else None for part, cell in zip(parts, column.is_valid().to_pylist(), strict=True)]
