"""``python -m bench_core.drive.prune``: gives back the disk that earlier builds and models take.

Removed are images that a newer build has replaced and environments of requirements that have changed. Models, with the
artifacts made of them, are removed by name alone. Results are never touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_args

import docker
import docker.errors
import typer

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import BadInput, first_line, nearest
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_INTERRUPTED
from bench_core.drive.ask.command import run_command
from bench_core.drive.launch.containers.build import CONTEXT_LABEL
from bench_core.drive.launch.containers.endpoint import connect
from bench_core.drive.launch.launcher import Target
from bench_core.drive.launch.processes.environments import ENVIRONMENTS_FOLDER, Environments
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.run.progress import printable
from bench_core.prepare.disk import readable, taken_bytes
from bench_core.prepare.staging import locked
from bench_core.system.locks import Locks


@dataclass
class Removable:
    """What can go.

    Attributes:
        images: ids of images that a newer build has replaced and no container uses.
        environments: of requirements that have changed.
        models: folders of prepared models, by name.
        no_engine: why images were not looked for; empty where they were.
    """

    images: list[str] = field(default_factory=list)
    environments: list[Path] = field(default_factory=list)
    models: dict[str, Path] = field(default_factory=dict)
    no_engine: str = ""


def stale_environments(catalogue: Catalogue, folder: Path = ENVIRONMENTS_FOLDER) -> list[Path]:
    """Environments that no image would be launched in any more."""
    environments = Environments(folder)
    images = [catalogue.get(name) for name in catalogue.names]
    images += [probe for device in get_args(DeviceKind) if (probe := catalogue.probe(device)) is not None]
    current = {
        environments.path(image, target, device)
        for image in images
        for target in get_args(Target)
        for device in image.manifest.devices
    }
    found = (path for path in sorted(folder.glob("*")) if path.is_dir() and not path.name.startswith("."))
    return [path for path in found if path not in current]


def prepared_models(models: Path) -> dict[str, Path]:
    """Folders of models that this suite has made, by their names."""
    return {path.parent.name: path.parent for path in sorted(models.glob(f"*/{layout.MODEL_FILE}"))}


def look(models: Path) -> Removable:
    """Everything that can go, asked of the disk and of the Docker engine where one answers."""
    found = Removable(environments=stale_environments(Catalogue()), models=prepared_models(models))
    try:
        found.images = _replaced(connect())
    except BadInput as error:
        found.no_engine = error.cause
    except (docker.errors.DockerException, OSError) as error:
        found.no_engine = first_line(error)
    return found


def _replaced(client: docker.DockerClient) -> list[str]:
    images = client.images.list(filters={"dangling": True, "label": CONTEXT_LABEL})
    used = {container.attrs["ImageID"] for container in client.containers.list(all=True, sparse=True)}
    return [str(image.id) for image in images if image.id not in used]


def remove_environments(environments: Iterable[Path]) -> int:
    """Removes them, each with the lock held that installing takes; returns the bytes that this gave back."""
    freed = 0
    for path in environments:
        with locked(path.parent, path.name):
            freed += taken_bytes(path)
            shutil.rmtree(path)
    return freed


def remove_model(folder: Path) -> int:
    """Removes a model with its artifacts; returns the bytes that this gave back.

    Raises:
        BadInput: a conversion is going on in it.
    """
    locks = Locks()
    try:
        with locks.converting(folder):
            freed = taken_bytes(folder)
            shutil.rmtree(folder)
            return freed
    finally:
        locks.close()


def show(
    model: Annotated[
        list[str] | None, typer.Option(help="A model's folder under --models, with its artifacts. May be repeated.")
    ] = None,
    models: Annotated[Path, typer.Option(help="Folder of models and artifacts.")] = Path("models"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what can be removed and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove images that newer builds have replaced, environments of old requirements, and models that are named."""
    found = look(models)
    chosen = {}
    for name in model or []:
        if name not in found.models:
            hint = nearest(name, found.models) if found.models else "none is there"
            raise BadInput(f"there is no prepared model {name!r} in {models}", hint)
        chosen[name] = found.models[name]
    for name, folder in found.models.items():
        kept = "" if name in chosen else f", stays; --model {name} removes it"
        typer.echo(printable(f"model {name}: {readable(taken_bytes(folder))}{kept}"))
    for path in found.environments:
        typer.echo(f"environment {path.name}: {readable(taken_bytes(path))}")
    if found.no_engine:
        typer.echo(printable(f"images: not looked for: {found.no_engine}"))
    else:
        typer.echo(f"images that a newer build has replaced: {len(found.images)}")
    if dry_run or not (chosen or found.environments or found.images):
        return
    if not yes and not typer.confirm("remove these?", default=False):
        raise typer.Exit(EXIT_INTERRUPTED)
    freed = remove_environments(found.environments) + sum(map(remove_model, chosen.values()))
    if found.images:
        pruned = connect().images.prune(filters={"dangling": True, "label": CONTEXT_LABEL})
        freed += int(pruned.get("SpaceReclaimed") or 0)
    typer.echo(f"{readable(freed)} given back")


def main(prog_name: str = "python -m bench_core.drive.prune") -> None:
    """Runs the command line; a misuse is a line of cause, a line of hint, and exit code 2."""
    run_command(show, prog_name)


if __name__ == "__main__":
    main()
