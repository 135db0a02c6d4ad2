"""The report as one HTML file: figures inline, nothing loaded from elsewhere, light and dark, wide and narrow."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jinja2
from markupsafe import Markup

from bench_core.report.document import Document
from bench_core.system.text import one_line

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("bench_core.report.write", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["one_line"] = one_line
# Between a number and what belongs to it: its unit, its interval.
_WITHIN_A_QUANTITY = re.compile(r"(?<=\d) (?=±|s\b|GiB|J/token)|(?<=±) (?=\d)")


def unbroken(text: str) -> str:
    """The same with spaces at which no line breaks inside quantities."""
    return _WITHIN_A_QUANTITY.sub("\N{NO-BREAK SPACE}", text)


_ENVIRONMENT.filters["unbroken"] = unbroken


def html(document: Document, drawings: Mapping[str, str]) -> str:
    """The whole page. ``drawings``: by the names of the document's figures, the texts of SVGs made by this suite.

    Everything else is escaped, whatever it holds.
    """
    alts = dict(figure for group in document.figures for figure in group.figures)
    inline = {name: _inline(alts[name], svg) for name, svg in drawings.items()}
    return _ENVIRONMENT.get_template("page.html.jinja").render(document=document, drawings=inline)


def _inline(alt: str, svg: str) -> Markup:
    """An SVG for the middle of a page: without a prologue, with a name for screen readers."""
    # vl-convert writes all text escaped, so only its own tags are markup in it.
    body = svg[svg.index("<svg") :]
    return Markup(body.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(alt), 1))  # noqa: S704
