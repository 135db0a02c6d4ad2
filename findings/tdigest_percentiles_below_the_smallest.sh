#!/usr/bin/env bash
# tdigest 0.5.2.2: a few slow requests push the low percentiles below zero, though no value is below 0.1.
#
# A digest keeps means of groups of neighbouring values, each at the middle of its ranks, and draws lines from one to
# the next. Here the first line is also drawn on to the left, over the lower half of the first group. Equal values are
# one group, however many they are. With nine times of 0.1 s and one of 2 s the line from 0.1 s up to 2 s goes down as
# steeply before it, so p1, p5 and p10 are latencies of less than nothing. In ten different values the first group is
# one value, and p1 is off by little; that is how one tests.
#
# More requests do not mend it: with 990 of 0.1 s and ten of 2 s, p10 is as negative, and p90, on the same line, is 16
# times what 99 of a hundred requests took. It takes a quantity with ties: token counts, times in whole milliseconds, a
# time-out. A digest of the same name (fastdigest 0.12.0) stays within the values. Nothing warns, and percentiles that
# are wrong without being negative are not seen.
#
# Seen (s; all percentiles of these values are 0.1 or, from p91 and p99.1 on, 2.0):
#                          p1      p5      p10     p50    p90    p99
#   9 of 0.1, one of 2   -1.57   -1.42   -1.23    0.29   1.81   2.00
#   990 of 0.1, 10 of 2  -1.74   -1.59   -1.40    0.12   1.64   1.98
#   fastdigest           never below 0.1
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tdigest==0.5.2.2 fastdigest==0.12.0
cd "$work"
cat > below.py <<'PY'
import importlib.metadata
import random
import sys

import fastdigest
import tdigest

QUICK, SLOW, SHARES = 0.1, 2.0, (1, 5, 10, 50, 90, 99)


def percentiles(digest, values):
    digest.batch_update(values)
    return [digest.percentile(share) for share in SHARES]


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("tdigest", "fastdigest")))
found = {}
for quick, slow in ((9, 1), (990, 10)):
    values = [QUICK] * quick + [SLOW] * slow
    random.Random(1).shuffle(values)
    for module in (tdigest, fastdigest):
        found[module, quick] = percentiles(module.TDigest(), values)
        words = "  ".join(f"p{share} {value:.2f}" for share, value in zip(SHARES, found[module, quick]))
        print(f"{module.__name__:10} {quick:3} of {QUICK} s and {slow:2} of {SLOW} s: {words}")
negative = all(value < -1 for quick in (9, 990) for value in found[tdigest, quick][:3])
wide = found[tdigest, 9][3] > 2 * QUICK and found[tdigest, 990][4] > 10 * QUICK
within = all(QUICK <= value <= SLOW for quick in (9, 990) for value in found[fastdigest, quick])
sys.exit(0 if negative and wide and within else 1)
PY
"$work/venv/bin/python" below.py
