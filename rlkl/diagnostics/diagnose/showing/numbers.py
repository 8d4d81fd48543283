"""Numbers of a diagnosis as text: with standard errors, with intervals, as shares."""

import math
from typing import Any

from rlkl.diagnostics.diagnose.faults import FAULTS, Warning
from rlkl.reports.console import number

COURSES = {
    "kl_k1": "KL(pi‖pi_ref) by k1",
    "kl_k3": "KL(pi‖pi_ref) by k3",
    "mismatch_k1": "KL(mu‖pi) by k1",
    "mismatch_k3": "KL(mu‖pi) by k3",
    "entropy": "entropy of pi",
}


def with_error(value: float, stderr: float) -> str:
    """A number and its standard error, where it has one."""
    return number(value) if math.isnan(stderr) else f"{number(value)} ± {number(stderr)}"


def interval(low: float, high: float) -> str:
    """The ends of a 95% interval; empty where there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"{number(low)} to {number(high)}"


def with_interval(row: Any) -> str:
    """The value of an estimate with its 95% interval, else with its standard error."""
    ends = interval(row.low, row.high)
    return f"{number(row.value)} (95%: {ends})" if ends else with_error(row.value, row.stderr)


def percent(share: float) -> str:
    """A share in percent; a dash where it is not known."""
    return "-" if math.isnan(share) else f"{100 * share:.3g}%"


def reason(warning: Warning) -> str:
    """The number behind a warning, its threshold, and the reason of the threshold."""
    number_text = "no number, the setting alone says it" if math.isnan(warning.value) else f"number {number(warning.value)}"
    fault = FAULTS[warning.name]
    return f"{number_text}; raised {fault.rule}: {fault.why}"
