"""Writes compose.yaml, its overlay for CPUs, the builders' files and the README's table of engines from the image.yaml
files, so that a new image is its own folder and nothing else. ``make compose``."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import yaml

from bench_core.contract.asked.manifest import DeviceKind, Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.drive.images import embedded
from bench_core.drive.launch.containers.build import SYSTEMS, base_dockerfile, image_tag, tag_of
from bench_core.drive.launch.launcher import Target
from bench_core.drive.plan.catalogue import REPOSITORY, Catalogue, Image

FOLDER = Path(__file__).resolve().parent
COMPOSE_FILES = ("compose.yaml", "compose.cpu.yaml", "docker/compose.builder-0.yaml", "docker/compose.builder-1.yaml")
README = "README.md"
COLOURS = "bench_core/report/figures/colours.json"
FLAVOURS: tuple[DeviceKind, ...] = ("cuda", "cpu")
_ARGUMENT = re.compile(r"^ARG\s+(\w+)(?:=(\S+))?", re.MULTILINE)


@dataclass(frozen=True)
class Service:
    """A service of compose.yaml that the image.yaml files ask for."""

    name: str
    role: str  # the anchor that it takes everything else from
    tags: dict[DeviceKind, str]
    dockerfile: str
    target: str
    stands_on: str | None  # the base whose build comes before; none for what stands on an operating system
    arguments: dict[DeviceKind, dict[str, str]]
    after: tuple[str, ...]  # services that end well before it starts
    takes_pip: bool  # pip's own variables
    on_cpu: bool = True
    beside: str = ""  # the service whose network namespace it shares, and that has begun before

    @property
    def key(self) -> str:
        """The name as YAML writes it: ``null`` alone would be no text."""
        return self.name if yaml.safe_load(self.name) == self.name else json.dumps(self.name)

    @property
    def chain(self) -> list[str]:
        """Of a base: what is built for it, the lowest first."""
        return [*([self.stands_on] if self.stands_on else []), self.name]


def _declared(dockerfile: Path) -> dict[str, str]:
    """The arguments of a Dockerfile with the first default of each."""
    found: dict[str, str] = {}
    for name, default in _ARGUMENT.findall(dockerfile.read_text(encoding="utf-8")):
        found.setdefault(name, default)
    return found


def _arguments(declared: dict[str, str], base: str) -> dict[DeviceKind, dict[str, str]]:
    """What a Dockerfile is told in either flavour, as the driver tells it."""
    host = SYSTEMS["base"]["cpu"]
    builds_on = {
        "cuda": f"${{BENCH_CUDA_BUILD_IMAGE:-{declared.get('BUILD_IMAGE')}}}",
        "cpu": f"${{{host.variable}:-{host.public}}}",
    }
    told: dict[DeviceKind, dict[str, str]] = {}
    for flavour in FLAVOURS:
        given = {
            "FLAVOUR": flavour,
            "BASE_IMAGE": tag_of(base, flavour),
            "TORCH_IMAGE": tag_of("torch", flavour),
            "BUILD_IMAGE": builds_on[flavour],
        }
        told[flavour] = {name: value for name, value in given.items() if name in declared}
    return told


def _makers(catalogue: Catalogue, manifest: Manifest) -> set[str]:
    """Images whose converter makes what an image's default variants read."""
    defaults = {manifest.variants[manifest.default_variant(device)].artifact for device in manifest.devices}
    return {catalogue.maker_of(name).name for name in defaults - {layout.NO_ARTIFACT, layout.HF_ARTIFACT}}


def _of_image(image: Image, target: Target, makers: set[str]) -> Service:
    """The service that measures, or the one that makes an image's artifacts: in its target for that, or in the image
    that measures."""
    manifest, declared = image.manifest, _declared(image.folder / "Dockerfile")
    apart = target == "convert" and manifest.convert_target
    # Without a target of its own for converting, torch can only be what the image compiles beside.
    compiles = "TORCH_IMAGE" in declared and not manifest.convert_target
    stands_on = "torch" if apart or (compiles and manifest.base == "base") else manifest.base
    prepared = [f"{maker}-artifacts" for maker in sorted(makers)] or ["prepare"]
    return Service(
        name=image.name if target == "measure" else f"{image.name}-artifacts",
        role="engine" if target == "measure" else "artifacts",
        tags={flavour: image_tag(image, target, flavour) for flavour in FLAVOURS},
        dockerfile=f"images/{image.name}/Dockerfile",
        target="convert" if apart else "measure",
        stands_on=stands_on,
        arguments=_arguments(declared, manifest.base),
        after=(*prepared, *([] if stands_on == "base" else [stands_on])),
        on_cpu="cpu" in manifest.devices,
        takes_pip="PIP_FIND_LINKS" in declared,
    )


def _serving(image: Image, engine: Service, repository: Path) -> list[Service]:
    """Of an image with a server: the service that runs it, in the image that measures, and its client's."""
    if image.manifest.serve is None:
        return []
    on_cpu = bool(image.manifest.served_on("cpu"))
    server = replace(engine, name=f"{image.name}-server", role="server", on_cpu=on_cpu)
    client = replace(
        _base("client", repository),
        name=f"{image.name}-serve",
        role="client",
        after=("base",),
        on_cpu=on_cpu,
        beside=server.name,
    )
    return [server, client]


def _base(name: str, repository: Path) -> Service:
    dockerfile = base_dockerfile(name)
    declared = _declared(repository / dockerfile)
    arguments = _arguments(declared, "base")
    for flavour, system in SYSTEMS.get(name, {}).items():
        arguments[flavour]["BASE_IMAGE"] = f"${{{system.variable}:-{system.public}}}"
    return Service(
        name=name,
        role="base",
        tags={flavour: tag_of(name, flavour) for flavour in FLAVOURS},
        dockerfile=dockerfile,
        target="",
        stands_on=None if name in SYSTEMS else "base",
        arguments=arguments,
        after=() if name in SYSTEMS else ("base",),
        takes_pip="PIP_FIND_LINKS" in declared,
    )


def services(catalogue: Catalogue, repository: Path) -> tuple[list[Service], list[Service]]:
    """What images ask for (their engines and converters) and the bases below them.

    Raises:
        BadInput: no image makes what a default variant reads, or two services would have one name.
    """
    images = [catalogue.get(name) for name in catalogue.names]
    makers = {image.name: _makers(catalogue, image.manifest) for image in images}
    converting = set().union(*makers.values())
    found = []
    for image in images:
        found.append(_of_image(image, "measure", makers[image.name]))
        found += _serving(image, found[-1], repository)
        if image.name in converting:
            found.append(_of_image(image, "convert", set()))
    names = ["base", "torch", *sorted({image.manifest.base for image in images} - {"base", "torch"})]
    taken = [*names, "prepare", *(service.name for service in found)]
    for name in taken:
        if taken.count(name) > 1:
            raise BadInput(f"two services of compose.yaml would be called {name}", f"rename images/{name}")
    return found, [_base(name, repository) for name in names]


def _arguments_text(service: Service, flavour: DeviceKind) -> str:
    """Build arguments as a YAML mapping in one line; pip's own are there once, in compose.yaml."""
    parts = [f'{name}: "{value}"' if "$" in value else f"{name}: {value}" for name, value in
             service.arguments[flavour].items()]  # fmt: skip
    if flavour == "cuda" and service.takes_pip:
        parts.insert(0, "<<: *pip")
    return f"{{{', '.join(parts)}}}"


def _after_text(service: Service) -> str:
    words = [f"{name}: *done" for name in service.after] + [f"{service.beside}: *begun"] * bool(service.beside)
    return f"{{{', '.join(words)}}}"


def colours_text(catalogue: Catalogue) -> str:
    """Each engine's colour in figures, for the report, which reads no image: the same in every run.

    Raises:
        BadInput: two engines have one colour.
    """
    found = {name: catalogue.get(name).manifest.colour for name in catalogue.names}
    told = {name: colour for name, colour in found.items() if colour}
    for colour in told.values():
        same = [name for name, other in told.items() if other == colour]
        if len(same) > 1:
            raise BadInput(f"{' and '.join(same)} have the same colour, {colour}", "choose another in one image.yaml")
    return json.dumps(told, indent=2) + "\n"


def written(repository: Path = REPOSITORY) -> dict[str, str]:
    """Every file that follows from the images of a repository: path below it to text.

    Raises:
        BadInput: an image.yaml is invalid, a default reads what no image makes, two services would have one name, or
            the README has no place for the table.
    """
    catalogue = Catalogue(repository / "images")
    found, bases = services(catalogue, repository)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=False,  # noqa: S701  # YAML, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    words = {"services": found, "bases": bases, "arguments": _arguments_text, "after": _after_text}
    texts = {name: environment.get_template(f"{Path(name).name}.jinja").render(words) for name in COMPOSE_FILES}
    texts[COLOURS] = colours_text(catalogue)
    texts[README] = embedded((repository / README).read_text(encoding="utf-8"), catalogue)
    return texts


if __name__ == "__main__":
    for name, text in written().items():
        (REPOSITORY / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{name}\n")
