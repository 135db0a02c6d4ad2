"""Noise with known properties, for simulations: mean 0, standard deviation 1."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

Draw = Callable[[random.Random], float]


def normal(drawn: random.Random) -> float:
    return drawn.gauss(0.0, 1.0)


def exponential(drawn: random.Random) -> float:
    """Skewness 2: now and then a batch is much slower, none is much quicker."""
    return drawn.expovariate(1.0) - 1.0


def lognormal(drawn: random.Random) -> float:
    """Skewness 1.75."""
    return (drawn.lognormvariate(0.0, 0.5) - math.exp(0.125)) / math.sqrt((math.exp(0.25) - 1.0) * math.exp(0.25))


def autoregression(draw: Draw, correlation: float, drawn: random.Random) -> Iterator[float]:
    """A first-order autoregression without end, from its stationary state on."""
    fresh = math.sqrt(1.0 - correlation**2)
    state = draw(drawn)
    for _ in range(20):
        state = correlation * state + fresh * draw(drawn)
    while True:
        yield state
        state = correlation * state + fresh * draw(drawn)
