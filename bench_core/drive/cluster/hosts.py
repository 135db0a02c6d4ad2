"""The nodes of a cluster: which can be used, what kinds of machine they are, and what launches on them need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from typing import Any

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.run import GpuInfo, HostInfo, LauncherName, VisitInfo
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.cluster.executor import RayExecutor, Senders, Slot
from bench_core.drive.cluster.link import Demand, Link, Member
from bench_core.drive.cluster.node import clone_sha256, worker_name
from bench_core.drive.cluster.parcels import Carrier
from bench_core.drive.cluster.records import NodeReport, Terms
from bench_core.drive.cluster.supply import Supply
from bench_core.drive.fleet.executor import Executor, Worker
from bench_core.drive.fleet.forecast import forecast
from bench_core.drive.launch.launcher_choice import choose_launcher
from bench_core.drive.launch.published import address_in, named_network
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.plan import Job, Plan
from bench_core.report.format import quantity
from bench_core.system.locks import Locks

Tell = Callable[[str], None]
_LOOK_S = 120.0  # that a node has to start a process and look around


@dataclass(frozen=True)
class Node:
    """A node that can be used."""

    member: Member
    report: NodeReport

    @property
    def kind(self) -> tuple[str, str]:
        """What numbers may be compared on: the GPU's name and memory, or the processor and its cores; for people and
        for a name."""
        if self.report.gpus:
            gpu = self.report.gpus[0]
            return gpu.name, layout.slug(gpu.name)
        host = self.report.host
        return f"{host.cpu}, {host.cores} cores", layout.slug(f"{host.cpu}-{host.cores}")


@dataclass
class Cluster:
    """An open cluster after a look at its nodes.

    Attributes:
        nodes: that can be used.
        left_out: others by name, and why.
        porters: by the node's name.
    """

    link: Link
    terms: Terms
    nodes: list[Node]
    left_out: dict[str, str]
    porters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def look(cls, link: Link, suite: Suite, labels: Mapping[str, str], registry: str) -> Cluster:
        """Asks every node that has the labels.

        Raises:
            BadInput: none can be used; names why of each.
        """
        launcher = choose_launcher(suite.launcher).launcher.name
        members = [one for one in link.members() if labels.items() <= one.labels.items() and one.cpus > 0]
        wanted: tuple[DeviceKind, ...] = ("cuda", "cpu") if suite.device == "auto" else (suite.device,)
        cluster = cls(link, _terms(suite, wanted[-1], launcher, registry), [], {})
        for device in wanted:
            able = [one for one in members if device == "cpu" or one.gpus > 0]
            cluster.terms = _terms(suite, device, launcher, registry)
            cluster._ask(able)
            if cluster.nodes:
                break
        if not cluster.nodes:
            why = "; ".join(f"{name}: {cause}" for name, cause in sorted(cluster.left_out.items()))
            where = "".join(f" with {key}={value}" for key, value in labels.items())
            what = "GPU" if wanted == ("cuda",) else "CPU"
            raise BadInput(
                f"no node{where} of the cluster at {link.address} can be used: {why or f'none has a {what} for Ray'}",
                "docs/fleet.md says what a node needs",
            )
        return cluster

    def _ask(self, members: Sequence[Member]) -> None:
        self.porters |= {one.name: self.link.porter(one) for one in members if one.name not in self.porters}
        calls = {one.name: self.porters[one.name].look.remote(self.terms.to_json()) for one in members}
        code = clone_sha256()
        for member in members:
            try:
                report = NodeReport.parse(self.link.get(calls[member.name], _LOOK_S), member.name)
            except BadInput as error:
                self.left_out[member.name] = f"{error.cause} ({error.hint})" if error.hint else error.cause
                continue
            problem = report.problem
            if report.code != code:
                problem = "its clone of this repository holds another state than the driver's"
            if len({(gpu.name, gpu.memory_bytes) for gpu in report.gpus}) > 1:
                problem = "it has several models of GPU: offer one of them to Ray there (CUDA_VISIBLE_DEVICES)"
            if problem:
                self.left_out[member.name] = problem
            else:
                self.nodes.append(Node(member, report))
                self.left_out.pop(member.name, None)

    def ask_senders(self, but: Sequence[Node]) -> list[Node]:
        """Nodes that a load may come from: all that have a CPU for Ray, but these; first those that nothing else is
        measured on."""
        nodes = {node.member.name: node for node in self.nodes}
        taken = {node.member.name for node in but}
        members = [one for one in self.link.members() if one.cpus > 0 and one.name not in taken]
        porters = {one.name: self.porters.get(one.name) or self.link.porter(one) for one in members}
        calls = {one.name: porters[one.name].look_as_client.remote() for one in members}
        code, found = clone_sha256(), []
        for member in members:
            try:
                report = NodeReport.parse(self.link.get(calls[member.name], _LOOK_S), member.name)
            except BadInput:
                continue
            if report.code == code and not report.problem:
                found.append(Node(member, report))
        return sorted(found, key=lambda node: (node.member.name in nodes, node.member.gpus > 0, node.member.name))

    @property
    def kinds(self) -> dict[tuple[str, str], list[Node]]:
        """The nodes by what they are; numbers of two kinds are in no table together."""
        found: dict[tuple[str, str], list[Node]] = {}
        for node in self.nodes:
            found.setdefault(node.kind, []).append(node)
        return found


def _terms(suite: Suite, device: DeviceKind, launcher: LauncherName, registry: str) -> Terms:
    return Terms(
        launcher=launcher,
        device=device,
        run="",
        engine_version=suite.engine_version,
        cpu_slices=suite.cpu_slices if device == "cpu" else None,
        on_busy=suite.on_busy,
        busy_wait_s=suite.busy_wait_s,
        busy_cpus=suite.busy_cpus,
        registry=registry,
    )


class ClusterHosts:
    """The nodes of one kind."""

    here = False

    def __init__(self, cluster: Cluster, nodes: Sequence[Node], suite: Suite, serve_address: str | None = None) -> None:
        """
        Args:
            serve_address: what a person has named for loads from other nodes.

        Raises:
            BadInput: what is asked for cannot be had on several hosts, or not on these.
        """
        self._cluster = cluster
        self._nodes = list(nodes)
        self._senders: Senders | None = None
        self._slots = [slot for node in nodes for slot in slots_of(node, cluster.terms.device)]
        if suite.client_nodes:
            assert serve_address is not None  # noqa: S101  # the command line was refused without it
            self._share_out(suite, named_network(serve_address))
        self._slots = [_numbered(slot, len(self._slots)) for slot in self._slots]
        self._supply: Supply | None = None
        if suite.gpus:
            raise BadInput("--gpus names GPUs of one host", "with --cluster, Ray deals them out; use --node-labels")
        if suite.compare_on_one_gpu and cluster.terms.device == "cuda" and len(self._slots) > len(self._nodes):
            raise BadInput(
                "--compare-on-one-gpu, but nodes have several GPUs, of which Ray gives a launch any one",
                "leave it out; the control cell tells how far they differ",
            )

    def _share_out(self, suite: Suite, network: IPv4Network) -> None:
        """Which nodes have servers and which send: as many launches side by side as there are nodes for.

        Raises:
            BadInput: there are too few.
        """
        cluster, wanted = self._cluster, suite.client_nodes
        there = {node.member.name: address_in(network, node.report.addresses) for node in self._nodes}
        if any(there[node.member.name] in node.report.addresses for node in self._nodes):
            there = {
                node.member.name: there[node.member.name] if there[node.member.name] in node.report.addresses else None
                for node in self._nodes
            }
        for name in [name for name, address in there.items() if address is None]:
            cluster.left_out[name] = f"it has no address in {network}, for a server that others reach"
        servers = [node for node in self._nodes if there[node.member.name] is not None]
        if not servers:
            raise BadInput(f"no node that can be measured on has an address in {network}", "see --serve-address")
        others = [node for node in cluster.ask_senders(servers) if node.member.cpus >= suite.client_processes]
        able = [node for node in servers if node.member.cpus >= suite.client_processes]
        # So many of those that could have servers send instead, the last ones.
        chosen = max(
            range(len(servers)), key=lambda moved: (_groups(servers, others, able, moved, wanted, cluster), -moved)
        )
        moved = able[len(able) - chosen :] if chosen else []
        groups = _groups(servers, others, able, chosen, wanted, cluster)
        if not groups:
            raise BadInput(
                f"--client-nodes {wanted}: {len(others) + len(able)} nodes of the cluster have "
                f"{quantity(suite.client_processes, 'CPU')} or more, and one node has the server",
                "a load comes from nodes beside the server's; add some, or ask for fewer",
            )
        self._nodes = [node for node in servers if node not in moved]
        slots = [slot for node in self._nodes for slot in slots_of(node, cluster.terms.device)][:groups]
        self._slots = [replace(slot, serve_address=there[slot.member.name] or "") for slot in slots]
        members = [node.member for node in (*others, *moved)]
        first, spare = members[: groups * wanted], members[groups * wanted :]
        of = {
            slot.worker.name: (*first[place * wanted : (place + 1) * wanted], *spare[place::groups])
            for place, slot in enumerate(self._slots)
        }
        self._senders = Senders(of, wanted, float(suite.client_processes), suite.busy_wait_s)

    @property
    def host(self) -> HostInfo:
        """Of the first node: the others are of its kind."""
        return self._nodes[0].report.host

    def devices(self, suite: Suite, *, build_only: bool) -> tuple[DeviceKind, list[GpuInfo]]:  # noqa: ARG002
        """Those of the nodes."""
        return self._cluster.terms.device, [gpu for node in self._nodes for gpu in node.report.gpus]

    def workers(self, gpus: Sequence[GpuInfo], suite: Suite, launcher: LauncherName) -> tuple[Worker, ...]:  # noqa: ARG002
        """One for each GPU, or for each node or slice of its CPUs."""
        return tuple(slot.worker for slot in self._slots)

    def words(self, plan: Plan, seconds: Callable[[Job], float]) -> list[str]:
        """The nodes, those that are left out, and the launches that are expected on each worker."""
        nodes, at_once = quantity(len(self._nodes), "node"), quantity(len(self._slots), "launch")
        found = [f"cluster {self._cluster.link.address}: {nodes}, {at_once} at a time"]
        drivers = sorted({gpu.driver_version for node in self._nodes for gpu in node.report.gpus})
        if len(drivers) > 1:
            found.append(f"their GPUs have several driver versions: {', '.join(drivers)}; the report names them")
        found += [f"node {name} is left out: {why}" for name, why in sorted(self._cluster.left_out.items())]
        if self._senders is not None:
            found += self._load_words(self._senders)
        expected = forecast(plan, [slot.worker.name for slot in self._slots], seconds)
        for slot in self._slots:
            jobs = expected[slot.worker.name]
            cells = ", ".join(cell for job in jobs for cell in job.cells) or "nothing"
            demand = f"{slot.demand.cpus:g} CPUs" + (f", {slot.demand.gpus:g} GPUs" if slot.demand.gpus else "")
            found.append(f"on {slot.worker.name} ({slot.member.name}, {demand}), as estimated: {cells}")
        return found

    def _load_words(self, senders: Senders) -> list[str]:
        """Where loads come from, and where servers listen."""
        each = quantity(int(senders.cpus), "load generator")
        found = []
        for slot in self._slots:
            names = [member.name for member in senders.of[slot.worker.name]]
            spare = names[senders.count :]
            found.append(
                f"load on {slot.worker.name}: from {', '.join(names[: senders.count])}, {each} on each"
                + (f"; in reserve: {', '.join(spare)}" if spare else "")
            )
        addresses = ", ".join(dict.fromkeys(f"{slot.serve_address} of {slot.member.name}" for slot in self._slots))
        found.append(
            f"servers listen on {addresses}: whoever reaches that address reaches them, and nobody asks who it is"
        )
        return found

    def hold(self, locks: Locks, gpus: Sequence[GpuInfo], run: str) -> None:
        """Nothing: Ray deals the devices out, and each launch takes its node's lock."""

    def executor(self, request: Request, run: str, tell: Tell) -> Executor | None:
        """Of these nodes."""
        terms = self._cluster.terms.model_copy(update={"run": run})
        porters = {node.member.name: self._cluster.porters[node.member.name] for node in self._nodes}
        supply = Supply(Carrier(self._cluster.link, porters, tell), terms, list(porters), request.data, tell)
        self._supply = supply
        executor = RayExecutor(
            self._cluster.link, self._slots, terms, supply.keys_of, supply.images_of, tell, self._senders
        )
        supply.leave_out = executor.leave_out
        return executor

    def provide(self, jobs: Sequence[Job], prepared: Prepared, step: Tell) -> None:
        """Images or environments, model and artifacts, to every node that lacks them."""
        assert self._supply is not None  # noqa: S101  # there is an executor by then
        step("nodes")
        self._supply.provide(jobs, prepared)
        step("")

    def recorded(self, visit: VisitInfo) -> VisitInfo:
        """With the nodes, and the share of each of their devices."""
        places = [place for node in self._nodes for place in _places(node, len(self._slots))]
        nodes = {node.member.name: node.report.host for node in self._nodes}
        return visit.model_copy(update={"host": self.host, "nodes": nodes, "workers": tuple(places)})


def slots_of(node: Node, device: DeviceKind) -> list[Slot]:
    """The workers of a node. On the CPUs one that has the node to itself takes all of it in Ray, its GPUs too: what
    runs on these uses CPUs."""
    member, shares = node.member, node.report.shares
    if device == "cuda":
        count = min(member.gpus, len(node.report.gpus))
        demand = Demand(float(int(member.cpus / count)) if member.cpus >= count else member.cpus / count, 1)
        names = [f"{member.name} GPU {number}" for number in range(count)]
        if len(node.report.gpus) == 1:
            names = [node.report.gpus[0].uuid]
        return [Slot(Worker(name), member, demand, number) for number, name in enumerate(names)]
    whole = len(shares) == 1
    demand = Demand(member.cpus / len(shares), float(member.gpus) if whole else 0.0)
    places = _places(node, 1)
    return [Slot(Worker(place.worker, None, place), member, demand, number) for number, place in enumerate(places)]


def _places(node: Node, workers: int) -> list[Placement]:
    name = node.member.name
    return [
        share.model_copy(update={"worker": worker_name(name, share.worker), "workers": workers, "host": name})
        for share in node.report.shares
    ]


def _groups(
    servers: Sequence[Node], others: Sequence[Node], able: Sequence[Node], moved: int, wanted: int, cluster: Cluster
) -> int:
    """Launches side by side, each with nodes of its own that send, where so many of the able servers send as well."""
    if moved > len(able):
        return 0
    gone = able[len(able) - moved :] if moved else []
    slots = sum(len(slots_of(node, cluster.terms.device)) for node in servers if node not in gone)
    return min(slots, (len(others) + moved) // wanted)


def _numbered(slot: Slot, workers: int) -> Slot:
    place = slot.worker.placement
    if place is None:
        return slot
    place = place.model_copy(update={"workers": workers})
    return replace(slot, worker=Worker(slot.worker.name, slot.worker.gpu, place))
