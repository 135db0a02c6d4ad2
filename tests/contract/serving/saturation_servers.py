"""Servers whose capacity is known, and how often a load is told to be too much for them.

``python tests/contract/serving/saturation_servers.py`` prints a table, by the rule of logs of before and as it is now,
of the same requests (minutes).
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from serving_queues import START_S, Served, exponential, fixed, in_one_batch, open_loop, run, seeded, uniform

from bench_core.contract.serving.load import Arrivals, Serve
from bench_core.contract.serving.protocol import DRAIN_S, ServeFields
from bench_core.contract.serving.window import Course

Server = Callable[[random.Random, float, float], Iterator[Served]]

# By what is done with a request: requests/s that it takes, and the server. A request alone takes 1 s in the mean.
SERVERS: dict[str, tuple[float, Server]] = {
    "1 slot, equal requests": (1.0, lambda drawn, rho, until_s: open_loop(drawn, 1, rho, until_s, service=fixed)),
    "8 slots, equal requests": (8.0, lambda drawn, rho, until_s: open_loop(drawn, 8, rho, until_s, service=fixed)),
    "8 slots, exponential requests": (8.0, lambda drawn, rho, until_s: open_loop(drawn, 8, rho, until_s)),
    "64 slots, uniform requests": (
        64.0, lambda drawn, rho, until_s: open_loop(drawn, 64, rho, until_s, service=uniform),
    ),
    "a batch, 8/s": (8.0, lambda drawn, rho, until_s: in_one_batch(drawn, 8, rho, until_s)),
    "a batch, 64/s": (64.0, lambda drawn, rho, until_s: in_one_batch(drawn, 64, rho, until_s)),
    "a batch, 64/s, exponential requests": (
        64.0, lambda drawn, rho, until_s: in_one_batch(drawn, 64, rho, until_s, service=exponential),
    ),
    "a batch of 64 at most, 32/s": (32.0, lambda drawn, rho, until_s: in_one_batch(drawn, 64, rho, until_s, most=64)),
}  # fmt: skip


def is_told(
    served: Iterator[Served],
    rate: float,
    ramp_s: float,
    window_s: float,
    *,
    arrivals: Arrivals = "poisson",
    follows: bool = True,
) -> bool:
    """Whether a cell of such requests ends as saturated."""
    load = Serve(load="rate", request_rate=rate, arrivals=arrivals)
    options = ServeFields(max_ramp_seconds=ramp_s, max_serve_seconds=window_s, serve_precision=1e-6)
    window = run(Course(load, options, START_S, follows=follows), served, tokens=1, drained=True).window
    assert window is not None
    return window.saturated


def times_told(
    name: str, rho: float, ramp_s: float, window_s: float, trials: int, *, follows: bool = True, seed: int = 11
) -> int:
    """Of so many loads of Poisson arrivals, ``rho`` times what the server takes."""
    taken, server = SERVERS[name]
    drawn = seeded(seed)
    until_s = ramp_s + window_s + DRAIN_S + 1.0
    return sum(
        is_told(server(drawn, rho, until_s), taken * rho, ramp_s, window_s, follows=follows) for _ in range(trials)
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.8, 0.95, 1.05, 1.3, 3.0])
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[5.0, 10.0, 30.0], help="ramp and window, in service times"
    )
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    parser.add_argument("--seed", type=int, default=11, help="of arrivals and services (the tests' own: %(default)s)")
    asked = parser.parse_args()
    print("| server | ramp and window |", " | ".join(f"{rho:.0%}" for rho in asked.loads), "|")  # noqa: T201
    print("|---|---:|", "---:|" * len(asked.loads), sep="")  # noqa: T201
    for name in asked.servers:
        for seconds in asked.seconds:
            cells = []
            for rho in asked.loads:
                times = (name, rho, seconds / 3, seconds * 2 / 3, asked.trials)
                before, now = (
                    times_told(*times, follows=follows, seed=asked.seed) / asked.trials for follows in (False, True)
                )
                cells.append(f"{before:.1%} → {now:.1%}")
            print(f"| {name} | {seconds:g} |", " | ".join(cells), "|", flush=True)  # noqa: T201


if __name__ == "__main__":
    _main()
