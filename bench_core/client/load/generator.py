"""A load generator: a process of its own, so that nothing but the load runs in it.

A supervisor starts it as a module, ``--job FD --control FD --results FD --process I --parent P``, with three
descriptors: the memory file of jobs, the reading end of the control pipe, the writing end of the results'
pipe (``client.load.wire`` has what goes through them). The generator opens its connections, says ``ready``, waits for
``start`` with the moment T0, and sends: in a closed loop, on each stream, the next request when the one before has
ended, in an open loop request k at T0 + offset k. Process i of N has the requests k with k mod N = i, and all have the
same T0, so N processes send one schedule. It ends when nothing is left to send or it was told to stop, and all that was
in flight has ended; at once where it is told to abort, where the control pipe ends, or where its parent ends.

``client.generators.Generators`` is that supervisor's side:

    with Generators(server, entry, asks=..., load=..., total=..., processes=2, cpus=(2, 3)) as generators:
        generators.start(t0_s)
        while not generators.done:
            events = generators.poll(0.1)            # requests that have ended
            if the window is over: generators.stop_issuing()
            if it takes too long: generators.abort()  # those in flight come as `unfinished`
        finished = generators.finish()               # the last requests, and what each process says of itself
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import os
import resource
from dataclasses import asdict

from bench_core.client.load.loop import Loop
from bench_core.client.load.outbox import Outbox
from bench_core.client.load.wire import END, READY, Facts, frame, read_job
from bench_core.system.processes import end_with_parent

_CONNECTED_WITHIN_S = 10.0


def main() -> None:
    """Does one job."""
    parser = argparse.ArgumentParser(description="A load generator; started by a supervisor.")
    for name in ("job", "control", "results", "process", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    end_with_parent(given.parent)
    # All pages are there before the clock runs.
    with mmap.mmap(given.job, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ) as content:
        job, blobs = read_job(memoryview(content), given.process)
        if job.cpus:
            os.sched_setaffinity(0, job.cpus)
        _allow_many_connections()
        os.set_blocking(given.control, False)
        outbox = Outbox(given.results)
        loop = Loop(job, blobs, given.control, outbox)
        connected = loop.connect(_CONNECTED_WITHIN_S)
        outbox.flush(frame(READY, str(connected).encode()))
        gc.collect()
        gc.freeze()
        gc.disable()
        facts = loop.run() if loop.wait_for_start() else Facts(0, 0, 0, 0, 0, job.cpus)
        outbox.flush(frame(END, json.dumps(asdict(facts)).encode()))
        # The map is not closed: requests' bytes still point into it.
        os._exit(0)


def _allow_many_connections() -> None:
    """As many descriptors as the system lets this process have; each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
