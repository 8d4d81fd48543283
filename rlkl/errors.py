"""Errors that end a command with a one-line message, and helpers that word such messages."""

import contextlib
import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any


def visible(text: str) -> str:
    """The text with each non-printable character escaped, as Python's repr does."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class SettingsError(ValueError):
    """A bad setting. The message names the key, the value and what is allowed, in one printable line under 300 characters."""

    def __init__(self, key: str, value: Any, allowed: str):
        self.key, self.value, self.allowed = key, value, allowed
        key_text = shortened(visible(str(key)), 60)
        value_text = "" if isinstance(value, str) and value == "" else f"={_shown(value)}"
        super().__init__(shortened(visible(" ".join(f"{key_text}{value_text}: {allowed}".split())), 298))


def _shown(value: Any) -> str:
    """A value as text of at most 80 characters. Of a path the end is kept: it has the file's name."""
    text = visible(_text(value))
    if isinstance(value, PurePath) and len(text) > 80:
        return f"'...{text[-76:]}"
    return shortened(text, 80)


def _text(value: Any) -> str:
    """A value as text; a huge whole number as its number of digits, since Python refuses to print those."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"{'-' if value < 0 else ''}a whole number of about {round(math.log10(2) * value.bit_length())} digits"
    return repr(str(value)) if isinstance(value, (str, PurePath)) else str(value)


def shortened(text: str, most: int) -> str:
    """The text, truncated with dots to at most `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def one_line(error: Exception) -> str:
    """An error's message in one line of at most 160 characters, or its type where it has none."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def damaged(path: Path, why: Exception | str) -> SettingsError:
    """The error for a file of a run's folder that cannot be read back."""
    os_reason = isinstance(why, OSError) and why.strerror
    reason = f"cannot be read ({os_reason})" if os_reason else f"is not as it was written: {why}"
    return SettingsError("folder", str(path.parent), f"its {path.name} {reason[:150]}")


def directory(folder: Any) -> Path:
    """The folder as a path; raises `SettingsError` if there is no such folder."""
    with contextlib.suppress(TypeError, OSError):
        if Path(folder).is_dir():
            return Path(folder)
    raise SettingsError("folder", folder, "is no folder with a finished run in it")


class DivergedError(RuntimeError):
    """A run stopped because its gradient or its parameters are not finite."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(
            f"the run diverged at step {step}: its gradient or parameters are not finite. What it had until then is "
            "kept; a smaller optimizer.learning_rate, or optimizer.max_grad_norm, may help."
        )


class BadJobsError(ValueError):
    """Jobs of a sweep with bad settings, with an error message for each; nothing was trained."""

    def __init__(self, complaints: Mapping[int, str]):
        jobs_by_complaint: dict[str, list[int]] = {}
        for number, complaint in complaints.items():
            jobs_by_complaint.setdefault(" ".join(complaint.split()), []).append(number)
        self.lines = [
            f"job{'s' if len(jobs) > 1 else ''} {spans(jobs)}: {message}" for message, jobs in jobs_by_complaint.items()
        ]
        super().__init__("\n".join(self.lines))


def spans(numbers: Iterable[int]) -> str:
    """Increasing numbers as text, with ranges: 0-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest valid name, and all valid names where they are few or none is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name)[:100], valid, n=1, cutoff=0.6)
    allowed = "allowed: " + ", ".join(valid)
    if not close:
        short = allowed[:180].rpartition(",")[0] + f", ... ({len(valid)}; rlkl --help shows all)"
        return allowed if len(allowed) <= 180 else short
    return f"did you mean {close[0]!r}?" + (f" ({allowed})" if len(valid) <= 10 else "")
