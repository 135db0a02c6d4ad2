#!/usr/bin/env bash
# Linux: the peak memory that getrusage or wait4 tell of a program (`ru_maxrss`) is at least that of whoever started it.
# A child of 13 MB of a process that once held 600 MB has a peak of 613 MB.
#
# A new program begins in the memory of the process that starts it, and the kernel keeps the largest size of that
# memory for the child when it loads the program. So the child says it of itself (`RUSAGE_SELF`), the parent hears it
# (`RUSAGE_CHILDREN`, `os.wait4`), and it stays when the parent has freed its memory, with Python's subprocess and with
# multiprocessing's "spawn". `VmHWM` in /proc/self/status, taken for the same number, begins with the program.
#
# A harness that loads a reference model, and then starts engines one after the other to compare their memory, gets its
# own size for each that is smaller, alike to the megabyte. A table made from a small shell has other numbers. A process
# in between (GNU time, or a shell that does not hand itself over) begins small and tells the true size.
#
# Seen (Linux 6.18, Python 3.11; MB, of a Python that does nothing):
#                                             ru_maxrss   VmHWM
#   the parent is small                       13          13
#   the parent holds 600 MB                   613         13
#   the parent has freed them                 613         13
#   the same, multiprocessing's "spawn"       613         15
#   the same, with GNU time 1.9 in between    13
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q psutil==7.1.3
command -v /usr/bin/time > /dev/null || { apt-get update -qq && apt-get install -qq -y time > /dev/null; }
cat > peak.py <<'PY'
import multiprocessing
import os
import platform
import resource
import subprocess
import sys

import psutil

LARGE_MB = 600


def own_peaks_mb():
    """Of this process: as getrusage tells it, and as /proc does."""
    with open("/proc/self/status") as status:
        (high,) = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, high // 1024


def tell(queue):
    queue.put(own_peaks_mb())


def started():
    answer = subprocess.run([sys.executable, __file__, "child"], capture_output=True, text=True, check=True)
    return tuple(int(word) for word in answer.stdout.split())


def waited():
    process = subprocess.Popen([sys.executable, __file__, "child"], stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return usage.ru_maxrss // 1024


def spawned():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=tell, args=(queue,))
    process.start()
    peaks = queue.get(timeout=60)
    process.join()
    return peaks


def timed():
    command = ["/usr/bin/time", "-f", "%M", sys.executable, __file__, "child"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stderr) // 1024


def main():
    print("Linux", platform.release(), "Python", platform.python_version(), "psutil", psutil.__version__)
    found = {"the parent is small": (*started(), waited())}
    block = bytearray(b"x") * (LARGE_MB << 20)
    found["the parent holds 600 MB"] = (*started(), waited())
    del block
    held = psutil.Process().memory_info().rss >> 20
    found["the parent has freed them"] = (*started(), waited())
    for name, (told, high, parent) in found.items():
        print(f"{name:28} ru_maxrss {told:4} (as wait4 tells the parent {parent:4}), VmHWM {high:3}")
    pair, direct = spawned(), timed()
    print(f'{"spawn":28} ru_maxrss {pair[0]:4}, VmHWM {pair[1]:3}')
    print(f'{"GNU time in between":28} ru_maxrss {direct:4}; the parent itself holds {held} by now')
    small, large, freed = found.values()
    as_seen = max(small) < 60 and min(large[0], large[2], freed[0], freed[2], pair[0]) >= LARGE_MB
    as_seen = as_seen and max(large[1], freed[1], pair[1], direct, held) < 60
    sys.exit(0 if as_seen else 1)


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        print(*own_peaks_mb())
    else:
        main()
PY
venv/bin/python peak.py
