"""Which Docker engine is meant, as the ``docker`` command would choose it, and whether it is this host's.

``DOCKER_HOST`` comes first, then the context that ``DOCKER_CONTEXT`` names, then the one that ``docker context use``
has chosen, then the usual socket. The SDK's own choice is not taken (docker 7.2.0): where there is no ``config.json``
it looks for contexts in the working folder, and a context that it does not find is the usual socket to it. Cells would
then be measured by another engine than the one asked for, without a word.

Boxes are given folders and GPUs of this host by name, so that the engine has to be of this host as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import docker.errors
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env, parse_host

from bench_core.contract.errors import BadInput, first_line
from bench_core.drive.launch.containers.pulse import patience_s
from bench_core.system.machine import memory_bytes

_CONNECT_S = 10.0
_USUAL = DEFAULT_UNIX_SOCKET.removeprefix("http+")
_PROCESSES = "--launcher process needs no engine"


@dataclass(frozen=True)
class Endpoint:
    """Where a Docker engine is to be reached.

    Attributes:
        url: as it was given: ``unix:///…``, ``tcp://…``, ``ssh://…``.
        chosen_by: the variable or context that names it, for people; empty for the usual socket.
        tls: certificates for a TCP endpoint.
    """

    url: str
    chosen_by: str = ""
    tls: TLSConfig | None = None

    @property
    def words(self) -> str:
        """``unix:///run/user/1000/docker.sock (context rootless, of DOCKER_CONTEXT)``."""
        return f"{self.url} ({self.chosen_by})" if self.chosen_by else self.url

    def client(self, timeout_s: float) -> docker.DockerClient:
        """A client that has not called yet, but for the engine's API version. It takes containers to have no terminal:
        none of the suite's has one, and the SDK would ask for all that the engine knows of one before it reads it.

        Raises:
            docker.errors.DockerException: nobody answers.
            OSError: nobody answers.
        """
        tls: Any = self.tls or False
        client = docker.DockerClient(base_url=self.url, tls=tls, timeout=timeout_s)  # type: ignore[arg-type]  # in parts, too
        vars(client.api)["_check_is_tty"] = lambda _container: False
        return client


def connect(endpoint: Endpoint | None = None) -> docker.DockerClient:
    """A client of the Docker engine that is meant, or of the one at ``endpoint``.

    Raises:
        BadInput: none answers there, or it is not one of this host that boxes can be started on.
    """
    endpoint = endpoint or chosen_endpoint()
    require_of_this_host(endpoint)
    call_limit_s = patience_s()
    try:
        require_shared_files(endpoint, endpoint.client(min(_CONNECT_S, call_limit_s)).info())
        return endpoint.client(call_limit_s)
    except (docker.errors.DockerException, OSError) as error:
        raise BadInput(
            f"no Docker daemon answers at {endpoint.words}: {first_line(error)}",
            "start it, or see that you may use its socket (group docker), or use --launcher process, which needs none",
        ) from error


def chosen_endpoint(environment: Mapping[str, str] | None = None) -> Endpoint:
    """What the ``docker`` command would use.

    Raises:
        BadInput: a context is named that is not there or cannot be used.
    """
    variables = os.environ if environment is None else environment
    if host := variables.get("DOCKER_HOST"):
        try:
            return Endpoint(host, "DOCKER_HOST", kwargs_from_env(dict(variables)).get("tls"))
        except docker.errors.DockerException as error:
            raise BadInput(
                f"DOCKER_HOST={host}: its certificates cannot be used: {first_line(error)}", "check DOCKER_CERT_PATH"
            ) from error
    folder = Path(variables.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
    if name := variables.get("DOCKER_CONTEXT"):
        chosen_by = f"context {name}, of DOCKER_CONTEXT"
    else:
        name = _current_context(folder / "config.json")
        chosen_by = f"context {name}, of docker context use"
    return Endpoint(_USUAL) if name == "default" else _endpoint_of(name, folder / "contexts", chosen_by)


def _current_context(config: Path) -> str:
    hint = "mend it, or name a context by DOCKER_CONTEXT (the usual socket is the context default)"
    try:
        found = json.loads(config.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return "default"
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{config} cannot be read: {first_line(error)}", hint) from error
    name = found.get("currentContext") if isinstance(found, dict) else None
    if name is not None and not isinstance(name, str):
        raise BadInput(f"{config}: currentContext is no name", hint)
    return name or "default"


def _endpoint_of(name: str, contexts: Path, chosen_by: str) -> Endpoint:
    """The Docker endpoint of a stored context.

    Raises:
        BadInput: there is no such context, or it is damaged.
    """
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = contexts / "meta" / key / "meta.json"
    hint = "`docker context ls` lists those there are; the usual socket is the context default"
    try:
        found = json.loads(meta.read_bytes())["Endpoints"]["docker"]
        url, unverified = str(found["Host"]), bool(found.get("SkipTLSVerify", False))
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"there is no Docker context {name} in {contexts} ({chosen_by})", hint) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"Docker context {name} cannot be read: {first_line(error)} ({meta})", hint) from error
    stored = contexts / "tls" / key / "docker"
    ca, cert, private = (str(stored / file) if (stored / file).exists() else None for file in
                         ("ca.pem", "cert.pem", "key.pem"))  # fmt: skip
    if not (ca or cert or private or unverified) or url.startswith("unix:"):
        return Endpoint(url, chosen_by)
    try:
        pair = (cert, private) if cert or private else None
        tls = TLSConfig(client_cert=pair, ca_cert=ca, verify=not unverified)  # type: ignore[arg-type]
    except docker.errors.DockerException as error:
        raise BadInput(
            f"the certificates of Docker context {name} cannot be used: {first_line(error)}", hint
        ) from error
    return Endpoint(url, chosen_by, tls)


def require_of_this_host(endpoint: Endpoint) -> None:
    """Refuses an address of another host; nothing is asked of it.

    Raises:
        BadInput: it is one, or no address at all.
    """
    try:
        parts = urlsplit(str(parse_host(endpoint.url, tls=endpoint.tls is not None)))
        host = parts.hostname
    except (docker.errors.DockerException, ValueError) as error:
        raise BadInput(f"{endpoint.words} is no address of a Docker engine: {first_line(error)}") from error
    if parts.scheme == "http+unix":
        return
    if parts.scheme not in ("http", "https"):
        raise _elsewhere(endpoint, f"{parts.scheme}:// leads to another host")
    if not host or not _is_ours(host):
        raise _elsewhere(endpoint, f"{host} is no address of this host")


def require_shared_files(endpoint: Endpoint, info: Mapping[str, Any]) -> None:
    """Refuses an engine that answers here but runs elsewhere (a virtual machine's, a forwarded socket's), and one whose
    boxes are other users on this host than they are told to be.

    Raises:
        BadInput: with what shows it.
    """
    kernel, ours = info.get("KernelVersion"), platform.release()
    if kernel and kernel != ours:
        raise _elsewhere(endpoint, f"it runs on kernel {kernel}, this host on {ours}")
    name, memory = info.get("Name"), info.get("MemTotal")
    if name and memory and name != platform.node() and memory != memory_bytes():
        raise _elsewhere(endpoint, f"it runs on {name}, this host is {platform.node()}")
    for option in info.get("SecurityOptions") or ():
        mapped = {"name=rootless": "runs rootless", "name=userns": "maps users"}.get(str(option).partition(",")[0])
        if mapped:
            raise BadInput(
                f"the Docker engine at {endpoint.words} {mapped}: its containers are other users on this host, which "
                "may not write results",
                f"use the system's engine (DOCKER_CONTEXT=default, DOCKER_HOST unset), or not: {_PROCESSES}",
            )


def _elsewhere(endpoint: Endpoint, why: str) -> BadInput:
    return BadInput(
        f"the Docker engine at {endpoint.words} is not of this host: {why}; models, results and GPUs are this host's",
        "call the driver on that host, or choose this one's engine (DOCKER_CONTEXT=default, DOCKER_HOST unset); "
        + _PROCESSES,
    )


def _is_ours(host: str) -> bool:
    """Whether a name is only of addresses that this host has: those it may listen on."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
        except OSError:
            return False
    return bool(found)
