"""What a client that was started by hand asks of a server: planned here, where image, model and device are."""

from __future__ import annotations

import os
from datetime import datetime, timezone

from bench_core.contract.asked.by_hand import LoadOptions
from bench_core.contract.asked.declaration import flag_of
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.serving.sidecar import Planned, ServeAsk
from bench_core.system.cpus import Shares, deal
from bench_core.worker.by_hand import ByHandResolver, Options
from bench_core.worker.resolve import Places
from bench_core.worker.serve.sidecar import Served
from bench_core.worker.standalone import standalone_record

# What the server's own command line may say. The rest is the client's, whose schedules follow from it.
OF_THE_SERVER = ("device", "variant", "threads", "gpus_per_cell", "options", "model_folder", "workload", "artifact")


class Planner:
    """Makes of what a client asks what is served.

    Args:
        options: of the server's own command line, where the client says nothing else.
    """

    def __init__(self, places: Places, options: Options) -> None:
        """
        Raises:
            BadInput: an option that only a client may give.
        """
        others = sorted(options.model_fields_set - {*OF_THE_SERVER})
        if others:
            flag = flag_of(Options, others[0])
            raise BadInput(f"{flag} is not for --serve: its client says it", "give it to the client")

        self._places, self._options = places, options
        self._cpus = tuple(sorted(os.sched_getaffinity(0)))

    def plan(self, ask: ServeAsk) -> tuple[Served, Planned]:
        """
        Raises:
            BadInput: anything missing, damaged or not fitting together.
            MachineFailure: there is no such device here.
        """
        shares = self._shares(ask)
        _stay_on(shares.server)
        resolver = ByHandResolver(self._places, self._merged(ask.options), ask=ask)
        name = ask.run_id or f"{datetime.now(timezone.utc):%Y%m%dt%H%M%Sz}-{resolver.manifest.name}"
        if not layout.is_name(name):
            raise BadInput(f"--run-id {name!r} is not a name", "lower case letters, digits, '.', '_' and '-'")
        request, workload = resolver.measure_request(name)
        record = standalone_record(name, request, resolver.device.kind, resolver.manifest.notes)
        longest = workload.longest + ask.options.max_new_tokens
        served = Served(resolver.manifest, request, longest, resolver.timeouts.load_timeout_s)
        return served, Planned(record=record, client_cpus=shares.client)

    def _merged(self, asked: LoadOptions) -> LoadOptions:
        own = {name: getattr(self._options, name) for name in OF_THE_SERVER}
        said = {name: value for name in OF_THE_SERVER if (value := getattr(asked, name)) not in (None, "auto")}
        if asked.gpus_per_cell == 1:  # as if nothing were said
            del said["gpus_per_cell"]
        said["options"] = {**own["options"], **said["options"]}
        return asked.model_copy(update={**own, **said})

    def _shares(self, ask: ServeAsk) -> Shares:
        """Who gets which CPUs. Where both were given CPUs of their own, that stands."""
        if {*ask.cpus}.isdisjoint(self._cpus):
            return Shares(self._cpus, ask.cpus)
        both = tuple(sorted({*ask.cpus} & {*self._cpus}))
        shares = deal(ask.options.client_processes, both)
        return Shares(tuple(sorted({*self._cpus} - {*shares.client})) or shares.server, shares.client)


def _stay_on(cpus: tuple[int, ...]) -> None:
    """Of the thread that answers, and of the main one, which the threads that start the server come from."""
    for thread in (0, os.getpid()):
        os.sched_setaffinity(thread, cpus)
