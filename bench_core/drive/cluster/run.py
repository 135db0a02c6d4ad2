"""A call of the driver on a cluster: one run for each kind of machine that it has."""

from __future__ import annotations

from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import EXIT_INTERRUPTED
from bench_core.drive.ask.request import Modes, Request
from bench_core.drive.cluster.hosts import Cluster, ClusterHosts, Node
from bench_core.drive.cluster.link import Link, require_address
from bench_core.drive.plan.resume import Earlier
from bench_core.drive.run.news import News
from bench_core.drive.run.session import Session
from bench_core.drive.run.visit import run_id_now
from bench_core.drive.show.web import Web
from bench_core.system.locks import Locks

_LONGEST_ID = 64


def run_on_cluster(request: Request, modes: Modes, earlier: Earlier | None, locks: Locks, web: Web | None) -> int:
    """Measures on every kind of machine of the cluster, one after the other, each in a run of its own; the exit code of
    the first that did not end well.

    Raises:
        BadInput: what is asked for cannot be had on a cluster, or no node can be used.
        MachineFailure: the cluster does not answer.
    """
    assert modes.cluster is not None  # noqa: S101  # else nobody calls this
    require_address(modes.cluster)
    _refuse(request, modes)
    labels = _labels(modes.node_labels)
    link = Link(modes.cluster)
    try:
        cluster = Cluster.look(link, request.suite, labels, (modes.registry or "").rstrip("/"))
        kinds = cluster.kinds
        if earlier is not None:
            kinds = _of_the_run(kinds, earlier)
        code = 0
        for (words, name), nodes in kinds.items():
            if len(kinds) > 1:
                names = ", ".join(node.member.name for node in nodes)
                News(modes).say(f"{words}: {names}; a run and a table of their own")
            own = request if len(kinds) == 1 else request.model_copy(update={"run_id": _run_id(request, name)})
            hosts = ClusterHosts(cluster, nodes, request.suite, modes.serve_address)
            ended = Session(own, modes, earlier, locks, web, hosts).run()
            code = code or ended
            if ended == EXIT_INTERRUPTED:
                break
        return code
    finally:
        link.close()


def _refuse(request: Request, modes: Modes) -> None:
    """What looks at one host."""
    suite = request.suite
    asked = {
        "--build-only": modes.build_only,
        "--self-check": modes.self_check,
        "--min-memory": modes.min_memory is not None,
        "--find-max-batch": bool(suite.find_max_batch),
        "--gpus-per-cell": suite.gpus_per_cell > 1,
        "--find-capacity": bool(suite.find_capacity),
        "--device-rates": bool(modes.device_rates),
    }
    for flag, given in asked.items():
        if given:
            raise BadInput(f"{flag} is of one host, and --cluster names several", "call it on one of the nodes")


def _labels(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadInput(f"--node-labels {word[:100]!r} is no KEY=VALUE", "as --node-labels rack=7")
        found[key] = value
    return found


def _of_the_run(kinds: dict[tuple[str, str], list[Node]], earlier: Earlier) -> dict[tuple[str, str], list[Node]]:
    """The nodes that are machines of the run's kind; all where none is, for the refusal that names the difference."""
    record = earlier.record
    cards = {gpu.name for gpu in record.gpus}
    processor = (record.host.cpu, record.host.cores)

    def fits(node: Node) -> bool:
        gpus, host = node.report.gpus, node.report.host
        return gpus[0].name in cards if gpus else not cards and (host.cpu, host.cores) == processor

    same = {kind: nodes for kind, nodes in kinds.items() if fits(nodes[0])}
    return same or dict(list(kinds.items())[:1])


def _run_id(request: Request, kind: str) -> str:
    first = request.run_id or run_id_now(request.suite.name)
    return f"{first[: _LONGEST_ID - len(kind) - 1]}-{kind}"
