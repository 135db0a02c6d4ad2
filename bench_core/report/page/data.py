"""What the page's own program works with: one JSON of a run, in the units of its names."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from bench_core.report.cell import Cell
from bench_core.report.decide.option import Option, Quantity, options_of, points_of
from bench_core.report.figures.colours import engine_colours, looks
from bench_core.report.format import GIB, within
from bench_core.report.page.fields import unbroken
from bench_core.report.page.repeat import repeat_command
from bench_core.runs.series import Series
from bench_core.runs.view import Ended, Row, RunView
from bench_core.system.text import one_line

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Part:
    """Cells that stand beside each other.

    Attributes:
        options: the cells.
        views: their runs, by the name that an option has for its run.
        verdicts: what is said first of each batch size and load point, by its word.
        words: the ranking's name, where a page has several.
    """

    options: tuple[Option, ...]
    views: Mapping[str, RunView]
    verdicts: Mapping[str, tuple[str, ...]]
    words: str = ""


def page_data(view: RunView, verdicts: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Engines, methods, points (batch sizes and load points), cells, and the device's measured peaks."""
    part = Part(options_of(view), {"": view}, verdicts)
    return {"schema_version": SCHEMA_VERSION, "run": view.record.run_id, **part_data(part)}


def several_data(title: str, parts: Iterable[Part]) -> dict[str, Any]:
    """The same of several rankings, of which the page shows one at a time."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": title,
        "parts": [{"part": part.words, **part_data(part)} for part in parts],
    }


def part_data(part: Part) -> dict[str, Any]:
    """What the page's program knows of one ranking."""
    options, views = part.options, part.views
    images = list(dict.fromkeys(option.image for option in options))
    engines = {name: _engine_of(views, name) for name in images}
    colours = engine_colours(engines.values())
    rows = {(name, row.planned.cell): row for name, view in views.items() for row in view.grid}
    every = {(name, row.planned.cell): row for name, view in views.items() for row in view.every}
    synthetic = any(view.record.model.synthetic for view in views.values())
    return {
        "on_gpu": any(view.on_cuda for view in views.values()),
        "engines": [{"image": name, "colour": colours[engine]} for name, engine in engines.items()],
        "methods": _methods(engines, options),
        "points": [
            {"word": word, "words": words, "verdict": [unbroken(one_line(said)) for said in part.verdicts[word]]}
            for word, words in points_of(options).items()
        ],
        "cells": [
            _cell(views[one.run], one, rows.get((one.run, one.cell)), every[one.run, one.cell]) for one in options
        ],
        "peaks": _peaks(views.values()),
        "commit": _commit(views.values()),
        "quality": not synthetic and any(option.perplexity for option in options),
    }


def _commit(views: Iterable[RunView]) -> str:
    """Of the repository that made them, where it is one and nothing else was in it."""
    commits = {view.record.git_commit or "" for view in views}
    (commit,) = commits if len(commits) == 1 else ("",)
    return "" if commit.endswith("+") else commit[:12]


def as_script(data: dict[str, Any]) -> str:
    """JSON that may stand inside a ``<script>`` element: nothing in it can end the element or begin a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _engine_of(views: Mapping[str, RunView], image: str) -> str:
    """The image of the repository that an image is, or is a version of, as the runs that have it tell."""
    return next((found for view in views.values() if (found := view.record.engine_of(image)) != image), image)


def _methods(engines: Mapping[str, str], options: Iterable[Option]) -> list[dict[str, Any]]:
    """Each method once, in the order of the plan, with the shape of its points. ``engines``: of each image."""
    of_methods: dict[str, Option] = {}
    for option in options:
        of_methods.setdefault(method_key(option), option)
    styles = looks({key: engines[option.image] for key, option in of_methods.items()})
    return [
        {
            "key": key, "label": option.method, "image": option.image, "shape": styles[key][1], "dash": styles[key][2],
            "bits": _short(option.bits), "scripted": option.scripted,
        }
        for key, option in of_methods.items()
    ]  # fmt: skip


def method_key(option: Option) -> str:
    """What a method is known by: labels of two may be equal, and several runs may have it."""
    method = f"{option.image}.{option.variant}"
    return f"{option.run}/{method}" if option.run else method


# The method tells the first three, the points the last.
_TOLD = [one.name for one in fields(Option) if one.name not in ("image", "variant", "method", "point_words")]


def _cell(view: RunView, option: Option, row: Row | None, any_row: Ended) -> dict[str, Any]:
    found: dict[str, Any] = {"method": method_key(option), "ranked": option.ranked}
    for name in _TOLD:
        found[name] = _plain(getattr(option, name))
    rate = option.throughput_tok_s
    if rate is not None:
        found["says"] = within(rate.value, rate.low, rate.high)
    if any_row.series:
        found["series"] = {one.name: _series(one) for one in any_row.series}
    found["command"] = repeat_command(view, any_row.planned)
    if row is not None and row.result is not None:
        found |= _placed(view, row)
    return {name: value for name, value in found.items() if value not in (None, "", [])}


# Shown as tables show them: times in ms, memory in GiB.
_FACTORS = {"ttft_s": 1e3, "tpot_s": 1e3, "memory_bytes": 1 / GIB}


def _series(series: Series) -> dict[str, Any]:
    factor = _FACTORS.get(series.name, 1.0)
    values = [None if value is None else float(f"{value * factor:.4g}") for value in series.values]
    return {"first_x": _short(series.first_x), "step_x": _short(series.step_x), "values": values}


def _placed(view: RunView, row: Row) -> dict[str, Any]:
    """A cell of closed batches under its device's peaks, and what its memory went into."""
    cell = Cell(view, row)
    found: dict[str, Any] = {}
    roof = cell.roofline
    if roof is not None and roof.step_bytes and roof.step_flop:
        found["roof"] = {
            "intensity_flop_byte": _short(roof.step_flop / roof.step_bytes),
            "flop_s": _short(roof.step_flop / roof.step_s),
            "mbu": _short(roof.mbu), "mfu": _short(roof.mfu), "bound": roof.bound or "",
            "dtype": roof.compute_dtype or "",
        }  # fmt: skip
    explained = cell.explained
    if explained is not None:
        parts = {
            "weights": explained.weights_bytes, "KV cache": explained.kv_cache_bytes,
            "activations": explained.activations_bytes, "CUDA graphs": explained.graphs_bytes,
            "context": explained.context_bytes, "unexplained": explained.unexplained_bytes,
        }  # fmt: skip
        found["memory_parts"] = {name: round(value) for name, value in parts.items() if value}
    return found


def _peaks(views: Iterable[RunView]) -> list[dict[str, Any]]:
    """Each device's measured peaks; of several measurements of one device the last."""
    found: dict[str, dict[str, Any]] = {}
    for peaks in (peaks for view in views for peaks in view.device_rates):
        rates = {dtype: peaks.matrix_flop_s(dtype) for dtype in ("float16", "bfloat16", "tf32", "float32")}
        device = peaks.gpu_uuid or f"{peaks.cpu}, {peaks.threads} threads"
        found[device] = {
            "device": device,
            "bandwidth_bytes_s": _short(peaks.bandwidth_bytes_s),
            "matrix_flop_s": {dtype: _short(rate) for dtype, rate in rates.items() if rate},
        }
    return list(found.values())


def _plain(value: Any) -> Any:
    if isinstance(value, Quantity):
        return [_short(value.value), _short(value.low), _short(value.high)]
    return _short(value) if isinstance(value, float) else list(value) if isinstance(value, tuple) else value


def _short(value: float | None) -> float | None:
    """Six digits: more than any table shows, and a page of 5,000 cells stays small."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
