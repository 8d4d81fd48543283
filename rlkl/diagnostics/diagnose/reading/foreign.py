"""What the readers of other libraries' JSON share: fields that must be there, and the prompt of a sequence."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlkl.errors import SettingsError


def field(where: str, value: Any, key: str) -> Any:
    """A field of an object; raises `SettingsError` if it is not there."""
    if not isinstance(value, Mapping) or value.get(key) is None:
        raise SettingsError(where, "", f"lacks {key}")
    return value[key]


def lists(where: str, value: Any, *keys: str) -> list[list[Any]]:
    """Fields that must be lists; raises `SettingsError` for one that is not."""
    for key in keys:
        if not isinstance(field(where, value, key), list):
            raise SettingsError(f"{where}: {key}", value[key], "must be a list with an entry for each token")
    return [value[key] for key in keys]


def prompt_label(where: str, tokens: Sequence[Any], mask: Sequence[Any]) -> str:
    """A label that is equal for sequences with the same tokens before the first one that counts.

    A sequence that has none before it stands for itself.
    """
    prompt = tokens[: next((index for index, keep in enumerate(mask) if keep), len(tokens))]
    return str(prompt) if prompt else where
