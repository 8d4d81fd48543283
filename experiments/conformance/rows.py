"""A row of the conformance matrix: one setting of one library, with the loss that this setting trains on."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A setting of a library, its loss as `rlkl check` calls it, and what the library says that its penalty is."""

    setting: str
    loss: Callable[..., Any]
    says: str = ""
