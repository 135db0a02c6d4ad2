"""A server that other hosts reach: on which address, by which ports. Never without an address that somebody named."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import secrets
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench_core.contract.errors import BadInput, MachineFailure

LOOPBACK = "127.0.0.1"
_SECRET_BYTES = 32
_SIOCGIFADDR = 0x8915
_ATTEMPTS = 100


@dataclass(frozen=True)
class Published:
    """Where the load generators of one launch, on other hosts, find its server and its client.

    Attributes:
        address: of this host.
        server_port, client_port: TCP; the port behind the server's is free on loopback, for its supervisor.
        nodes: hosts that the load comes from.
        secret: known to these and the client alone, hexadecimal.
    """

    address: str
    server_port: int
    client_port: int
    nodes: int
    secret: str = field(repr=False)

    @classmethod
    def on(cls, address: str, nodes: int) -> Published:
        """With ports that nobody listens on now, and a secret of its own.

        Raises:
            MachineFailure: the address is none of this host's, or no ports are free.
        """
        for _ in range(_ATTEMPTS):
            with socket.socket() as server, socket.socket() as client, socket.socket() as behind:
                try:
                    server.bind((address, 0))
                    client.bind((address, 0))
                except OSError as error:
                    raise MachineFailure(
                        f"nobody can listen on {address} here: {error.strerror or error}",
                        "--serve-address is an address of the servers' own nodes",
                    ) from error
                port = int(server.getsockname()[1])
                with contextlib.suppress(OSError, OverflowError):
                    behind.bind((LOOPBACK, port + 1))
                    secret = secrets.token_bytes(_SECRET_BYTES).hex()
                    return cls(address, port, int(client.getsockname()[1]), nodes, secret)
        raise MachineFailure(f"no two neighbouring ports are free on {address}")


def named_network(word: str) -> ipaddress.IPv4Network:
    """What ``--serve-address`` names: one address, or a network that has one of each server's node.

    Raises:
        BadInput: it is neither, or stands for every address there is.
    """
    try:
        found = ipaddress.IPv4Network(word, strict=False)
    except ValueError as error:
        raise BadInput(
            f"--serve-address {word[:60]!r} is no IPv4 address or network", "as 10.0.0.5, or 10.0.0.0/24"
        ) from error
    if found.prefixlen == 0 or found.network_address.is_unspecified:
        raise BadInput(
            f"--serve-address {word} stands for all addresses of a node, those to the outside too",
            "name the network that servers and clients share, as 10.0.0.0/24",
        )
    return found


def own_addresses() -> tuple[str, ...]:
    """IPv4 addresses of this host, the first of each interface."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                told = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(told[20:24]))
    return tuple(found)


def address_in(network: ipaddress.IPv4Network, addresses: Iterable[str]) -> str | None:
    """The first of a host's addresses that lies in it. A single one may be a second address of an interface: the host
    finds out when it listens there."""
    if network.num_addresses == 1:
        return str(network.network_address)
    return next((one for one in addresses if ipaddress.IPv4Address(one) in network), None)
