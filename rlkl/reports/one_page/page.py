"""Lay a report out as an HTML page that stands alone, by page.html."""

from rlkl.reports import plots
from rlkl.reports.one_page import layout
from rlkl.reports.one_page.contents import Contents
from rlkl.reports.one_page.provenance import Setting

MOST_VALUES = 6  # distinct values of a setting that are shown


def page(report: Contents) -> str:
    """Return the report as HTML: the same folder gives the same text."""
    templates = layout.templates()
    templates.filters["values"] = values
    figure = layout.svg(plots.draw(report.runs), "Figure of the runs")
    return templates.get_template("page.html").render(report=report, style=layout.style(), figure=figure)


def values(setting: Setting) -> str:
    """Return the values that a setting has over the jobs, in one line."""
    more = f", ... ({len(setting.values)} values)" if len(setting.values) > MOST_VALUES else ""
    return ", ".join(setting.values[:MOST_VALUES]) + more
