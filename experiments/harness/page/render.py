"""The page's HTML, from what was gathered: every number on it is a file's."""

import html
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.harness.page.evidence import Saying, Shown

HERE = Path(__file__).parent
TITLE = "What KL regularization does, checked"
LEAD = (
    "Every claim below was checked on its own numbers as the page was built. Regularized optima are exact, and trained runs "
    "are measured against them. The objective is J(pi) = E_pi[r] - beta D(pi, pi_ref), logarithms are natural, values are in "
    "nats unless they say bits. KL(pi‖pi_ref) is “reverse” KL in papers on RLHF, KL(pi_ref‖pi) “forward”."
)
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""
MARKS = {True: '<td class="holds">yes</td>', False: '<td class="fails">NO</td>'}
WIDEN = 1.8  # pixels a point, at most
FILES = ("figure.pdf", "figure.png", "figure.csv", "claims.json", "manifest.json")
SCRIPTS = ("optima.js", "explorer.js", "tables.js")
text = html.escape


def page(shown: list[Shown], said: list[Saying], complaints: list[str]) -> str:
    """The whole of index.html."""
    links = [("sayings", "What people say of KL"), ("explorer", "Explorer"), *((each.name, each.about.title) for each in shown)]
    contents = _list(f'<a href="#{anchor}">{text(title)}</a>' for anchor, title in links)
    return (
        f"{HEAD}<title>{TITLE}</title>\n<style>\n{_asset('page.css')}</style></head>\n<body>\n"
        f'<nav aria-label="contents"><h2>Contents</h2>{contents}</nav>\n<main>\n'
        f"<header><h1>{TITLE}</h1><p>{LEAD}</p>{_verdict(shown, complaints)}</header>\n"
        f"{_sayings(said)}\n{_asset('explorer.html')}\n{''.join(map(_experiment, shown))}</main>\n"
        f"<script>\n{''.join(map(_asset, SCRIPTS))}</script>\n</body></html>\n"
    )


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _list(items: Iterable[str], of: str = "") -> str:
    return f'<ul class="{of}">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def _table(heads: Iterable[str], rows: Iterable[str], of: str = "") -> str:
    named = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<div class="wide"><table class="{of}"><thead><tr>{named}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _verdict(shown: list[Shown], complaints: list[str]) -> str:
    if complaints:
        listed = _list(map(text, complaints))
        return f'<div class="verdict fails"><p>This paper does not hold as it stands:</p>{listed}</div>'
    count = sum(len(each.claims) for each in shown)
    return f'<p class="verdict holds">All {count} claims of {len(shown)} experiments hold.</p>'


def _sayings(said: list[Saying]) -> str:
    table = _table(("saying", "verdict", "since", "shown by"), map(_saying, said), "sortable")
    return f'<section id="sayings"><h2>What people say of KL</h2>{table}</section>'


def _saying(each: Saying) -> str:
    shown = _list(map(text, each.complaints), "fails") if each.complaints else f"{len(each.claims)} claims, which hold"
    return (
        f'<td>{text(each.saying)}</td><td class="said-{each.verdict}">{each.verdict}</td><td>{text(each.because)}</td>'
        f'<td><a href="#{each.experiment}">{text(each.experiment)}</a><br>{shown}</td>'
    )


def _experiment(each: Shown) -> str:
    headline, title = each.about.headline, text(each.about.title)
    said = "".join(f"<p>{text(paragraph)}</p>" for paragraph in (headline[:1].upper() + headline[1:], *each.about.more))
    start = f'<section id="{each.name}"><h2>{title}</h2>\n{said}\n'
    if not each.manifest:
        return f'{start}<p class="fails">{text(each.complaints[0])}</p></section>\n'
    figure, numbers = _inline(each.figure, each.name, f"Figure: {title}"), each.numbers.replace("</", r"<\/")
    files = ", ".join(f'<a href="{each.name}/{file}">{file}</a>' for file in FILES)
    return (
        f'{start}<figure><a href="{each.name}/figure.svg" title="the figure by itself">{figure}</a></figure>\n'
        f"{_table(('claim', 'value', 'bound', 'holds'), map(_claim, each.claims))}\n"
        f'<details class="numbers" data-csv="{each.name}-csv"><summary>The numbers in the figure</summary></details>\n'
        f'<script type="text/csv" id="{each.name}-csv">\n{numbers}</script>\n'
        f"<details><summary>How it was made</summary>{_made(each)}</details>\n"
        f"{_sources(each.about.sources)}<p>Files: {files}</p></section>\n"
    )


def _inline(svg: str, name: str, label: str) -> str:
    """The figure as part of the page: its identifiers made its own, as wide as there is room, but not out of proportion."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg[svg.index("<svg") :])
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    width = float(re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)[1])  # type: ignore[index]
    as_wide = f'role="img" aria-label="{label}" style="max-width: {WIDEN * width:.0f}px"'
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', rf"\1 {as_wide}", svg, count=1)


def _claim(claim: dict[str, Any]) -> str:
    value = claim["value"]
    key, shown = ("", "-") if value is None else (repr(value), f"{value:.4g}")
    number = f'<td class="number" data-value="{key}">{shown}</td>'
    bound = f'<td class="bound">{text(claim["bound"])}</td>'
    return f"<td>{text(claim['claim'])}</td>{number}{bound}{MARKS[claim['verdict']]}"


def _made(each: Shown) -> str:
    manifest = each.manifest
    versions = ", ".join(f"{package} {version}" for package, version in manifest["versions"].items())
    runs = "\n".join(shlex.join(["rlkl", "-m", *overrides]) for overrides in manifest["configs"])
    trained = f"<p>It reads what these sweeps leave:</p><pre>{text(runs)}</pre>" if runs else "<p>Nothing is trained.</p>"
    revision = f"Revision {text(manifest['revision'])}; " if manifest["revision"] else ""
    return f"<pre>python -m experiments {each.name}</pre>{trained}<p>{revision}{text(versions)}.</p>"


def _sources(sources: list[str]) -> str:
    if not sources:
        return ""
    link = r'arXiv <a href="https://arxiv.org/abs/\1">\1</a>'
    return "<p>Sources</p>" + _list((re.sub(r"arXiv (\d{4}\.\d{5})", link, text(source)) for source in sources), "sources")
