"""Checks of task options. Each raises a `SettingsError` that names the key, the value and what is allowed."""

from pathlib import Path
from typing import Any

import numpy as np

from rlkl.errors import SettingsError

MOST = 1e300  # largest magnitude of a reward, so that sums of a few stay finite
MOST_WHOLE = 2**63 - 1


def number(key: str, value: Any, above: int | float | None = None, at_least: int | float | None = None) -> float:
    """`value` as a float; refused unless it is finite and within its limits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MOST:
        raise SettingsError(key, value, f"must be a finite number, of at most {MOST:g}")
    if above is not None and not value > above:
        raise SettingsError(key, value, f"must be above {above:g}")
    if at_least is not None and not value >= at_least:
        raise SettingsError(key, value, f"must be at least {at_least:g}")
    return float(value)


def whole(key: str, value: Any, at_least: int) -> int:
    """`value` as an int; refused unless it is a whole number from `at_least` to MOST_WHOLE."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not at_least <= value <= MOST_WHOLE or value != int(value):
        most = f" and at most {MOST_WHOLE}" if is_number and value > MOST_WHOLE else ""
        raise SettingsError(key, value, f"must be a whole number of at least {at_least}{most}")
    return int(value)


MOST_BYTES = 2**30  # largest size of one table; training holds about ten of them


def fits(key: str, value: Any, cells: int) -> None:
    """Refuse a table of more than MOST_BYTES (`cells` numbers of 8 bytes): training on it would not fit into memory."""
    if 8 * cells > MOST_BYTES:
        size = "more than 1e+300" if cells > MOST else f"{8 * cells / 2**30:.3g}"
        raise SettingsError(key, value, f"a table of it would need {size} GiB; at most {MOST_BYTES / 2**30:g} GiB are allowed")


MOST_FILE = 2**28  # largest text or automaton file, in bytes


def file_text(key: str, path: Any) -> str:
    """The content of a UTF-8 text file."""
    if not isinstance(path, str):
        raise SettingsError(key, path, "must be a file's path")
    try:
        file = Path(path).expanduser()
        if file.exists() and not file.is_file():
            raise SettingsError(key, path, "is no regular file")
        if file.exists() and file.stat().st_size > MOST_FILE:
            size = file.stat().st_size
            raise SettingsError(key, path, f"is {size / 2**20:.0f} MiB large; at most {MOST_FILE // 2**20} MiB are read")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(key, path, f"is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise SettingsError(key, path, f"cannot be read ({error.strerror})") from None
    except (RuntimeError, ValueError) as error:  # an unknown user after ~, a null byte, a lone surrogate
        raise SettingsError(key, path, f"is no path ({error})") from None


def choice(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    """`value`; refused unless it is one of `allowed`."""
    if value not in allowed:
        raise SettingsError(key, value, "allowed: " + ", ".join(allowed))
    return value


def numbers(key: str, values: Any) -> np.ndarray:
    """`values` as Float["n"]; refused unless they are a list of finite numbers."""
    rule = "must be a list of numbers, as in [0.2,0.8]"
    if not isinstance(values, (list, tuple, np.ndarray)) or not all(isinstance(x, (int, float, np.number)) for x in values):
        raise SettingsError(key, values, rule)
    try:
        array = np.asarray(values, dtype=np.float64)
    except OverflowError:
        raise SettingsError(key, values, f"every number must be finite, and at most {MOST:g}") from None
    if array.size == 0:
        raise SettingsError(key, values, rule)
    if not (np.abs(array) <= MOST).all():
        index = int(np.flatnonzero(~(np.abs(array) <= MOST))[0])
        raise SettingsError(key, values, f"entry {index} is {array[index]}; every number must be finite, and at most {MOST:g}")
    return array


def probabilities(key: str, values: Any) -> np.ndarray:
    """`values` as Float["n"], normalised; refused unless they are probabilities that sum to 1 within 1e-6."""
    array = numbers(key, values)
    if (array < 0).any():
        index = int(np.flatnonzero(array < 0)[0])
        raise SettingsError(key, values, f"entry {index} is {array[index]:g}; a probability must be at least 0")
    total = float(array.sum())
    if total == 0.0:
        raise SettingsError(key, values, "all are zero; they must sum to 1")
    if abs(total - 1.0) > 1e-6:
        raise SettingsError(key, values, f"sums to {total:.6g}; must sum to 1")
    return array / total
