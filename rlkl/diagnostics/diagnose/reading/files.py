"""Files of rollouts, opened: what a file is, is told by its content and not by its name."""

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlkl.diagnostics.diagnose.reading.arrays import read_npz
from rlkl.diagnostics.diagnose.reading.chunk import Chunk, Header, checked_header
from rlkl.diagnostics.diagnose.reading.json_files import read_json
from rlkl.diagnostics.diagnose.reading.parquet import read_parquet
from rlkl.diagnostics.diagnose.reading.scored import KEY, Scored
from rlkl.errors import SettingsError

ENDINGS = (".jsonl", ".json", ".npz", ".parquet")  # files that are looked for in a folder
ZIP, PARQUET, JSON = b"PK\x03\x04", b"PAR1", (b"{", b"[")  # first bytes
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")  # gzip, bzip2, xz, zstandard
ONE_OF_A_KIND = ("vocab_size", "temperature", "top_p", "top_k", "reported", "sampled_from")  # the same in all files


class Rollouts(NamedTuple):
    """The sequences of one file: its header, and its chunks, which can be iterated over once."""

    path: Path
    header: Header
    chunks: Iterator[Chunk]


def open_rollouts(paths: Sequence[str | Path], settings: Mapping[str, Any]) -> Iterator[Rollouts]:
    """The files one after another; the chunks of each must be read before the next one is asked for.

    settings: keys of the header, for files that do not say them, and `reference_logprobs`, a file in which a server scored the
    sequences. Raises `SettingsError` for a file that cannot be read, for a folder without files, for a setting that is other
    than what a file says, and for files that differ in their fields or in what must be the same in all of them.
    """
    wanted = checked_header({key: value for key, value in settings.items() if key != KEY}, "settings")
    scored = Scored(_readable(Path(settings[KEY]))) if settings.get(KEY) is not None else None
    fields: dict[str, tuple[str, ...]] = {}
    first: Rollouts | None = None
    for path in files(paths):
        rollouts = Rollouts(path, *reader(path)(path, wanted))
        first = first or rollouts
        for key in ONE_OF_A_KIND:
            value, other = getattr(rollouts.header, key), getattr(first.header, key)
            if value != other:
                raise SettingsError(f"{path.name}: {key}", value, f"{first.path.name} has {other}, and all files must agree")
        chunks = scored.add(rollouts.chunks, rollouts.header) if scored else rollouts.chunks
        yield rollouts._replace(chunks=_with_fields(chunks, path, fields))
    if scored:
        scored.close()


def _with_fields(chunks: Iterator[Chunk], path: Path, fields: dict[str, tuple[str, ...]]) -> Iterator[Chunk]:
    """The chunks of a file; raises `SettingsError` if their fields are others than those of the files before."""
    for chunk in chunks:
        for name, expected in fields.items():
            for field in sorted(set(expected) ^ set(chunk.fields)):
                has = "lacks" if field in expected else "has"
                raise SettingsError("PATH", path, f"{has} {field}, other than {name}: all files must have the same fields")
        fields.setdefault(path.name, chunk.fields)
        yield chunk


def files(paths: Sequence[str | Path]) -> Iterator[Path]:
    """The files of these paths; of a folder, those in it with an ending that rlkl reads, by name, step_2 before step_10."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        inside = [each for each in path.rglob("*") if each.suffix in ENDINGS and each.is_file()]
        if not inside:
            raise SettingsError("PATH", path, f"holds no file that ends in {', '.join(ENDINGS)}")
        yield from sorted(inside, key=_numbers_and_texts)


def _numbers_and_texts(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"\d+|\D+", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError("PATH", path, f"cannot be read ({reason})") from None
    return path


def _members(path: Path) -> list[str]:
    """The names in an archive; none where it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def reader(path: Path) -> Any:
    """The function that reads a file; raises `SettingsError` for one that cannot be opened, and for one of another kind.

    Nothing in a file is executed: pickles, and archives with a pickle in them, are of another kind.
    """
    with _readable(path).open("rb") as file:
        start = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(ZIP):
        if any(name.endswith(".pkl") for name in _members(path)):
            raise SettingsError("PATH", path, "is a pickle (of torch.save), which rlkl never loads: docs/dumpers/ has "
                                "converters")  # fmt: skip
        return read_npz
    if start.startswith(PARQUET):
        return read_parquet
    if start.startswith(JSON):
        return read_json
    if not start:
        raise SettingsError("PATH", path, "is empty")
    if start.startswith(COMPRESSED):
        raise SettingsError("PATH", path, "is compressed: unpack it first")
    raise SettingsError("PATH", path, "is neither JSON lines nor .npz nor Parquet; pickles (torch.save, pickle.dump) are "
                        "never loaded: docs/dumpers/ has converters")  # fmt: skip
