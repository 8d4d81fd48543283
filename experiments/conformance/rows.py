"""A row of the conformance matrix: one setting of one library, with the loss or the trainer that it trains by."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A setting of a library, its loss as `rlkl check` calls it, and what the library says that its penalty is."""

    setting: str
    loss: Callable[..., Any]
    says: str = ""


class TrainerRow(NamedTuple):
    """A setting of a trainer of TRL: its name, its options, what TRL says of the penalty, its beta.

    is_second_update: read the second update on the same batch, without rewards; its sampler is the policy before the first.
    has_groups: whether every group of 2 and of 4 is put into a batch as well, which takes a minute.
    """

    setting: str
    trainer: str
    options: dict[str, Any]
    says: str = ""
    is_second_update: bool = False
    beta: float = 0.25
    has_groups: bool = False
