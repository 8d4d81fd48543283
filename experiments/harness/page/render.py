"""The page's HTML, laid out by page.html from what was gathered: every number on it is a file's."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from experiments.harness.page.evidence import Saying, Shown

HERE = Path(__file__).parent
WIDEN = 1.8  # pixels a point, at most
FILES = ("figure.pdf", "figure.png", "figure.csv", "claims.json", "manifest.json")


def page(shown: list[Shown], said: list[Saying], complaints: list[str]) -> str:
    """The whole of index.html."""
    loader = jinja2.FileSystemLoader(HERE)
    layout = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    layout.filters.update(inline_figure=inline_figure, sweep_command=sweep_command, link_arxiv=link_arxiv)
    layout.globals.update(asset=asset, files=FILES)
    return layout.get_template("page.html").render(shown=shown, said=said, complaints=complaints)


def asset(name: str) -> Markup:
    """A file beside this one, as it is."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


def inline_figure(each: Shown) -> Markup:
    """The figure as part of the page: its identifiers made its own, as wide as there is room, but not out of proportion."""
    svg = re.sub(r'\bid="', f'id="{each.name}-', each.figure[each.figure.index("<svg") :])
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{each.name}-", svg)
    width = float(re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)[1])  # type: ignore[index]
    as_wide = f'role="img" aria-label="Figure: {escape(each.about.title)}" style="max-width: {WIDEN * width:.0f}px"'
    return Markup(re.sub(r'(<svg[^>]*?) height="[^"]*"', rf"\1 {as_wide}", svg, count=1))


def sweep_command(overrides: Sequence[str]) -> str:
    """The command line that runs a sweep."""
    return shlex.join(["rlkl", "-m", *overrides])


def link_arxiv(source: str) -> Markup:
    """A source whose arXiv identifiers are links."""
    return Markup(re.sub(r"arXiv (\d{4}\.\d{5})", r'arXiv <a href="https://arxiv.org/abs/\1">\1</a>', str(escape(source))))
