"""Claims of an experiment: a value that was measured, its bound, and whether it holds."""

from typing import Any, NamedTuple


class Claim(NamedTuple):
    """What a figure says, the number behind it, what the number must be, and whether it is."""

    claim: str
    value: float
    bound: str
    verdict: bool


def near(claim: str, value: float, expected: float, within: float) -> Claim:
    """A claim that a value lies within a distance of the expected one; false, never an error, where it is missing."""
    return Claim(claim, float(value), f"{expected:g} +- {within:g}", bool(abs(value - expected) <= within))


def at_most(claim: str, value: float, bound: float) -> Claim:
    """A claim that a value is at most a bound."""
    return Claim(claim, float(value), f"<= {bound:g}", bool(value <= bound))


def at_least(claim: str, value: float, bound: float) -> Claim:
    """A claim that a value is at least a bound."""
    return Claim(claim, float(value), f">= {bound:g}", bool(value >= bound))


def claim_record(claim: Claim) -> dict[str, Any]:
    """A claim as JSON values; a value that is not finite is null."""
    finite = claim.value - claim.value == 0.0
    return claim._asdict() | {"value": claim.value if finite else None}
