"""Lay a diagnosis out as an HTML page that stands alone, by page.html."""

from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

import rlkl
from rlkl.diagnostics.diagnose.faults import FAULTS
from rlkl.diagnostics.diagnose.showing import figures
from rlkl.diagnostics.diagnose.showing.advice import ADVICE
from rlkl.diagnostics.diagnose.showing.answer import sentences, sources
from rlkl.diagnostics.diagnose.showing.numbers import reason
from rlkl.diagnostics.diagnose.showing.sheets import all_sheets
from rlkl.reports.one_page import layout

if TYPE_CHECKING:
    from rlkl.diagnostics.diagnose.diagnosis import Diagnosis

HERE = Path(__file__).parent


def page(diagnosis: "Diagnosis") -> str:
    """The diagnosis as HTML: the same diagnosis gives the same text."""
    templates = layout.templates(HERE)
    templates.filters["reason"] = reason
    panels = [panel for each in figures.panels(diagnosis).values() for panel in each]
    return templates.get_template("diagnosis.html").render(
        diagnosis=diagnosis,
        sources=sources(diagnosis),
        sentences=sentences(diagnosis),
        faults=FAULTS,
        advice=ADVICE,
        figures=[(panel.label, layout.svg(figures.draw([panel]), panel.label)) for panel in panels],
        sheets=list(all_sheets(diagnosis)),
        style=layout.style() + Markup((HERE / "diagnosis.css").read_text(encoding="utf-8")),
        version=rlkl.__version__,
    )
