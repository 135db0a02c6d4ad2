#!/usr/bin/env bash
# HdrHistogram for Python (package hdrhistogram 0.10.8): the correction for late requests adds one short time too many.
#
# A client that waits for each answer sends late while a server stands still, so the times of requests that it should
# have sent meanwhile are missing. `record_corrected_value(value, expected_interval)` is there to add them: value less
# one interval, less two, and so on. HdrHistogram ends this at the interval itself, in C and in Java. The release for
# Python takes one step more and adds what is left over, a time below the interval.
#
# Where each answer takes a little longer than the interval, that is one added time for each measured one, and all the
# added ones are short. The median of a server that always takes 101 ms becomes 1 ms and the mean half of what it was.
# The correction is there so that latencies do not look better than they are, and here it makes them look better: a limit
# of 50 ms that no answer kept is reported as kept by half of them. Values that are whole multiples of the interval are
# recorded as in C, so a test with round numbers shows nothing.
#
# Seen (1000 answers, one of them expected each 100 ms; values in ms):
#   each took 101   not corrected 1000 values, p50 101, mean 101.0   corrected 2000 values, p50 1, mean 51.0
#   each took 100   not corrected 1000 values, p50 100, mean 100.0   corrected 1000 values, p50 100, mean 100.0
#   one of 1050     corrected: 1050 950 850 750 650 550 450 350 250 150 50, where C and Java end with 150
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q hdrhistogram==0.10.8
cd "$work"
cat > corrected.py <<'PY'
import importlib.metadata
import sys

from hdrh.histogram import HdrHistogram

INTERVAL = 100  # ms


def recorded(values, interval):
    histogram = HdrHistogram(1, 3_600_000, 3)  # to an hour, exact below 2048
    for value in values:
        histogram.record_corrected_value(value, interval)
    return histogram


def summary(histogram):
    return histogram.get_total_count(), histogram.get_value_at_percentile(50), histogram.get_mean_value()


print("hdrhistogram", importlib.metadata.version("hdrhistogram"))
found = {}
for took in (101, 100):
    found[took] = [summary(recorded([took] * 1000, interval)) for interval in (0, INTERVAL)]
    for name, (count, median, mean) in zip(("not corrected", "corrected"), found[took]):
        print(f"each took {took}, {name}: {count} values, p50 {median}, mean {mean:.1f}")
single = [step.value_iterated_to for step in recorded([1050], INTERVAL).get_recorded_iterator()]
print("one of 1050, corrected:", *reversed(single))
defined = list(range(150, 1051, INTERVAL))  # from the value down to the interval
expected = {101: [(1000, 101, 101.0), (2000, 1, 51.0)], 100: [(1000, 100, 100.0)] * 2}
sys.exit(0 if found == expected and single == [50, *defined] else 1)
PY
"$work/venv/bin/python" corrected.py
