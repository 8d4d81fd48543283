"""What HTML pages that stand alone share: their templates, their style, and figures as part of the page."""

import io
import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from rlkl.reports import plots

HERE = Path(__file__).parent
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def templates(*folders: Path) -> jinja2.Environment:
    """The templates of these folders and of this one; what they show is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, HERE]), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


def style() -> Markup:
    """The style of all pages."""
    return Markup((HERE / "page.css").read_text(encoding="utf-8"))


def svg(figure: Figure, label: str) -> Markup:
    """The figure as an SVG element, without comments (which hold its texts) and without metadata. label: for screen readers."""
    out = io.StringIO()
    with plots.styled():
        figure.savefig(out, format="svg", metadata=NO_METADATA, transparent=True)
    text = out.getvalue()
    element = re.sub(r"<!--.*?-->\n?", "", text[text.index("<svg") :], flags=re.DOTALL)
    attributes = f' role="img" aria-label="{escape(label)}"'
    return Markup(re.sub(r'(<svg[^>]*?) height="[^"]*"', lambda match: match[1] + attributes, element, count=1))
