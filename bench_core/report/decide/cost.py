"""What output tokens cost, by the price of the machine's time and of its energy.

Prices are asked for with each report and kept with no run: they are not measured, and change while numbers do not. A
report says by which prices it was made, so that it can be checked.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bench_core.contract.errors import BadInput
from bench_core.report.decide.option import Quantity

MILLION = 1e6
_WORD = re.compile(r"[A-Za-z]{1,12}")
_TOLD = re.compile(
    r"^Prices: (?:(?P<gpu>[0-9.e+-]+)(?: (?P<gpu_in>[A-Za-z]{1,12}))? for an hour of the device)?(?:, )?"
    r"(?:(?P<kwh>[0-9.e+-]+)(?: (?P<kwh_in>[A-Za-z]{1,12}))? for a kWh)?\. ",
    re.MULTILINE,
)
_SECONDS_PER_HOUR = 3600.0
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Prices:
    """Prices in a currency that whoever asks knows.

    Attributes:
        gpu_hour: of an hour of the device that a cell is measured on; ``None``: not asked for.
        kwh: of a kilowatt-hour of what the device draws; ``None``: not asked for.
        currency: a word for headings, as EUR; empty for none.
    """

    gpu_hour: float | None = None
    kwh: float | None = None
    currency: str = ""

    def __bool__(self) -> bool:
        return self.gpu_hour is not None or self.kwh is not None

    @property
    def words(self) -> str:
        """The prices in one line: ``2.5 EUR for an hour of the device, 0.3 EUR for a kWh``."""
        currency = f" {self.currency}" if self.currency else ""
        given = ((self.gpu_hour, "an hour of the device"), (self.kwh, "a kWh"))
        told = ((repr(price).removesuffix(".0"), what) for price, what in given if price is not None)
        return ", ".join(f"{price}{currency} for {what}" for price, what in told)


NO_PRICE = Prices()


def prices_told(report: str) -> Prices:
    """The prices that a report's Markdown says it was made by; none where it says none."""
    match = _TOLD.search(report)
    if match is None:
        return NO_PRICE
    try:
        gpu_hour, kwh = (float(match[name]) if match[name] else None for name in ("gpu", "kwh"))
    except ValueError:
        return NO_PRICE
    return Prices(gpu_hour, kwh, match["gpu_in"] or match["kwh_in"] or "")


def prices(gpu_hour: float | None, kwh: float | None, currency: str) -> Prices:
    """Of a command line.

    Raises:
        BadInput: a price that is none, a currency that is no word or has no price.
    """
    for option, price in (("--gpu-hour-price", gpu_hour), ("--kwh-price", kwh)):
        if price is not None and not (math.isfinite(price) and price >= 0):
            raise BadInput(f"{option} {price:g}: not a price", "a number from 0 on")
    if currency and gpu_hour is None and kwh is None:
        raise BadInput("--currency goes with a price", "give --gpu-hour-price or --kwh-price")
    if currency and not _WORD.fullmatch(currency):
        raise BadInput(f"--currency {currency}: not a word", "up to 12 letters, for example EUR")
    return Prices(gpu_hour, kwh, currency)


def cost_per_million(prices: Prices, throughput_tok_s: Quantity | None) -> Quantity | None:
    """Cost of a million output tokens by the time that they take: price / 3600 / throughput x 10^6.

    The interval is the throughput's with its ends turned round; there is none where the lower end is not above 0.
    ``None`` without a price or a throughput.
    """
    if prices.gpu_hour is None or throughput_tok_s is None or throughput_tok_s.value <= 0:
        return None
    per_second = prices.gpu_hour / _SECONDS_PER_HOUR * MILLION
    low, high = throughput_tok_s.low, throughput_tok_s.high
    if low is None or high is None or low <= 0:
        return Quantity(per_second / throughput_tok_s.value)
    return Quantity(per_second / throughput_tok_s.value, per_second / high, per_second / low)


def energy_cost_per_million(prices: Prices, joules_per_token: float | None) -> float | None:
    """Cost of the energy that the device draws for a million output tokens: joules per token x 10^6 / 3.6e6 x price.

    ``None`` without a price, and where no counter could be read.
    """
    if prices.kwh is None or joules_per_token is None:
        return None
    return joules_per_token * MILLION / _JOULES_PER_KWH * prices.kwh
