"""The report as one HTML file: nothing is loaded from elsewhere, light and dark, wide, narrow and on paper.

Figures are drawn in the browser by Vega-Lite, whose runtime (vega, vega-lite and vega-embed, 0.9 MB) comes out of the
pinned vl-convert-python, so that the page needs no network and no file beside it.
"""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bench_core.report.decide.cost import NO_PRICE, Prices
from bench_core.report.document import Document
from bench_core.report.format import quantity
from bench_core.report.page.badges import notes
from bench_core.report.page.data import as_script, page_data
from bench_core.report.page.fields import fields, unbroken
from bench_core.runs.view import RunView
from bench_core.system.files import write_file
from bench_core.system.text import foreign, one_line

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("bench_core.report.page", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["one_line"] = one_line
_ENVIRONMENT.filters["unbroken"] = unbroken
_PROGRAM = ("charts.js", "choose.js", "page.js")


def html(view: RunView, document: Document, prices: Prices = NO_PRICE, *, runtime: str | None = None) -> str:
    """The whole page of a run. Whatever comes from a run is escaped.

    Args:
        runtime: of the figures; by default :func:`vega_runtime`.
    """
    (verdicts,) = document.verdicts
    return page_of(document, _subject(view), page_data(view, verdicts), prices, runtime=runtime)


def page_of(
    document: Document, subject: str, data: dict[str, Any], prices: Prices = NO_PRICE, *, runtime: str | None = None
) -> str:
    """A page of a document, with what its program works with: the data of one run, or those of several rankings."""
    program = "\n".join(_resource(name) for name in _PROGRAM)
    return _ENVIRONMENT.get_template("page.html.jinja").render(
        document=document,
        subject=subject,
        verdict=document.verdict,
        sheets=(*document.glance, *document.results, *document.details),
        prices=prices,
        fields=fields,
        notes=notes,
        style=Markup(_resource("page.css")),  # noqa: S704  # the package's own
        program=Markup(f'"use strict";\n{program}'),  # noqa: S704  # the package's own
        data=Markup(as_script(data)),  # noqa: S704  # no bracket is left in it
        runtime=Markup(vega_runtime() if runtime is None else runtime),  # noqa: S704  # the pinned library's own
    )


def _subject(view: RunView) -> str:
    """What was measured on what, in one line; the whole of it stands under Environment."""
    record = view.record
    weights = " (random weights)" if record.model.synthetic else ""
    devices = list(dict.fromkeys(gpu.name for gpu in record.gpus)) if view.on_cuda else [record.host.cpu]
    exactly = "exactly" if record.length == "forced" else "at most"
    return " · ".join(
        (
            foreign(record.model.name) + weights,
            ", ".join(map(foreign, devices)),
            f"{quantity(record.workload.prompts, 'prompt')} of {foreign(record.workload.name)}",
            f"{exactly} {quantity(record.max_new_tokens, 'new token')}",
            record.created_utc[:10],
        )
    )


def _resource(name: str) -> str:
    return files("bench_core.report.page").joinpath(name).read_text(encoding="utf-8")


def vega_runtime() -> str:
    """The program that draws the figures, for the middle of a page.

    Bundling it takes two seconds, so it is kept in the user's cache under the library's version and its own digest; a
    cache that cannot be written, or does not agree with its digest, is done without.
    """
    import vl_convert  # noqa: PLC0415  # heavy, and only for this

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-bench"
    kept = cache / f"vega-{version('vl-convert-python')}.js"
    try:
        digest, _, text = kept.read_text(encoding="utf-8").partition("\n")
        if digest == hashlib.sha256(text.encode()).hexdigest():
            return text
    except (OSError, ValueError):
        pass
    # A closing tag inside the library's strings would end the element.
    # The stub wants an argument that the function does not need.
    text = str(vl_convert.javascript_bundle()).replace("</script", "<\\/script").replace("<!--", "<\\!--")  # type: ignore[call-arg]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_file(kept, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}".encode())
    except OSError:
        pass
    return text
