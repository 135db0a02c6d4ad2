"""What stands in the records of a serving cell beside that of every cell."""

from __future__ import annotations

from typing import Literal

from bench_core.contract.records.record import Record
from bench_core.contract.serving.protocol import ServeProtocol


class ServePlan(Record):
    """What a serving cell is to do.

    Attributes:
        schedule: digest of what is sent and when.
        prefix_cache: whether the server may serve the beginning of a prompt from an earlier one.
    """

    protocol: ServeProtocol
    schedule: str
    prefix_cache: bool = False


class ServerFacts(Record):
    """How a server was started and asked.

    Attributes:
        command: its words, the suite's own places left as they are named in image.yaml.
        prompt: how prompts were sent.
        cpus, client_cpus: CPU numbers that the server and the client could use; the same for both where there is one.
        network: how the two met.
    """

    command: tuple[str, ...]
    path: str
    prompt: Literal["ids", "text", "messages"]
    cpus: tuple[int, ...]
    client_cpus: tuple[int, ...] = ()
    network: Literal["internal", "shared", "loopback"] = "loopback"
