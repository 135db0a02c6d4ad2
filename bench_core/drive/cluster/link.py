"""The one module that speaks to Ray: connects to a cluster, sees its nodes, begins what runs on them."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench_core.contract.errors import BadInput, MachineFailure, first_line
from bench_core.drive.cluster.node import Porter, run_order
from bench_core.drive.cluster.post import Post
from bench_core.drive.plan.catalogue import REPOSITORY

LOCAL = "local"
_SCHEME = "ray://"
_LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 for a word for the host's own address
_HEAD = "node:__internal_head__"  # a resource that the head node alone has
_LITTLE = 0.001
_ATTEMPTS = 3
_UNLUCKY = "Starting Ray client server failed"
_AT_ONCE = 100_000  # calls that wait in the mailbox: two for each launch


@dataclass(frozen=True)
class Member:
    """A node as Ray tells of it.

    Attributes:
        name: unique in the cluster: its own, or its address.
        cpus, gpus: that Ray may deal out there.
        address: that Ray knows it by.
    """

    node_id: str
    name: str
    cpus: float
    gpus: int
    labels: dict[str, str] = field(default_factory=dict)
    address: str = ""


@dataclass(frozen=True)
class Demand:
    """What Ray sets aside of a node while a launch runs."""

    cpus: float
    gpus: float


def require_address(address: str) -> str:
    """``local`` or ``ray://HOST:PORT``.

    Raises:
        BadInput: it is neither.
    """
    if address == LOCAL or (address.startswith(_SCHEME) and address.rpartition(":")[2].isdigit()):
        return address
    raise BadInput(f"--cluster {address[:100]!r} is no cluster", f"name one as {_SCHEME}HOST:10001, or {LOCAL}")


def _for_this_process_alone() -> None:
    """What a local Ray and its workers inherit. Its ports listen on every address, whatever it is told, so that it asks
    for a token, which no file holds."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


class Link:
    """An open connection.

    Raises:
        BadInput: Ray is not installed, or the cluster's is another version.
        MachineFailure: nobody answers there.
    """

    def __init__(self, address: str) -> None:
        self.address = require_address(address)
        if address == LOCAL:
            _for_this_process_alone()
        try:
            import ray  # noqa: PLC0415  # megabytes, and for who names a cluster
        except ImportError as error:
            raise BadInput(
                f"--cluster needs Ray, which is not installed here: {first_line(error)}",
                "pip install 'llm-bench[cluster]', in the version that the cluster runs",
            ) from error
        self._ray: Any = ray
        with self._as_failure():
            if address == LOCAL:
                self._begin_here()
            else:
                self._connect()
        # A launch's process serves the next one too, with a GPU as well: what holds the GPU's memory is its child.
        self._run = ray.remote(max_calls=0, max_retries=0)(run_order)

    def _begin_here(self) -> None:
        """A Ray of this host's own; it ends with this process."""
        self._ray.init(
            address=LOCAL, _node_ip_address=_LOOPBACK, _node_name=platform.node(), include_dashboard=False,
            log_to_driver=False, logging_level="error",
        )  # fmt: skip

    def _connect(self) -> None:
        """Ray's proxy at the head forks a server for each client, which now and then dies of its other threads."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                self._ray.init(self.address, log_to_driver=False, logging_level="error")
            except Exception as error:
                if not left or _UNLUCKY not in str(error):
                    raise
                self._ray.shutdown()
            else:
                return

    def members(self) -> list[Member]:
        """The nodes that live, by name."""
        with self._as_failure():
            known = [node for node in self._ray.nodes() if node["Alive"]]
        names = [str(node.get("NodeName") or node["NodeManagerAddress"]) for node in known]
        found = []
        for node, name in zip(known, names, strict=True):
            unique = name if names.count(name) == 1 else f"{name}-{node['NodeID'][:6]}"
            resources = node["Resources"]
            cpus, gpus = float(resources.get("CPU", 0.0)), int(resources.get("GPU", 0.0))
            labels, address = dict(node.get("Labels") or {}), str(node["NodeManagerAddress"])
            found.append(Member(node["NodeID"], unique, cpus, gpus, labels, address))
        return sorted(found, key=lambda member: member.name)

    def porter(self, member: Member) -> Any:
        """What fetches and looks, on a node: an actor that needs no resource."""
        place = self._strategy(member)
        with self._as_failure():
            actor = self._ray.remote(Porter)
            return actor.options(num_cpus=0, scheduling_strategy=place, max_restarts=0).remote()

    def post(self) -> Any:
        """A mailbox at the head, which no lost node takes along."""
        with self._as_failure():
            actor = self._ray.remote(Post)
            return actor.options(num_cpus=0, resources={_HEAD: _LITTLE}, max_concurrency=_AT_ONCE).remote()

    def begin(self, order: str, post: Any, member: Member, demand: Demand) -> Any:
        """A launch, as a task of Ray's on this node or nowhere; waits in Ray's queue until what it needs is free."""
        place = self._strategy(member)
        options = {"num_cpus": demand.cpus, "num_gpus": demand.gpus, "scheduling_strategy": place}
        with self._as_failure():
            return self._run.options(**options).remote(order, post)

    def _strategy(self, member: Member) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  # as ray itself

        return NodeAffinitySchedulingStrategy(member.node_id, soft=False)

    def get(self, reference: Any, timeout_s: float | None = None) -> Any:
        """What a call has given.

        Raises:
            MachineFailure: it has failed, or the cluster has gone, or the time is over.
        """
        with self._as_failure():
            return self._ray.get(reference, timeout=timeout_s)

    def put(self, content: Any) -> Any:
        """Into the object store.

        Raises:
            MachineFailure: as :meth:`get`, or it is full.
        """
        with self._as_failure():
            return self._ray.put(content)

    def first(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those that are over, as soon as one is; none after ``timeout_s``."""
        with self._as_failure():
            ready, _ = self._ray.wait(list(references), num_returns=1, timeout=timeout_s)
            return list(ready)

    def drop(self, reference: Any) -> None:
        """A launch that has not begun is not to begin."""
        with contextlib.suppress(Exception):
            self._ray.cancel(reference)

    def end(self, actor: Any) -> None:
        """An actor is not needed any more."""
        with contextlib.suppress(Exception):
            self._ray.kill(actor)

    def close(self) -> None:
        """Lets go of the cluster; a local one ends."""
        with contextlib.suppress(Exception):
            self._ray.shutdown()

    @contextmanager
    def _as_failure(self) -> Iterator[None]:
        """Whatever Ray raises as a failure of the environment: its exceptions have no common base, and a client's are
        those of gRPC."""
        try:
            yield
        except BadInput:
            raise
        except Exception as error:
            raise MachineFailure(f"the cluster at {self.address}: {words_of(error)}", _hint(error)) from error


def words_of(error: BaseException) -> str:
    """The line of an exception of Ray's that says most: a remote one ends with its own."""
    text = str(error).strip() or type(error).__name__
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return words_of(cause)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    chosen = lines[-1] if lines and lines[-1].split(":")[0].rpartition(".")[2].endswith("Error") else lines[0]
    return chosen[:400]


def _hint(error: BaseException) -> str:
    text = str(error)
    if "No module named" in text:
        return "start Ray there in a clone of this repository, with PYTHONPATH set to it: docs/fleet.md"
    if "version" in text.lower() and "mismatch" in text.lower():
        return "driver and nodes need one version of Ray and of Python: docs/fleet.md"
    return "mend that, then --resume the run"
