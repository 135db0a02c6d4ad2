"""How requests reach an engine: a union by ``kind``, one record a kind.

A kind says how a cell of it is named. Whoever adds one writes its record, in a file of its own, and names it in
``Scenario`` and ``KINDS``: plans, names of cells, what a driver hands to a container and resuming then take it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from bench_core.contract.records import layout
from bench_core.contract.records.record import Record
from bench_core.contract.serving.load import Serve

BatchSize = Annotated[int, Field(ge=1, le=65536)]
MAX_REPEAT = 1000
MAX_GPUS = 1024
OF_SERVING_CELLS = frozenset({"serve", "server"})  # fields of a cell's records that offline cells do not have

_OFFLINE_WORD = re.compile(r"b([1-9][0-9]{0,4})")


class Offline(Record):
    """Closed batches, one call of the engine each.

    Attributes:
        batch_size: prompts in one call; not concurrency.
    """

    kind: Literal["offline"] = "offline"
    batch_size: BatchSize

    @property
    def word(self) -> str:
        """``b16``: of a cell's name."""
        return f"b{self.batch_size}"

    @property
    def words(self) -> str:
        """For people: ``batch size 16``."""
        return f"batch size {self.batch_size}"

    @classmethod
    def of_word(cls, word: str) -> Offline | None:
        """The scenario of such a word; ``None`` where it is none of this kind."""
        match = _OFFLINE_WORD.fullmatch(word)
        return cls(batch_size=int(match[1])) if match and int(match[1]) <= 65536 else None


Scenario = Annotated[Offline | Serve, Field(discriminator="kind")]
KINDS = (Offline, Serve)


def scenario_of_word(word: str) -> Scenario | None:
    """The scenario that a cell's name ends in; ``None`` where that is no scenario's word."""
    found = (kind.of_word(word) for kind in KINDS)
    return next((scenario for scenario in found if scenario is not None), None)


class NamedCell(Record):
    """What a cell's name is made of.

    In files an offline cell has its ``batch_size`` in place of ``scenario``, as every cell had before there were kinds.
    """

    image: str
    variant: str
    scenario: Scenario
    repeat: int = Field(
        1, ge=1, le=MAX_REPEAT, description="which measurement of this cell it is: tables show the first"
    )
    gpus: int = Field(1, ge=1, le=MAX_GPUS, description="GPUs that its model is split over; 1 in older records")

    @property
    def cell_id(self) -> str:
        """The cell's name, which is also its folder's."""
        return layout.cell_id(self.image, self.variant, self.scenario.word, self.repeat, self.gpus)

    @property
    def batch_size(self) -> int:
        """Of an offline cell.

        Raises:
            TypeError: it is none.
        """
        if not isinstance(self.scenario, Offline):
            raise TypeError(f"{self.cell_id} has no batch size")
        return self.scenario.batch_size

    @property
    def load(self) -> Serve | None:
        """Of a serving cell; ``None`` for any other."""
        return self.scenario if isinstance(self.scenario, Serve) else None

    @model_validator(mode="before")
    @classmethod
    def _scenario_of_file(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "batch_size" not in given or "scenario" in given:
            return given
        flat = {key: value for key, value in given.items() if key != "batch_size"}
        return {**flat, "scenario": {"kind": "offline", "batch_size": given["batch_size"]}}

    @model_serializer(mode="wrap")
    def _scenario_in_file(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        # Of a cell that had its host to itself and ran on one GPU, as every cell did before: the file is as it was.
        for key, as_before in (("placement", (None,)), ("gpus", (1,)), ("gpu_uuids", ((), []))):
            if key in content and content[key] in as_before:
                del content[key]
        if not isinstance(self.scenario, Offline):
            return content
        return {
            ("batch_size" if key == "scenario" else key): (self.batch_size if key == "scenario" else value)
            for key, value in content.items()
            if key not in OF_SERVING_CELLS
        }
