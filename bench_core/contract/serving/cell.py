"""What stands in the records of a serving cell beside that of every cell."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench_core.contract.records.record import Record
from bench_core.contract.serving.load import Arrivals
from bench_core.contract.serving.protocol import Limits, ServeProtocol


class ServePlan(Record):
    """What a serving cell is to do.

    Attributes:
        schedule: digest of what is sent and when.
        prefix_cache: whether the server may serve the beginning of a prompt from an earlier one.
    """

    protocol: ServeProtocol
    schedule: str
    prefix_cache: bool = False


class CapacityAsk(Record):
    """A search for the highest load that keeps latency limits, on one server.

    Attributes:
        varied: what the loads are; ``first``, ``limit``: where the search begins and where it ends at the latest.
        attainment: share of requests that must keep all limits.
        conditions: what else decides the answer.
        searches: of this method in this run, this one included.
    """

    varied: Literal["request_rate", "concurrency"]
    first: float = Field(gt=0, le=1e6)
    limit: float = Field(gt=0, le=1e6)
    arrivals: Arrivals
    limits: Limits
    attainment: float = Field(gt=0, le=1)
    conditions: dict[str, str]
    searches: int = Field(1, ge=1)


class ServerFacts(Record):
    """How a server was started and asked.

    Attributes:
        command: its words, the suite's own places left as they are named in image.yaml.
        prompt: how prompts were sent.
        cpus, client_cpus: CPU numbers that the server and the client could use; the same for both where there is one.
        network: how the two met; ``published``: on a port that other hosts reach.
        slots: requests that the server works on at once, where that is settled when it starts; in older records only
            where it is fewer than its load points need.
    """

    command: tuple[str, ...]
    path: str
    prompt: Literal["ids", "text", "messages"]
    cpus: tuple[int, ...]
    client_cpus: tuple[int, ...] = ()
    network: Literal["internal", "shared", "loopback", "published"] = "loopback"
    slots: int | None = None
