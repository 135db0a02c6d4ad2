"""Nodes that a load comes from: an actor on each, which runs the load generators' host and takes it along when it ends.

The launch's own process on the server's node makes the actors. Ray ends them with it, however that ends, and the kernel
ends their processes with them, so that a launch leaves no client behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench_core.contract.errors import MachineFailure, first_line, shortened
from bench_core.contract.serving.sidecar import CLIENT_SECRET
from bench_core.drive.cluster.records import ClientPlace
from bench_core.drive.launch.published import Published
from bench_core.drive.plan.catalogue import REPOSITORY
from bench_core.report.format import quantity

_LOOK_S = 0.5
_ENDS_WITHIN_S = 5.0
_LONGEST_WORDS = 300
_PASSED_ON = ("LD_LIBRARY_PATH", "LANG", "TZ")


def client_variables(secret: str) -> dict[str, str]:
    """What a host of load generators sees of an environment: nothing of the user's."""
    found = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return found | {"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY), CLIENT_SECRET: secret}


class ClientHost:
    """Of one launch, on one node."""

    def ready(self) -> bool:
        """It runs, with the CPUs that it needs."""
        os.setpriority(os.PRIO_PROCESS, 0, min(os.getpriority(os.PRIO_PROCESS, 0), 0))
        return True

    def serve(self, client: str, name: str, secret: str) -> str:
        """Until the launch's client has ended; what went wrong, in one line, or nothing."""
        words = ["--client", client, "--name", name, "--parent", str(os.getpid())]
        done = subprocess.run(
            [sys.executable, "-m", "bench_core.client.nodes.host", *words], cwd=REPOSITORY, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=client_variables(secret),
        )  # fmt: skip
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        if done.returncode == 0:
            return ""
        return shortened(lines[-1], _LONGEST_WORDS) if lines else f"exit code {done.returncode}"


class Clients:
    """The actors of one launch. For a process of Ray's.

    Args:
        places: nodes that may be taken, in this order.
        count: so many are.
        wait_s: how long a node may have something else to do.
        stopped: whether the launch is not to begin any more.

    Raises:
        MachineFailure: too many have gone, or have not become free.
    """

    def __init__(self, places: Sequence[ClientPlace], count: int, wait_s: float, stopped: Callable[[], bool]) -> None:
        import ray  # noqa: PLC0415  # there is one where this runs

        self._ray: Any = ray
        self._left = list(places)
        self._count = count
        self._serving: dict[str, Any] = {}
        self._actors: dict[str, Any] = {}
        try:
            self._await(wait_s, stopped)
        except BaseException:
            self.close()
            raise

    def _await(self, wait_s: float, stopped: Callable[[], bool]) -> None:
        """Until so many nodes are ready as are needed, others in place of those that cannot be used."""
        waiting: dict[Any, str] = {}
        gone: dict[str, str] = {}
        deadline = time.monotonic() + wait_s
        while not stopped():
            while len(self._actors) < self._count and self._left:
                place = self._left.pop(0)
                self._actors[place.name] = self._begun(place)
                waiting[self._actors[place.name].ready.remote()] = place.name
            if len(self._actors) < self._count:
                why = "; ".join(f"{name}: {cause}" for name, cause in gone.items()) or "no other has been named"
                raise MachineFailure(
                    f"a load from {quantity(self._count, 'other node')}, and {len(self._actors)} can be used ({why})",
                    "--resume the run when there are enough",
                )
            if not waiting:
                return
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=_LOOK_S)
            for reference in ready:
                name = waiting.pop(reference)
                try:
                    self._ray.get(reference)
                except Exception as error:  # noqa: BLE001  # Ray's exceptions have no common base
                    gone[name] = first_line(error)
                    self._ray.kill(self._actors.pop(name))
            if waiting and time.monotonic() > deadline:
                names = ", ".join(waiting.values())
                raise MachineFailure(
                    f"client node {names} had no CPUs free within {wait_s:g} s", "others use it; --resume the run"
                )

    def _begun(self, place: ClientPlace) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  # as ray itself

        where = NodeAffinitySchedulingStrategy(place.node_id, soft=False)
        actor = self._ray.remote(ClientHost)
        return actor.options(num_cpus=place.cpus, max_restarts=0, scheduling_strategy=where).remote()

    def begin(self, published: Published) -> None:
        """Has each of them look for the launch's client, which need not listen yet."""
        for name, actor in self._actors.items():
            address = f"{published.address}:{published.client_port}"
            self._serving[name] = actor.serve.remote(address, name, published.secret)

    def problems(self) -> dict[str, str]:
        """Of hosts that have ended badly, by name; those that end a moment after the launch are waited for."""
        found: dict[str, str] = {}
        ended, _ = self._ray.wait(
            list(self._serving.values()), num_returns=len(self._serving), timeout=_ENDS_WITHIN_S
        )  # fmt: skip
        for name, reference in self._serving.items():
            if reference not in ended:
                continue
            try:
                words = str(self._ray.get(reference))
            except Exception as error:  # noqa: BLE001  # as above
                words = first_line(error)
            if words:
                found[name] = words
        return found

    def close(self) -> None:
        """Ends them, and what they run."""
        for actor in self._actors.values():
            self._ray.kill(actor)
