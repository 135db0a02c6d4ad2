"""The server's container and the network where it meets its client: made for one launch, gone with it."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
from docker.models.containers import Container
from docker.models.networks import Network

from bench_core.contract.errors import MachineFailure, first_line
from bench_core.contract.serving.sidecar import CLIENT_SECRET
from bench_core.drive.launch.driver_identity import this_driver
from bench_core.drive.launch.published import LOOPBACK, Published

SERVER_NAME = "server"  # by which the client finds it
SERVER_PORT = 8000
CLIENT_PORT = 8010
# No address of the host on it: containers reach each other, and nothing else.
_NO_HOST = {"com.docker.network.bridge.inhibit_ipv4": "true"}
# Where other hosts reach the server, answers find their way and nothing else does: what a container sends to the
# outside by itself goes out under its own address, which nobody there can answer.
_NO_WAY_BACK = {"com.docker.network.bridge.enable_ip_masquerade": "false"}
# Else the Docker engine would ask the host's servers for names of the outside; containers' names are its own.
_NO_NAMES = [LOOPBACK]
_LAST_LINES = 200


@dataclass(frozen=True)
class ServerEnd:
    """How a server's container ended, where it did before its client."""

    exit_code: int
    out_of_memory: bool
    stderr_tail: str


class Meeting:
    """A network of its own; where the Docker engine can make none (it was started without bridges), the client shares
    the server's, which has no network either.

    Args:
        published: where other hosts reach server and client; without it nobody outside does.

    Raises:
        MachineFailure: others are to reach them, and the Docker engine can make no network.
    """

    def __init__(self, client: docker.DockerClient, labels: dict[str, str], published: Published | None = None) -> None:
        self._client = client
        self._published = published
        self.network: Network | None = None
        name = f"llm-bench-{secrets.token_hex(4)}"
        how: dict[str, Any] = {"internal": True, "options": _NO_HOST}
        if published is not None:  # a port of an internal network cannot be published
            how = {"internal": False, "options": _NO_WAY_BACK}
        try:
            self.network = client.networks.create(name, driver="bridge", labels=labels | this_driver().labels, **how)
        except docker.errors.APIError as error:
            if published is not None:
                raise MachineFailure(
                    f"the Docker engine can make no network for a server that others reach: {first_line(error)}",
                    "it was started without bridges: --launcher process",
                ) from error

    @property
    def kind(self) -> str:
        """``internal``, ``shared`` or ``published``."""
        if self._published is not None:
            return "published"
        return "internal" if self.network is not None else "shared"

    def of_server(self) -> dict[str, Any]:
        """Of the server's container."""
        if self.network is None:
            return {"network_mode": "none"}
        endpoint = self._client.api.create_endpoint_config(aliases=[SERVER_NAME])
        found: dict[str, Any] = {"network": self.network.name, "networking_config": {self.network.name: endpoint}}
        if self._published is not None:  # the port of its supervisor is not
            found["dns"] = _NO_NAMES
            found["ports"] = {f"{SERVER_PORT}/tcp": (self._published.address, self._published.server_port)}
        return found

    def of_client(self, server: Container) -> dict[str, Any]:
        """Of the client's container."""
        if self.network is None:
            return {"network_mode": f"container:{server.id}"}
        if self._published is None:
            return {"network": self.network.name}
        return {
            "network": self.network.name,
            "dns": _NO_NAMES,
            "ports": {f"{CLIENT_PORT}/tcp": (self._published.address, self._published.client_port)},
            "environment": {CLIENT_SECRET: self._published.secret},
        }

    def words(self) -> list[str]:
        """Of the client, where its load generators are on other hosts."""
        one = self._published
        if one is None:
            return []
        listens = ["--nodes", str(one.nodes), "--listen", f"0.0.0.0:{CLIENT_PORT}"]  # of its own container
        return [*listens, "--reached-at", f"{one.address}:{one.server_port}"]

    @property
    def host(self) -> str:
        """Where the client finds the server."""
        return SERVER_NAME if self.network is not None else "127.0.0.1"

    def close(self) -> None:
        """Removes the network. What stays is the next driver's to clear."""
        if self.network is not None:
            with contextlib.suppress(docker.errors.APIError, OSError):
                self.network.remove()


class Watch:
    """Notices that a server's container has ended before its client."""

    def __init__(self, server: Container, tell: Callable[[], None]) -> None:
        self._server = server
        self._tell = tell
        self._over = threading.Event()
        self.end: ServerEnd | None = None
        self._thread = threading.Thread(target=self._follow, name="server", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            code = int(self._server.wait()["StatusCode"])
            if self._over.is_set():
                return
            self._server.reload()
            text = self._server.logs(stdout=False, stderr=True, tail=_LAST_LINES).decode("utf-8", "backslashreplace")
            self.end = ServerEnd(code, bool(self._server.attrs["State"]["OOMKilled"]), text)
        except (docker.errors.APIError, OSError):
            return
        self._tell()

    def close(self) -> None:
        """The client has ended: what becomes of the server now is no news."""
        self._over.set()


def remove_network(network: Network) -> bool:
    """Whether it is gone."""
    try:
        network.remove()
    except docker.errors.APIError:
        return False
    return True
