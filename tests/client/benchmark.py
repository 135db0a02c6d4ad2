"""How exact the client is and what it costs: ``PYTHONPATH=. python tests/client/benchmark.py``, on the scripted server.

Server and load generator are bound to one CPU each; this process, which reads the responses, is not. Each scene is
measured ``--rounds`` times; the round in which others used the least of the machine is shown, with what they used: on a
shared machine that is what most of the errors are. ``--peers FOLDER`` measures other load generators beside it, in the
same scenes on the same server (``peers.py``); all of a client's processes are on one CPU then.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from null_server import ENTRY, NullServer, asks_of, null_server
from scipy.stats import kstest

from bench_core.client.generators import Generators
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.requests import RequestEvent
from bench_core.system.processes import stat_fields

# The moment at which the server hands the first token to the kernel, in a field that the reader passes on: what lies
# between it and the client's stamp is the client's own error, whatever kept the server from its script.
TELLING = ENTRY.model_copy(update={"usage_cached": "usage.first_token_us"})
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Scene:
    """One load: ``streams`` at once, or ``rate`` requests per second."""

    name: str
    requests: int
    tokens: int
    tpot_s: float
    streams: int = 0
    rate: float = 0.0
    ttft_s: float = 0.02

    @property
    def ideal_tokens_per_s(self) -> float:
        """Of a closed loop, if nothing took time but the script."""
        return self.streams * self.tokens / (self.ttft_s + (self.tokens - 1) * self.tpot_s)


SCENES = (
    Scene("1 stream, 5 ms a token", 10, 200, 0.005, streams=1),
    Scene("64 streams, 5 ms a token", 320, 200, 0.005, streams=64),
    Scene("512 streams, 20 ms a token", 1024, 200, 0.02, streams=512),
    Scene("Poisson, 200 requests/s", 2000, 10, 0.005, rate=200.0),
)


@dataclass(frozen=True)
class Timed:
    """One request as a client says it was: seconds; ``late_s`` and ``sent_s`` where it tells them."""

    sent_s: float
    ttft_s: float
    tpot_s: float
    ended_s: float
    tokens: int
    late_s: float | None = None
    lag_s: float | None = None


@dataclass(frozen=True)
class Measured:
    """One round of one scene."""

    client: str
    scene: str
    failed: int
    ttft_error_ms: float
    ttft_error_p99_ms: float
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    tpot_error_percent: float
    share_of_ideal: float | None
    cpu_us_per_token: float
    reading_us_per_token: float | None
    late_p50_ms: float | None
    late_p99_ms: float | None
    ks_statistic: float | None
    ks_p: float | None
    longest_turn_ms: float | None
    others_cpus: float


def quantile(values: Sequence[float], share: float) -> float:
    """Of a sample, without interpolation."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def offsets_us(scene: Scene) -> list[int]:
    """Arrival times of a Poisson process."""
    draw, at = random.Random(1), 0.0  # noqa: S311  # arrivals, no secrets
    found = []
    for _ in range(scene.requests):
        at += draw.expovariate(scene.rate)
        found.append(round(at * 1e6))
    return found


def machine_cpu_s() -> float:
    """CPU time that the whole machine has used, idle time left out."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
    return sum(int(value) for place, value in enumerate(fields) if place not in (3, 4)) * TICK_S


def own_cpu_s(server: NullServer) -> float:
    """CPU time of this process, of its children that have ended, and of the server."""
    fields = stat_fields(server.process.pid)
    mine = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return mine + (int(fields[11]) + int(fields[12])) * TICK_S


def judged(
    client: str, scene: Scene, requests: list[Timed], *, failed: int, began_s: float, cpu_s: float,
    reading_s: float | None, longest_turn_s: float | None, others_cpus: float,
) -> Measured:  # fmt: skip
    """What a round says."""
    tokens = sum(one.tokens for one in requests)
    errors = [one.ttft_s - scene.ttft_s for one in requests]
    late = [one.late_s for one in requests if one.late_s is not None]
    lag = [one.lag_s for one in requests if one.lag_s is not None]
    sent = sorted(one.sent_s for one in requests)
    gaps = [after - before for before, after in itertools.pairwise(sent)]
    ks = kstest(gaps, "expon", args=(0, 1 / scene.rate)) if scene.rate else None
    rate = tokens / (max(one.ended_s for one in requests) - began_s)
    return Measured(
        client=client,
        scene=scene.name,
        failed=failed,
        ttft_error_ms=statistics.median(errors) * 1e3,
        ttft_error_p99_ms=quantile(errors, 0.99) * 1e3,
        lag_p50_ms=statistics.median(lag) * 1e3 if lag else None,
        lag_p99_ms=quantile(lag, 0.99) * 1e3 if lag else None,
        tpot_error_percent=(statistics.median(one.tpot_s for one in requests) / scene.tpot_s - 1) * 100,
        share_of_ideal=rate / scene.ideal_tokens_per_s if scene.streams else None,
        cpu_us_per_token=cpu_s / tokens * 1e6,
        reading_us_per_token=None if reading_s is None else reading_s / tokens * 1e6,
        late_p50_ms=statistics.median(late) * 1e3 if late and scene.rate else None,
        late_p99_ms=quantile(late, 0.99) * 1e3 if late and scene.rate else None,
        ks_statistic=float(ks.statistic) if ks else None,
        ks_p=float(ks.pvalue) if ks else None,
        longest_turn_ms=None if longest_turn_s is None else longest_turn_s * 1e3,
        others_cpus=others_cpus,
    )


def of_event(event: RequestEvent) -> Timed:
    """A record as times."""
    sent, first, last = event.sent_s or 0.0, event.first_token_s or 0.0, event.last_token_s or 0.0
    return Timed(
        sent_s=sent,
        ttft_s=first - sent,
        tpot_s=(last - first) / max(event.output_tokens - 1, 1),
        ended_s=event.ended_s,
        tokens=event.output_tokens,
        late_s=sent - event.scheduled_s,
        lag_s=first - (event.cached_tokens or 0) / 1e6,  # the server's own stamp, see TELLING
    )


def own_round(scene: Scene, server: NullServer, cpu: int) -> Measured:
    """One round of this client."""
    closed = bool(scene.streams)
    load = (
        Serve(load="concurrency", concurrency=scene.streams)
        if closed
        else Serve(load="rate", request_rate=scene.rate)
    )  # fmt: skip
    asks = asks_of(server, 16, scene.tokens, prompt_tokens=200)
    with Generators(
        server.address, TELLING, asks=asks, load=load, total=scene.requests, connections=64, cpus=[cpu],
        offsets_us=() if closed else offsets_us(scene),
    ) as generators:  # fmt: skip
        machine, own, begin, reading = machine_cpu_s(), own_cpu_s(server), time.monotonic(), time.process_time()
        t0_s = generators.start()
        events: list[RequestEvent] = []
        while not generators.done:
            events += generators.poll(0.5)
        reading_s = time.process_time() - reading
        finished = generators.finish()
    others = machine_cpu_s() - machine - (own_cpu_s(server) - own)
    events += finished.requests
    good = [of_event(event) for event in events if event.ok]
    (fact,) = finished.generators
    return judged(
        "this client", scene, good, failed=len(events) - len(good), began_s=t0_s, cpu_s=fact.cpu_s,
        reading_s=reading_s, longest_turn_s=fact.longest_turn_s,
        others_cpus=max(others, 0.0) / (time.monotonic() - begin),
    )  # fmt: skip


def best_of(rounds: int, scene: Scene, measure: Callable[[NullServer], Measured], server_cpu: int) -> Measured:
    """The round in which others used the least."""
    found = []
    for _ in range(rounds):
        with null_server("--ttft-s", str(scene.ttft_s), "--tpot-s", str(scene.tpot_s), "--tell-times") as server:
            os.sched_setaffinity(server.process.pid, [server_cpu])
            found.append(measure(server))
            sys.stderr.write(f"{json.dumps(asdict(found[-1]))}\n")
    return min(found, key=lambda one: one.others_cpus)


COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("client", "client", ""), ("scene", "scene", ""), ("failed", "failed", "d"),
    ("TTFT error ms", "ttft_error_ms", ".3f"), ("its p99", "ttft_error_p99_ms", ".2f"),
    ("client's lag p50 ms", "lag_p50_ms", ".3f"), ("p99", "lag_p99_ms", ".2f"),
    ("TPOT error %", "tpot_error_percent", "+.3f"), ("of ideal rate", "share_of_ideal", ".4f"),
    ("CPU us/token", "cpu_us_per_token", ".1f"), ("reading us/token", "reading_us_per_token", ".1f"),
    ("late p50 ms", "late_p50_ms", ".3f"), ("late p99 ms", "late_p99_ms", ".3f"), ("KS", "ks_statistic", ".4f"),
    ("KS p", "ks_p", ".3f"), ("longest turn ms", "longest_turn_ms", ".2f"), ("others' CPUs", "others_cpus", ".2f"),
)  # fmt: skip


def table(rows: list[Measured]) -> str:
    """Markdown."""
    lines = [[title for title, _, _ in COLUMNS], ["---"] * len(COLUMNS)]
    for row in rows:
        values = [(getattr(row, name), form) for _, name, form in COLUMNS]
        lines.append(["" if value is None else format(value, form) for value, form in values])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="How exact the client is and what it costs.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenes", default="", help="only scenes whose name has this in it")
    parser.add_argument("--server-cpu", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--client-cpu", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--peers", type=Path, help="folder for the virtual environments of other load generators")
    given = parser.parse_args()
    rows = []
    if given.peers:  # their processes share one CPU, and so do this client's
        os.sched_setaffinity(0, [given.client_cpu])
    for scene in SCENES:
        if given.scenes not in scene.name:
            continue

        def own(server: NullServer, scene: Scene = scene) -> Measured:
            return own_round(scene, server, given.client_cpu)

        rows.append(best_of(given.rounds, scene, own, given.server_cpu))
        if given.peers:
            from peers import peers_in

            for measure in peers_in(given.peers, scene, given.client_cpu):
                try:
                    rows.append(best_of(1, scene, measure, given.server_cpu))
                except RuntimeError as error:
                    sys.stderr.write(f"{error}\n")
    words = f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs"
    sys.stdout.write(
        f"{words}; server on CPU {given.server_cpu}, client on CPU {given.client_cpu}; medians\n\n{table(rows)}\n"
    )


if __name__ == "__main__":
    main()
