"""A worker without a driver: its whole command line, and cells that follow from it.

What a driver has planned needs none of this, so ``cli.py`` imports it where somebody else asks.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from bench_core import __version__
from bench_core.contract.asked.arguments import Parser, add_options, given
from bench_core.contract.asked.by_hand import ByHand, LoadOptions
from bench_core.contract.asked.declaration import Said, declared, flag_of
from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.asked.protocol import MeasureOptions, ProtocolFields, Timeouts, WorkFields
from bench_core.contract.asked.scenario import BatchSize, Offline, Scenario
from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records.record import Scalar, describe
from bench_core.contract.records.spec import Assignment, CellPlan, plan_cells
from bench_core.contract.records.workload import Workload, WorkloadRef
from bench_core.contract.serving.protocol import ServeFields
from bench_core.contract.serving.sidecar import ServeAsk
from bench_core.worker.launch import add_this_launch, places_of
from bench_core.worker.resolve import Places, Planned, Resolver


class Options(ByHand):
    """What to measure in closed batches, for a container that is started by hand."""

    batch_sizes: Annotated[tuple[BatchSize, ...], Said(flag="batch-size", also=("batch-sizes",))] = Field(
        (1,), min_length=1, description="prompts in one generate call; a cell each"
    )

    @field_validator("batch_sizes")
    @classmethod
    def _each_once(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(sizes))


# The records that declare what is asked of the cells, in the order of the help.
_HEADINGS = (Options, ByHand, WorkFields, ProtocolFields, ServeFields, MeasureOptions, Timeouts)
_OPTIONS = sorted(declared(Options), key=lambda option: _HEADINGS.index(option.origin))


def build_parser() -> argparse.ArgumentParser:
    """The parser; its defaults work in a container started by ``docker compose run``. What is asked of the cells is
    declared by ``Options``; what is of this launch alone stands in ``launch.py``."""
    parser = Parser(prog="python -m bench_core.worker", description="Measures one engine, in its own container.")
    add_options(parser, _OPTIONS)
    instead = add_this_launch(parser)
    instead.add_argument(
        "--convert",
        metavar="ARTIFACT",
        help="make an artifact of the model (auto: what the variant reads, if made here)",
    )
    instead.add_argument(
        "--measure-device", dest="device_rates", metavar="NAME",
        help="measure the device, in the image made for it, into device-rates/NAME.json of the run",
    )  # fmt: skip
    instead.add_argument("--self-check", action="store_true", help="run the contract suite on this image")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def options_of(parsed: argparse.Namespace) -> Options:
    """What the command line asks of the cells.

    Raises:
        BadInput: it does not fit together.
    """
    try:
        return Options.model_validate(given(parsed, _OPTIONS))
    except ValidationError as error:
        raise BadInput(describe(error), "see --help") from error


def resolver_of(parsed: argparse.Namespace) -> Resolver:
    """Of what the command line asks, or of the assignment that it names.

    Raises:
        BadInput: anything missing, damaged or not fitting together.
    """
    places, options = places_of(parsed), options_of(parsed)
    if parsed.assignment is None:
        return ByHandResolver(places, options)
    idle = sorted(options.model_fields_set - {"model_folder", "artifact"})  # which say where things are
    if idle:
        raise BadInput(f"{flag_of(Options, idle[0])} would change nothing: --assignment says what is measured")
    return Planned(places, options, Assignment.read(parsed.data / parsed.assignment))


class ByHandResolver(Resolver):
    """Of what a person asks.

    Args:
        ask: of a client that was started by hand, which the options then are of.
    """

    def __init__(self, places: Places, options: Options | LoadOptions, ask: ServeAsk | None = None) -> None:
        self._asked = options
        self._ask = ask
        super().__init__(places, options, options.device, options.threads, options.gpus_per_cell, options.variant)

    def _options(self, kind: DeviceKind) -> Mapping[str, Scalar]:
        declared_here = self.manifest.options_on(kind)
        return {name: declared_here.read(name, text) for name, text in self._asked.options.items()}

    @property
    def timeouts(self) -> Timeouts:
        """Those asked for."""
        return self._asked.timeouts

    def workload_path(self) -> Path:
        """The workload's file."""
        return self.places.data / (self._asked.workload or self._prepared().workload)

    def _workload(self) -> Workload:
        traced = self._ask.traced if self._ask is not None else None
        return traced or super()._workload()

    @property
    def _names_workload(self) -> bool:
        return self._asked.workload is not None

    @property
    def _scenarios(self) -> tuple[Scenario, ...]:
        """That the options ask for."""
        if isinstance(self._asked, LoadOptions):
            return self._asked.loads
        return tuple(Offline(batch_size=size) for size in self._asked.batch_sizes)

    def _plan(self, model: ModelInfo, workload: WorkloadRef) -> tuple[CellPlan, ...]:
        """
        Raises:
            BadInput: a direct call is asked for and the image has none.
        """
        if self._asked.direct_batches and self.manifest.direct is None:
            raise BadInput(
                f"image {self.manifest.name} does not call its engine directly", "leave --direct-batches out"
            )
        kind, repeat = self.device.kind, self._asked.repeat
        schedules = self._ask.schedules if self._ask is not None else None
        return plan_cells(
            self._asked, self.manifest, self.variant, kind, self._scenarios, model, workload, repeat, schedules
        )
