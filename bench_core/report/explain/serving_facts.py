"""What the head of a report says of cells under load: what was sent, when, how, from where, and by which rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from bench_core.contract.serving.cell import ServePlan, ServerFacts
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.protocol import ServeProtocol
from bench_core.contract.statistics.clocks import ClientEvent
from bench_core.report.explain.under_load import limits_words
from bench_core.report.format import quantity
from bench_core.runs.view import RunView

_PROMPTS = {"ids": "as token ids", "text": "as text", "messages": "as messages of a chat"}
_NETWORKS = {
    "internal": "a network of the two containers alone",
    "shared": "a network namespace that server and client share",
    "loopback": "the host's loopback",
    "published": "a port that other hosts reach, on an address that was named for it",
}


def serving_facts(view: RunView) -> Iterator[tuple[str, str]]:
    """Name and text of each; nothing for a run without such cells."""
    if not view.served:
        return
    yield "Load points", _loads([row.load for row in view.served])
    plans = {row.load.word: row.spec.serve for row in view.served if row.spec and row.spec.serve}
    if plans:
        yield "Schedules", _schedules(plans)
        yield from _rules(view, list(plans.values()))
    servers = [row.spec.server for row in view.served if row.spec and row.spec.server]
    if servers:
        yield from _servers(servers)
    yield from _slots(view)
    broken = sum(bool(row.breaches) for row in view.served)
    found = f"{quantity(broken, 'cell')} not ranked for it" if broken else "nothing found"
    ids = "ids against the prompts kept with the run, " if view.workload else ""
    untold = [row for row in view.served if row.result and row.result.metrics.requests.by_events]
    tokens = f"output tokens (not of {quantity(len(untold), 'cell')} whose server does not tell them)" if untold else ""
    yield "Requests", f"every one checked: {ids}order, times of sending, {tokens or 'output tokens'}; {found}"


def _slots(view: RunView) -> Iterator[tuple[str, str]]:
    """How many requests each server works on at once, where that is settled when it starts."""
    found: dict[str, dict[int, list[str]]] = {}
    for row in view.served:
        if row.spec and row.spec.server and row.spec.server.slots:
            found.setdefault(row.spec.label, {}).setdefault(row.spec.server.slots, []).append(row.load.mark)
    if found:
        words = (f"{label} {_each(by_slots)}" for label, by_slots in found.items())
        yield "Slots", f"{'; '.join(words)}: requests at once; more of them wait in the server"


def _each(by_slots: Mapping[int, Iterable[str]]) -> str:
    """``16 (c16), 64 (r4, r16)``."""
    return ", ".join(f"{slots} ({', '.join(dict.fromkeys(loads))})" for slots, loads in by_slots.items())


def _loads(loads: Iterable[Serve]) -> str:
    """``concurrency 2, 8; 20, 60 requests/s (Poisson arrivals)``."""
    given = list(dict.fromkeys(loads))
    at_once = sorted(load.concurrency for load in given if load.concurrency is not None)
    parts = [f"concurrency {', '.join(map(str, at_once))} (closed loop)"] if at_once else []
    for arrivals, words in (("poisson", "Poisson arrivals"), ("constant", "constant gaps")):
        rates = sorted(
            load.request_rate for load in given if load.request_rate is not None and load.arrivals == arrivals
        )
        if rates:
            parts.append(f"{', '.join(f'{rate:g}' for rate in rates)} requests/s (open loop, {words})")
    parts += ["a recorded trace (open loop)"] if any(load.load == "trace" for load in given) else []
    return "; ".join(parts)


def _schedules(plans: dict[str, ServePlan]) -> str:
    seeds = dict.fromkeys(str(plan.protocol.arrival_seed) for plan in plans.values())
    digests = ", ".join(f"{word} {plan.schedule[:12]}" for word, plan in plans.items())
    return f"arrivals by seed {', '.join(seeds)}; digests: {digests}"


def _rules(view: RunView, plans: Sequence[ServePlan]) -> Iterator[tuple[str, str]]:
    protocols = list(dict.fromkeys(plan.protocol for plan in plans))
    yield "Window", "; or ".join(dict.fromkeys(_window(protocol) for protocol in protocols))
    limits = dict.fromkeys(limits_words(protocol.limits) for protocol in protocols if protocol.limits)
    if limits:
        yield "Latency limits", "; or ".join(limits)
    dealt = ", one schedule dealt out among them" if any(p.client_nodes for p in protocols) else ""
    counts = dict.fromkeys(_senders(protocol) for protocol in protocols)
    alone = list(counts) == ["1 process"]
    yield "Client", f"{' or '.join(counts)} that {'sends' if alone else 'send'} requests{dealt}"
    clients = [client for row in view.served for client in row.clients]
    if clients:
        yield "Client nodes", _clocks(clients)
    prefix = view.record.workload.shared_prefix_tokens
    if any(plan.prefix_cache for plan in plans):
        yield "Prefix cache", f"on; all prompts begin with the same {quantity(prefix, 'token')}"
    else:
        yield "Prefix cache", "off"


def _senders(protocol: ServeProtocol) -> str:
    each = quantity(protocol.client_processes, "process")
    if not protocol.client_nodes:
        return each
    return f"{each} on each of {quantity(protocol.client_nodes, 'other node')}"


def _clocks(clients: Sequence[ClientEvent]) -> str:
    """``node1, node2; clocks known to 24.1 µs, drift of up to 11.3 µs included; see Clocks of client nodes``."""
    names = ", ".join(sorted({client.node for client in clients}))
    worst_us = max(client.misplaced_s for client in clients) * 1e6
    drift_us = max(abs(client.drift_s) for client in clients) * 1e6
    return f"{names}; clocks known to {worst_us:.1f} µs, drift of up to {drift_us:.1f} µs included; see their table"


def _window(p: ServeProtocol) -> str:
    return (
        "from when time to first token, end-to-end latency and tokens/s show no trend "
        f"({p.max_ramp_seconds:g} s at most) until the intervals of output tokens/s and of TTFT p{p.ttft_percentile} "
        f"are within ± {p.serve_precision * 100:g} % and ± {p.ttft_precision * 100:g} % "
        f"({p.max_serve_seconds:g} s at most)"
    )


def _servers(servers: Sequence[ServerFacts]) -> Iterator[tuple[str, str]]:
    yield "Prompts sent", _all(f"{_PROMPTS[server.prompt]} to {server.path}" for server in servers)
    yield "Network", _all(_NETWORKS[server.network] for server in servers)
    yield "CPUs under load", _all(_cpus(server) for server in servers)


def _all(words: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(words))


def _cpus(server: ServerFacts) -> str:
    own, client = _ranges(server.cpus), _ranges(server.client_cpus)
    if not client:
        return f"server {own}, client not recorded"
    shared = set(server.cpus) & set(server.client_cpus)
    return f"server {own}, client {client}" + (" (shared: they may disturb each other)" if shared else "")


def _ranges(cpus: Sequence[int]) -> str:
    """``0-3, 8``."""
    parts: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
