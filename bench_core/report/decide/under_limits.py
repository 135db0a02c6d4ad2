"""What a verdict says of latency limits under load: the most requests that were served within them."""

from __future__ import annotations

from collections.abc import Iterator

from bench_core.contract.serving.capacity import Capacity
from bench_core.contract.serving.protocol import Limits
from bench_core.contract.statistics.correlated import Estimate
from bench_core.report.explain.under_load import compared, first_of, kept_limits, limits_words
from bench_core.report.format import within
from bench_core.runs.view import RunView, ServedRow


def limit_sentences(view: RunView) -> Iterator[str]:
    """Of a search for the highest load where there was one, otherwise of the load points; nothing without limits."""
    searched = _searched(view)
    if searched:
        yield from searched
        return
    found = _most(view)
    if not found:
        return
    row, most, limits = max(found, key=lambda line: line[1].value)
    first = first_of([(row, most) for row, most, _ in found], highest=True)
    tied = f", statistically tied with {', '.join(r.label for r in first.tied)}" if first and first.tied else ""
    what = "serves most" if first else "serves"
    number = within(most.value, most.low, most.high)
    yield f"Within {limits_words(limits)}, {row.label} {what}: {number} requests/s at {row.load.words}{tied}."


def _most(view: RunView) -> list[tuple[ServedRow, Estimate, Limits]]:
    """Each method's best load point that kept its limits, and the requests/s within them there."""
    best: dict[tuple[str, str], tuple[ServedRow, Estimate, Limits]] = {}
    for row in compared(view.served):
        kept = row.result.metrics.kept if row.result else None
        if kept is None or not kept_limits(kept):
            continue
        method = (row.planned.image, row.planned.variant)
        if method not in best or kept.goodput.value > best[method][1].value:
            best[method] = (row, kept.goodput, kept.limits)
    return list(best.values())


def _searched(view: RunView) -> list[str]:
    """One sentence for each kind of load and limits that methods were searched with."""
    groups: dict[str, list[Capacity]] = {}
    for found in view.capacities:
        groups.setdefault(f"{found.varied} {found.limits.to_json()} {found.attainment}", []).append(found)
    return [_highest(view, group) for group in groups.values()]


def _highest(view: RunView, group: list[Capacity]) -> str:
    within_words = f"Within {limits_words(group[0].limits)}, for {group[0].attainment * 100:g} % of requests"
    ranked = {(row.planned.image, row.planned.variant): row.label for row in view.every if row.planned.ranked}
    known = [one for one in group if one.highest is not None and (one.image, one.variant) in ranked]
    if not known:
        return f"{within_words}, no method is known to keep any load that was tried."
    best = max(one.highest or 0.0 for one in known)
    leads = " and ".join(ranked[one.image, one.variant] for one in known if one.highest == best)
    load = f"{best:g} requests at once" if group[0].varied == "concurrency" else f"{best:g} requests/s"
    more = " or more" if any(one.at_limit for one in known if one.highest == best) else ""
    most = "keeps the highest load" if len(known) > 1 else "keeps"
    return f"{within_words}, {leads} {most}: {load}{more}."
