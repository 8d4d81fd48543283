"""Sequences in Parquet files: a row a sequence, lists for the fields of tokens, the header in the file's metadata."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlkl.diagnostics.diagnose.reading.chunk import FORMAT, Chunk, Header, header
from rlkl.diagnostics.diagnose.reading.records import Record, pack, record_fields
from rlkl.errors import SettingsError, one_line

ROWS_AT_ONCE = 256


def pyarrow() -> Any:
    """The module pyarrow.parquet; raises `SettingsError` where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise SettingsError("Parquet", "", "needs pyarrow: pip install 'rlkl[parquet]'") from None
    return pyarrow.parquet


def read_parquet(path: Path) -> tuple[Header, Iterator[Chunk]]:
    """The header and the chunks of a Parquet file in rlkl's format."""
    parquet = pyarrow()
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise SettingsError("PATH", str(path), f"is no Parquet file that can be read ({one_line(error)})") from None
    content = (file.schema_arrow.metadata or {}).get(FORMAT.encode())
    known = Header()
    if content is not None:
        try:
            values = json.loads(content)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise SettingsError(f"{path.name}: {FORMAT}", "", "must be the header as JSON, in the file's metadata")
        known = header(values, path.name)
    return known, pack(_records(file, path.name), known)


def _records(file: Any, name: str) -> Iterator[Record]:
    row = 0
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            columns = {field: batch.column(field) for field in batch.schema.names}
            for index in range(batch.num_rows):
                where = f"{name}, row {row + index}"
                values = {field: _value(column[index]) for field, column in columns.items()}
                yield Record(where, record_fields(where, values))
            row += batch.num_rows
    except OSError as error:
        raise SettingsError(f"{name}, row {row}", "", f"cannot be read ({one_line(error)})") from None


def _value(scalar: Any) -> Any:
    """A cell as a number, a text or an array; None for a null."""
    values = getattr(scalar, "values", None)
    if values is None:
        return scalar.as_py()
    return np.asarray(values.to_numpy(zero_copy_only=False))
