"""Lay a report out as an HTML page that stands alone, by page.html."""

import io
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from rlkl.reports import plots
from rlkl.reports.one_page.contents import Contents
from rlkl.reports.one_page.provenance import Setting

HERE = Path(__file__).parent
MOST_VALUES = 6  # distinct values of a setting that are shown
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def page(report: Contents) -> str:
    """Return the report as HTML: the same folder gives the same text."""
    layout = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    layout.filters["values"] = values
    style = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    return layout.get_template("page.html").render(report=report, style=style, figure=svg(report))


def values(setting: Setting) -> str:
    """Return the values that a setting has over the jobs, in one line."""
    more = f", ... ({len(setting.values)} values)" if len(setting.values) > MOST_VALUES else ""
    return ", ".join(setting.values[:MOST_VALUES]) + more


def svg(report: Contents) -> Markup:
    """Return the report's figure as an SVG element, without comments (which hold its texts) and without metadata."""
    out = io.StringIO()
    with plots.styled():
        plots.draw(report.runs).savefig(out, format="svg", metadata=NO_METADATA, transparent=True)
    text = out.getvalue()
    element = re.sub(r"<!--.*?-->\n?", "", text[text.index("<svg") :], flags=re.DOTALL)
    return Markup(re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img" aria-label="Figure of the runs"', element, count=1))
