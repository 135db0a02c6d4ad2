"""``python -m bench_core.drive.prune``: gives back the disk that earlier builds and models take.

Removed are images that a newer build has replaced and environments of requirements that have changed. Models, with the
artifacts made of them, and images that were made for one version of an engine are removed by name alone. Results are
never touched.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar, get_args

import docker
import docker.errors
import typer

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import BadInput, first_line, nearest
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_INTERRUPTED
from bench_core.drive.ask.command import run_command
from bench_core.drive.launch.containers.build import CONTEXT_LABEL, image_tag
from bench_core.drive.launch.containers.endpoint import connect
from bench_core.drive.launch.launcher import Target
from bench_core.drive.launch.processes.environments import ENVIRONMENTS_FOLDER, WHEELS, Environments
from bench_core.drive.plan.catalogue import Catalogue, Image
from bench_core.drive.plan.engine_versions import made_images
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
        versions: images that were made for one version of an engine, by name.
        no_engine: why images were not looked for; empty where they were.
    """

    images: list[str] = field(default_factory=list)
    environments: list[Path] = field(default_factory=list)
    models: dict[str, Path] = field(default_factory=dict)
    versions: dict[str, Image] = field(default_factory=dict)
    no_engine: str = ""


def stale_environments(
    catalogue: Catalogue, folder: Path = ENVIRONMENTS_FOLDER, versions: Iterable[Image] = ()
) -> list[Path]:
    """Environments that no image would be launched in any more; ``versions``: images that were made for versions of
    engines, and may be asked for again."""
    images = [*catalogue.every, *versions]
    images += [probe for device in get_args(DeviceKind) if (probe := catalogue.probe(device)) is not None]
    current = {path for image in images for path in environments_of(image, folder)}
    found = (path for path in sorted([*folder.glob("*"), *folder.glob(f"{WHEELS}/*")]) if path.is_dir())
    return [path for path in found if path not in current and not path.name.startswith(".")]


def environments_of(image: Image, folder: Path = ENVIRONMENTS_FOLDER) -> set[Path]:
    """Where an image's environments are or would be, and wheels that were compiled for them."""
    environments = Environments(folder)
    of_image = [(target, device) for target in get_args(Target) for device in image.manifest.devices]
    wheels = {path for device in image.manifest.devices if (path := environments.wheels(image, device)) is not None}
    return wheels | {environments.path(image, target, device) for target, device in of_image}


def prepared_models(models: Path) -> dict[str, Path]:
    """Folders of models that this suite has made, by their names."""
    return {path.parent.name: path.parent for path in sorted(models.glob(f"*/{layout.MODEL_FILE}"))}


def look(models: Path) -> Removable:
    """Everything that can go, asked of the disk and of the Docker engine where one answers."""
    versions = {image.name: image for image in made_images()}
    stale = stale_environments(Catalogue(), versions=versions.values())
    found = Removable(environments=stale, models=prepared_models(models), versions=versions)
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


def remove_version(image: Image) -> int:
    """Removes an image that was made for one version of an engine: its folder, environments and Docker images, whose
    bytes are not counted; returns the bytes that the others gave back."""
    freed = remove_environments(path for path in environments_of(image) if path.is_dir())
    with contextlib.suppress(BadInput, docker.errors.DockerException, OSError):  # no engine, or a container uses one
        client = connect()
        for tag in {image_tag(image, target, device) for target in get_args(Target) for device in get_args(DeviceKind)}:
            with contextlib.suppress(docker.errors.ImageNotFound):
                client.images.remove(tag)
    shutil.rmtree(image.folder)
    return freed


def show(
    model: Annotated[
        list[str] | None, typer.Option(help="A model's folder under --models, with its artifacts. May be repeated.")
    ] = None,
    engine_version: Annotated[
        list[str] | None,
        typer.Option(help="An image that was made for one version of an engine, as vllm-v0_33_0. May be repeated."),
    ] = None,
    models: Annotated[Path, typer.Option(help="Folder of models and artifacts.")] = Path("models"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what can be removed and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove images that newer builds have replaced, environments of old requirements, and what is named."""
    found = look(models)
    chosen = _named(model, found.models, "prepared model", f" in {models}")
    versions = _named(engine_version, found.versions, "image of an engine's version")
    for name, folder in found.models.items():
        kept = "" if name in chosen else f", stays; --model {name} removes it"
        typer.echo(printable(f"model {name}: {readable(taken_bytes(folder))}{kept}"))
    for name, image in found.versions.items():
        kept = "" if name in versions else f", stays; --engine-version {name} removes it"
        taken = sum(taken_bytes(path) for path in environments_of(image) if path.is_dir())
        typer.echo(printable(f"{image.manifest.title}: {readable(taken)} of environments{kept}"))
    for path in found.environments:
        typer.echo(f"environment {path.name}: {readable(taken_bytes(path))}")
    if found.no_engine:
        typer.echo(printable(f"images: not looked for: {found.no_engine}"))
    else:
        typer.echo(f"images that a newer build has replaced: {len(found.images)}")
    if dry_run or not (chosen or versions or found.environments or found.images):
        return
    if not yes and not typer.confirm("remove these?", default=False):
        raise typer.Exit(EXIT_INTERRUPTED)
    freed = remove_environments(found.environments) + sum(map(remove_model, chosen.values()))
    freed += sum(map(remove_version, versions.values()))
    if found.images:
        pruned = connect().images.prune(filters={"dangling": True, "label": CONTEXT_LABEL})
        freed += int(pruned.get("SpaceReclaimed") or 0)
    typer.echo(f"{readable(freed)} given back")


T = TypeVar("T")


def _named(words: Iterable[str] | None, known: Mapping[str, T], what: str, where: str = "") -> dict[str, T]:
    for name in words or []:
        if name not in known:
            raise BadInput(f"there is no {what} {name!r}{where}", nearest(name, known) if known else "none is there")
    return {name: known[name] for name in words or []}


def main(prog_name: str = "python -m bench_core.drive.prune") -> None:
    """Runs the command line; a misuse is a line of cause, a line of hint, and exit code 2."""
    run_command(show, prog_name)


if __name__ == "__main__":
    main()
