"""``python -m bench_core.prepare``: the model and the workload, for containers that no driver has prepared for."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK
from bench_core.contract.records.workload import DEFAULT_SAMPLE_SEED, Prepared, require_fit
from bench_core.prepare.models.model import ModelRequest, prepare_model
from bench_core.prepare.prompts.tokenizer import load_tokenizer
from bench_core.prepare.prompts.workload import WorkloadRequest, prepare_workload, survey_workload
from bench_core.prepare.staging import disk_errors
from bench_core.system.files import write_file


class SampleOrder(Enum):
    """How the prompts that are taken are put in order."""

    SHUFFLED = "shuffled"
    DATASET = "dataset"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def prepare(
    model: Annotated[str, typer.Option(help="synthetic/<shape>, a hub id or a local folder.")] = "synthetic/tiny",
    dataset: Annotated[
        str, typer.Option(help="embedded, a hub id, or a file or folder of a form in docs/models-and-data.md.")
    ] = "embedded",
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "validation",
    text_column: Annotated[
        str | None,
        typer.Option(help="Column of the prompts  [default: docs/models-and-data.md]"),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Prompts to take from the front  [default: all]")] = None,
    sample_order: Annotated[
        SampleOrder, typer.Option(help="Of the prompts taken: shuffled, or dataset to keep the dataset's order.")
    ] = SampleOrder.SHUFFLED,
    sample_seed: Annotated[int, typer.Option(min=0, help="Seed of that shuffle.")] = DEFAULT_SAMPLE_SEED,
    max_prompt_tokens: Annotated[int, typer.Option(min=1, help="Longer prompts lose their beginning.")] = 1024,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder with a tokenizer.json that replaces the model's.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model from the hub.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of synthetic weights.")] = 0,
    data: Annotated[Path, typer.Option(help="Folder of workloads.")] = Path("data"),
    models: Annotated[Path, typer.Option(help="Folder of models.")] = Path("models"),
) -> None:
    """Prepares a model and a workload and notes both in DATA/prepared.json. A hub token is taken from HF_TOKEN."""
    wanted = WorkloadRequest(
        dataset=dataset,
        split=split,
        text_column=text_column,
        samples=samples,
        max_prompt_tokens=max_prompt_tokens,
        sample_seed=sample_seed if sample_order is SampleOrder.SHUFFLED else None,
    )
    survey_workload(wanted)  # before the model: a wrong dataset must not cost a download
    request = ModelRequest(name=model, revision=revision, tokenizer=tokenizer, seed=seed)
    info = prepare_model(request, models, _say)
    _say(f"model {info.name}: {models / info.folder}")
    path, workload = prepare_workload(wanted, load_tokenizer(models / info.folder / layout.HF_ARTIFACT), data, _say)
    require_fit(workload, info, batch_sizes=(1,), max_new_tokens=1)
    _say(f"noted in {write_prepared(data, path, info)}")


def write_prepared(data_root: Path, workload: Path, model: ModelInfo) -> Path:
    """Writes ``data/prepared.json``: what a container started by hand measures.

    Raises:
        BadInput: the folder cannot be written.
    """
    prepared = Prepared(workload=workload.relative_to(data_root).as_posix(), model_folder=model.folder)
    path = data_root / layout.PREPARED_FILE
    with disk_errors(data_root):
        write_file(path, prepared.to_json().encode())
    return path


def main(arguments: list[str] | None = None, prog_name: str = "python -m bench_core.prepare") -> int:
    """Runs the command line and returns its exit code: 0, or 2 with one line of cause and one of what to do."""
    try:
        # Not standalone: typer would print a usage box of several lines for a wrong option.
        typer.main.get_command(app).main(arguments, prog_name=prog_name, standalone_mode=False)
    except BadInput as error:
        return _refuse(error)
    except typer.TyperException as error:
        return _refuse(BadInput(error.format_message(), f"{prog_name} --help lists the options"))
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    return EXIT_OK


def _refuse(error: BadInput) -> int:
    sys.stderr.write(f"error: {error.cause}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
    return EXIT_BAD_INPUT


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
