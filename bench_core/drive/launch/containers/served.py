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

from bench_core.drive.launch.driver_identity import this_driver

SERVER_NAME = "server"  # by which the client finds it
SERVER_PORT = 8000
# No address of the host on it: containers reach each other, and nothing else.
_NO_HOST = {"com.docker.network.bridge.inhibit_ipv4": "true"}
_LAST_LINES = 200


@dataclass(frozen=True)
class ServerEnd:
    """How a server's container ended, where it did before its client."""

    exit_code: int
    out_of_memory: bool
    stderr_tail: str


class Meeting:
    """A network of its own; where the Docker engine can make none (it was started without bridges), the client shares
    the server's, which has no network either."""

    def __init__(self, client: docker.DockerClient, labels: dict[str, str]) -> None:
        self._client = client
        self.network: Network | None = None
        name = f"llm-bench-{secrets.token_hex(4)}"
        with contextlib.suppress(docker.errors.APIError):
            self.network = client.networks.create(
                name, driver="bridge", internal=True, options=_NO_HOST, labels=labels | this_driver().labels
            )

    @property
    def kind(self) -> str:
        """``internal`` or ``shared``."""
        return "internal" if self.network is not None else "shared"

    def of_server(self) -> dict[str, Any]:
        """Of the server's container."""
        if self.network is None:
            return {"network_mode": "none"}
        endpoint = self._client.api.create_endpoint_config(aliases=[SERVER_NAME])
        return {"network": self.network.name, "networking_config": {self.network.name: endpoint}}

    def of_client(self, server: Container) -> dict[str, Any]:
        """Of the client's container."""
        return {"network_mode": f"container:{server.id}"} if self.network is None else {"network": self.network.name}

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
