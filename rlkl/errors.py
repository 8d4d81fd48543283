"""Errors that end a command with one line, and the words of which their messages are made."""

import contextlib
import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def visible(text: str) -> str:
    """The text in one line, with each character that does not print escaped as Python's repr does."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class SettingsError(ValueError):
    """A bad setting: says the key, the value and what is allowed, in one line of printable text under 300 characters."""

    def __init__(self, key: str, value: Any, allowed: str):
        self.key, self.value, self.allowed = key, value, allowed
        named = shortened(visible(str(key)), 60)
        given = "" if isinstance(value, str) and value == "" else f"={shortened(visible(_text(value)), 80)}"
        super().__init__(shortened(visible(" ".join(f"{named}{given}: {allowed}".split())), 298))


def _text(value: Any) -> str:
    """A value as text; of a whole number beyond any that is allowed, how large it is (Python does not print all of them)."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"{'-' if value < 0 else ''}a whole number of about {round(math.log10(2) * value.bit_length())} digits"
    return repr(value) if isinstance(value, str) else str(value)


def shortened(text: str, most: int) -> str:
    """The text, cut off with dots where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def damaged(path: Path, why: Exception | str) -> SettingsError:
    """The refusal of a file in a run's folder that cannot be read back."""
    unread = isinstance(why, OSError) and why.strerror
    said = f"cannot be read ({unread})" if unread else f"is not as it was written: {why}"
    return SettingsError("folder", str(path.parent), f"its {path.name} {said[:150]}")


def directory(folder: Any) -> Path:
    """The path of a folder of runs; raises `SettingsError` for what is no folder."""
    with contextlib.suppress(TypeError, OSError):
        if Path(folder).is_dir():
            return Path(folder)
    raise SettingsError("folder", folder, "is no folder with a finished run in it")


class DivergedError(RuntimeError):
    """A run whose loss or parameters stopped being finite."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(
            f"the run diverged at step {step}: its gradient or parameters are not finite. What it had until then is "
            "kept; a smaller optimizer.learning_rate, or optimizer.max_grad_norm, may help."
        )


class BadJobsError(ValueError):
    """Jobs of a sweep that cannot be run, each with its complaint; nothing was trained."""

    def __init__(self, complaints: Mapping[int, str]):
        said: dict[str, list[int]] = {}
        for number, complaint in complaints.items():
            said.setdefault(" ".join(complaint.split()), []).append(number)
        self.lines = [f"job{'s' if len(those) > 1 else ''} {spans(those)}: {words}" for words, those in said.items()]
        super().__init__("\n".join(self.lines))


def spans(numbers: Iterable[int]) -> str:
    """Numbers in rising order as a person writes them: 0-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name: its nearest valid one, and all of them where they are few or none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name)[:100], known, n=1, cutoff=0.6)
    allowed = "allowed: " + ", ".join(known)
    if not close:
        short = allowed[:180].rpartition(",")[0] + f", ... ({len(known)}; rlkl --help shows all)"
        return allowed if len(allowed) <= 180 else short
    return f"did you mean {close[0]!r}?" + (f" ({allowed})" if len(known) <= 10 else "")
