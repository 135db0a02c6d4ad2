"""A Ray cluster on this machine for tests: a head without CPUs, and nodes that each believe to be a host of its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT


class Nodes:
    """Raylets of this machine. Each has a folder and locks of its own, as a host has, and the machine's Docker engine.

    Args:
        head: more for ``ray start --head``, in the words of ``ray.cluster_utils``.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, **head: Any) -> None:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # gRPC's handlers at a fork end the server that Ray's proxy has just forked, in one of three connections.
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token in somebody's home would be asked for
        # Ray finds a cluster of before in these, and joins it.
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        self._root = root
        self._port = free_port()
        self._cluster = Cluster()
        self._head = {**_COMMON, "num_cpus": 0, "ray_client_server_port": self._port, **head}
        self._nodes: dict[str, Any] = {}
        self._cluster.add_node(**self._head)

    @property
    def address(self) -> str:
        """For ``--cluster``."""
        return f"ray://127.0.0.1:{self._port}"

    @property
    def gcs(self) -> str:
        """For ``ray.init`` of a test that looks at the cluster itself."""
        return str(self._cluster.address)

    def add(self, name: str, variables: dict[str, str] | None = None, **more: Any) -> None:
        """A node with two CPUs and two GPUs that are made up."""
        own = {"BENCH_NODE_FOLDER": str(self.folder(name)), "BENCH_LOCK_FOLDER": str(self._root / f"{name}.locks")}
        options = {**_COMMON, "num_cpus": 2, "num_gpus": 2, **more}
        self._nodes[name] = self._cluster.add_node(node_name=name, env_vars={**own, **(variables or {})}, **options)

    def folder(self, name: str) -> Path:
        """Where it keeps what it was sent."""
        return self._root / name

    def kill(self, name: str) -> None:
        """As a machine ends that loses its power."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def close(self) -> None:
        """All of them."""
        self._cluster.shutdown()


_COMMON = {"include_dashboard": False, "object_store_memory": 80 * 1024 * 1024}


def free_port() -> int:
    """Of this machine's loopback, now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def quiet() -> dict[str, str]:
    """The environment of a driver of these tests: the suite's own variables of this process."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}
