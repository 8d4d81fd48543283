"""Files of rollouts, opened: what a file is, is told by its content and not by its name."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlkl.diagnostics.diagnose.reading.arrays import read_npz
from rlkl.diagnostics.diagnose.reading.chunk import Chunk, Header, checked_header
from rlkl.diagnostics.diagnose.reading.parquet import read_parquet
from rlkl.diagnostics.diagnose.reading.records import read_jsonl
from rlkl.errors import SettingsError

READERS = {b"PK\x03\x04": read_npz, b"PAR1": read_parquet}  # by a file's first bytes; else JSON lines
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
ENDINGS = (".jsonl", ".json", ".npz", ".parquet")  # files that are looked for in a folder


class Rollouts(NamedTuple):
    """The sequences of one file: its header, and its chunks, which can be iterated over once."""

    path: Path
    header: Header
    chunks: Iterator[Chunk]


def open_rollouts(paths: Sequence[str | Path], settings: Mapping[str, Any]) -> Iterator[Rollouts]:
    """The files one after another. settings: keys of the header, for files that do not say them.

    Raises `SettingsError` for a file that cannot be read, for a folder without files, and for a setting that is other than
    what a file says.
    """
    wanted = checked_header(settings, "settings")
    for path in files(paths):
        known, chunks = reader(path)(path)
        for key, value in wanted._asdict().items():
            written = getattr(known, key)
            if value is not None and written is not None and value != written:
                raise SettingsError(key, value, f"{path.name} says {written}")
            known = known._replace(**{key: written if value is None else value})
        yield Rollouts(path, known, chunks)


def files(paths: Sequence[str | Path]) -> Iterator[Path]:
    """The files of these paths; of a folder, the files in it with an ending that rlkl reads, in the order of their names."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        inside = sorted(each for each in path.rglob("*") if each.suffix in ENDINGS and each.is_file())
        if not inside:
            raise SettingsError("PATH", str(path), f"holds no file that ends in {', '.join(ENDINGS)}")
        yield from inside


def reader(path: Path) -> Any:
    """The function that reads a file; raises `SettingsError` for one that cannot be opened, and for a pickle."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise SettingsError("PATH", str(path), f"cannot be read ({error.strerror})") from None
    if start.startswith(PICKLES) or b"data.pkl" in start:
        raise SettingsError("PATH", str(path), "is a pickle, which rlkl never loads: docs/dumpers/ has converters")
    return next((read for magic, read in READERS.items() if start.startswith(magic)), read_jsonl)
