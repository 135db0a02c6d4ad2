#!/usr/bin/env bash
# CodeCarbon 3.3.2 without a power meter (CPU load): in process mode, work in short subprocesses costs nothing. In
# machine mode, a machine that is half busy is charged 21 % of the CPU's power, less than the process that keeps it half
# busy.
#
# Where neither RAPL nor another meter is readable, as in most containers and clouds, power is reckoned from CPU time.
# `tracking_mode="process"` is linear: all cores busy is the power given. It reads its children's CPU time once a
# second, takes the first reading of a child for its beginning, and forgets a child that has ended. What a child does
# before its first reading and after its last is lost, and a child of less than a second has no two readings.
#
# `tracking_mode="machine"`, the default, is 10 % of the power and the cube of the load for the rest. So 4 threads for
# one second on 8 cores cost a fifth of 8 threads for that second, and half the cores for twice the time is 2.3 times
# "greener". Energy per token then prefers whichever engine leaves cores idle, and one that starts compilers, converters
# or one process for each measurement is greener still. Energies of the two modes cannot be compared.
#
# Seen (2 CPUs, 100 W given; process mode, 4 s of CPU time, 200 J by its own rule):
#   4 s in the process itself          201 J
#   40 subprocesses of 0.1 s           1 to 5 J
#   machine mode, half of it busy      21.2 W, where 50 W are charged to a process that keeps half of it busy
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q codecarbon==3.3.2
cd "$work"
cat > energy.py <<'PY'
import importlib.metadata
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
from codecarbon import OfflineEmissionsTracker

WATTS, CPU_S, PIECES = 100, 4, 40
SPIN = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass"


class Estimates(logging.Handler):
    """Pairs of load in percent and watts, as the machine mode says them in its log."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.pairs = []

    def emit(self, record):
        rule = r"CPU load \S+ W and ([\d.]+)%.* estimation of ([\d.]+) W for whole machine"
        said = re.search(rule, record.getMessage())
        if said:
            self.pairs.append((float(said[1]), float(said[2])))


def joules(mode, do):
    tracker = OfflineEmissionsTracker(
        country_iso_code="USA", tracking_mode=mode, force_mode_cpu_load=True, force_cpu_power=WATTS,
        save_to_file=False, log_level="debug", allow_multiple_runs=True,
    )
    tracker.start()
    do()
    tracker.stop()
    return tracker.final_emissions_data.cpu_energy * 3.6e6


def inside():
    end = time.process_time() + CPU_S
    while time.process_time() < end:
        pass


def in_pieces():
    for _ in range(PIECES):
        subprocess.run([sys.executable, "-S", "-c", SPIN, str(CPU_S / PIECES)], check=True)


def half_busy():
    """Six seconds on a machine of which half is busy, whatever this one does: psutil reads another folder for /proc."""
    folder = Path("proc")
    folder.mkdir()
    for entry in Path("/proc").iterdir():
        if entry.name != "stat":
            (folder / entry.name).symlink_to(entry)

    def tick(hundredths):
        Path("next").write_text(f"cpu  {hundredths} 0 0 {hundredths} 0 0 0 0 0 0\n")
        Path("next").replace(folder / "stat")

    tick(1_000_000)
    psutil.PROCFS_PATH = str(folder)
    for step in range(1, 61):
        time.sleep(0.1)
        tick(1_000_000 + step * 10)


print("codecarbon", importlib.metadata.version("codecarbon"), "on", os.cpu_count(), "CPUs")
expected = WATTS * CPU_S / os.cpu_count()
itself, pieces = joules("process", inside), joules("process", in_pieces)
print(f"process mode, {CPU_S} s of CPU time, {expected:.0f} J by its own rule: in the process {itself:.1f} J, "
      f"in {PIECES} subprocesses {pieces:.1f} J")
estimates = Estimates()
logging.getLogger("codecarbon").addHandler(estimates)
joules("machine", half_busy)
for load, watts in estimates.pairs:
    by_process = WATTS * load / 100
    print(f"machine mode, load {load:.1f} %: {watts:.1f} W, and {by_process:.1f} W by the rule of process mode")
half = [watts for load, watts in estimates.pairs if 49 < load < 51]
cheap = len(half) > 2 and all(20 < watts < 23 for watts in half)
sys.exit(0 if itself > 0.7 * expected and pieces < 0.1 * expected and cheap else 1)
PY
"$work/venv/bin/python" energy.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
