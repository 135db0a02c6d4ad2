"""What a person asks of containers that no driver starts: a worker that measures, or a server and its client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from bench_core.contract.asked.declaration import Said
from bench_core.contract.asked.loads import Loads
from bench_core.contract.asked.protocol import MeasureOptions, NewTokens
from bench_core.contract.asked.scenario import MAX_REPEAT


class ByHand(MeasureOptions):
    """What to measure, for a container that is started by hand."""

    max_new_tokens: NewTokens = 200
    variant: Annotated[str | None, Said(default="the image's default for the device", metavar="NAME")] = Field(
        None, description="a variant of image.yaml"
    )
    options: Annotated[dict[str, str], Said(flag="option", metavar="KEY=VALUE")] = Field(
        {}, description="an engine's option instead of the variant's; may be repeated"
    )
    repeat: int = Field(1, ge=1, le=MAX_REPEAT, description="which measurement of the same cells it is")
    model_folder: Annotated[str | None, Said(default="prepared last", metavar="NAME")] = Field(
        None, description="below the models folder"
    )
    workload: Annotated[str | None, Said(default="prepared last", metavar="FILE")] = Field(
        None, description="below the data folder"
    )
    artifact: Annotated[Path | None, Said(default="the model's own", metavar="FOLDER")] = Field(
        None, description="with an artifact.json, to be read instead of the model's own"
    )


class LoadOptions(ByHand, Loads):
    """What a client that is started by hand asks of a server: how it is loaded, and what every cell does."""
