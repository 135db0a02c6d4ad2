"""What an engine has started ends with it, wherever it hides; shown in a process of its own, which a reaper changes."""

from __future__ import annotations

import subprocess
import sys

SCENE = """
import os, subprocess, sys, time
from bench_core.worker.supervise.reaper import Reaper
from bench_core.worker.sample.sampler import descendants

CHILD = '''
import os, signal, time
for detached in (False, True, True):
    if os.fork() == 0:
        if detached:
            os.setsid()
            if os.fork():
                os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
os.write(1, b"forked")
time.sleep({life})
'''
reading, writing = os.pipe()
engine = subprocess.Popen([sys.executable, "-c", CHILD], stdout=writing, start_new_session=True)
reaper = Reaper(engine.pid)
os.close(writing)
assert os.read(reading, 6) == b"forked"
time.sleep(0.2)
assert len(descendants(engine.pid)) >= 2, "reaped while the engine was still at work"
started = time.monotonic()
assert os.read(reading, 1) == b"", "a helper holds the pipe"
assert engine.wait(10) == 0, "the exit code belongs to whoever waits for it"
reaper.join()
left = [pid for pid in descendants(os.getpid()) if pid != os.getpid()]
assert left == [], left
print(f"{{time.monotonic() - started:.1f}}")
"""


def test_helpers_end_with_their_engine_and_not_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCENE.format(life=0.8)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 5.0
