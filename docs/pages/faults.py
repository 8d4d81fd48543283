"""Warnings of `rlkl diagnose` in the pages: their thresholds from the source, their numbers from the examples."""

from functools import cache

from pages import markdown
from rlkl.diagnostics.diagnose import examples
from rlkl.diagnostics.diagnose.diagnosis import Diagnosis, diagnose
from rlkl.diagnostics.diagnose.faults import FAULTS


def faults_table() -> str:
    """A row for each warning: its name with a link to its page, what is wrong, where it is raised, and the reason."""
    rows = [
        (f"[`{name}`]({fault.page}.md)", fault.title, markdown.cell(fault.rule), markdown.cell(fault.why))
        for name, fault in FAULTS.items()
    ]
    return markdown.table(("warning", "what is wrong", "it is raised", "because"), rows)


def fault(name: str) -> str:
    """A warning's threshold and its reason, as a sentence."""
    this = FAULTS[name]
    return f"`{name}` is raised {this.rule}: {this.why}."


def examples_table() -> str:
    """A row for each example: its command, and what its run is."""
    rows = [(f"`rlkl diagnose example:{name}`", about) for name, (about, _) in examples.EXAMPLES.items()]
    return markdown.table(("command", "a run with"), rows)


def example_warnings(name: str, *penalty: str) -> str:
    """What the warnings of an example say, one a line."""
    return "\n".join(f"{warning.name}: {warning.says}" for warning in _diagnosed(name, penalty).warnings)


def example_kl(name: str, estimator: str, per: str = "token") -> str:
    """The KL(pi‖pi_ref) of an example by an estimator, with its standard error."""
    frame = _diagnosed(name, ()).kl
    row = frame[(frame.kl == "KL(pi‖pi_ref)") & (frame.estimator == estimator) & (frame.per == per)].iloc[0]
    return f"{row.value:.3g} ± {row.stderr:.1g}"


@cache
def _diagnosed(name: str, penalty: tuple[str, ...]) -> Diagnosis:
    return diagnose(examples.example(name).arrays, penalty=penalty)
