"""Building the suite's Docker images from this repository, each only when what it is made of has changed."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import docker
import docker.errors
from docker.models.images import Image as DockerImage

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import BadInput, MayPass, first_line
from bench_core.contract.records.digest import files_below
from bench_core.contract.records.run import ImageInfo
from bench_core.drive.launch.containers.pulse import Pulse, followed, patience_s
from bench_core.drive.launch.launcher import Target
from bench_core.drive.launch.processes.pip_words import explain
from bench_core.drive.launch.processes.wheels import package_source
from bench_core.drive.plan.builds import Build, BuildBegins, BuildLog
from bench_core.drive.plan.catalogue import REPOSITORY, Image
from bench_core.drive.plan.recipe import recipe_of

Tell = Callable[[str], None]

_DEBIAN = "debian:bookworm-slim"


@dataclass(frozen=True)
class System:
    """An operating system below a base: a public image, unless the environment names another."""

    public: str
    variable: str


# Bases that docker/base.Dockerfile makes, each on an operating system of its own; all others stand on `base`.
# python311 has Debian 12's Python in both flavours, for engines that came to a stop there: they bring CUDA's libraries
# of their time in wheels.
SYSTEMS: dict[str, dict[DeviceKind, System]] = {
    "base": {
        "cuda": System("nvidia/cuda:13.0.2-runtime-ubuntu24.04", "BENCH_CUDA_BASE_IMAGE"),
        "cpu": System(_DEBIAN, "BENCH_CPU_BASE_IMAGE"),
    },
    "python311": {
        "cuda": System(_DEBIAN, "BENCH_PYTHON311_BASE_IMAGE"),
        "cpu": System(_DEBIAN, "BENCH_PYTHON311_BASE_IMAGE"),
    },
}
LOCAL_OPERATING_SYSTEM = "llm-bench/os:cpu"  # Debian 12, made by docker/local-os.sh where no image can be pulled
CONTEXT_LABEL = "llm-bench.context"
_LINES_KEPT = 200  # of a build, for saying why it failed
_CACHED = "---> Using cache"  # a step that an earlier build has done
_ARGUMENT = re.compile(r"^ARG\s+(\w+)", re.MULTILINE)


def tag_of(name: str, flavour: DeviceKind) -> str:
    """``llm-bench/<name>:<flavour>``."""
    return f"llm-bench/{name}:{flavour}"


def base_dockerfile(name: str) -> str:
    """The Dockerfile that makes a base."""
    return f"docker/{'base' if name in SYSTEMS else name}.Dockerfile"


def image_tag(image: Image, target: Target, flavour: DeviceKind) -> str:
    """The tag of an image's target."""
    return tag_of(image.name + ("-convert" if target == "convert" and image.manifest.convert_target else ""), flavour)


@dataclass(frozen=True)
class _Order:
    """What one build makes: ``below`` is the image that it stands on, ``stage`` a target of the Dockerfile."""

    build: Build
    tag: str
    dockerfile: str
    context: str
    below: str
    stage: str | None = None


class ImageBuilder:
    """Builds and finds images through one Docker client."""

    def __init__(self, client: docker.DockerClient, log: BuildLog | None = None) -> None:
        self._client = client
        self._log = log or BuildLog()
        self._ids: dict[str, str] = {}

    def named(self, tag: str) -> str:
        """The id of the image that was built or found under a tag; the tag, where none was. Another checkout's build
        gives the tag to an image of its own, in the middle of a run."""
        return self._ids.get(tag, tag)

    def operating_system(self, flavour: DeviceKind, base: str = "base") -> str:
        """The image below a base: the environment's, else a locally made Debian for Debian, else the public one."""
        system = SYSTEMS[base][flavour]
        named = os.environ.get(system.variable)
        if named:
            return named
        if system.public == _DEBIAN and self._find(LOCAL_OPERATING_SYSTEM) is not None:
            return LOCAL_OPERATING_SYSTEM
        return system.public

    def is_current(self, image: Image, target: Target, flavour: DeviceKind) -> bool:
        """Whether the image is there and made of what the repository holds now."""
        if not self._base_is_current(image.manifest.base, flavour):
            return False
        return self._made_of(image_tag(image, target, flavour), self._image_context(image, target, flavour)) is not None

    def builds(self, image: Image, target: Target, flavour: DeviceKind) -> list[Build]:
        """What :meth:`ensure` would build, in order; nothing where the image is current."""
        if self.is_current(image, target, flavour):
            return []
        names = [image.manifest.base]
        names += ["torch"] if target == "convert" and image.manifest.convert_target else []
        own = _build(
            image_tag(image, target, flavour),
            f"{image.place}/Dockerfile",
            _pinned(image),
            _like(image, target, flavour),
        )
        return [*self._stale_bases(names, flavour), own]

    def service_builds(self, name: str, flavour: DeviceKind) -> list[Build]:
        """What :meth:`ensure_service` would build, in order."""
        if self.service_is_current(name, flavour):
            return []
        own = _build(tag_of(name, flavour), f"docker/{name}.Dockerfile", _service_files(name))
        return [*self._stale_bases(["base"], flavour), own]

    def _stale_bases(self, names: Iterable[str], flavour: DeviceKind) -> list[Build]:
        chain = dict.fromkeys(base for name in names for base in _chain(name))
        stale = [base for base in chain if not self._base_is_current(base, flavour)]
        return [_build(tag_of(base, flavour), base_dockerfile(base), _base_files(base, flavour)) for base in stale]

    def ensure(self, image: Image, target: Target, flavour: DeviceKind, tell: Tell) -> ImageInfo:
        """Builds the image and the bases below it where they are not current.

        Raises:
            BadInput: a build fails; the cause is its last line.
        """
        self._ensure_base(image.manifest.base, flavour, tell)
        if target == "convert" and image.manifest.convert_target:
            self._ensure_base("torch", flavour, tell)
        tag = image_tag(image, target, flavour)
        context = self._image_context(image, target, flavour)
        arguments = {"BASE_IMAGE": tag_of(image.manifest.base, flavour), "TORCH_IMAGE": tag_of("torch", flavour)}
        arguments |= self._build_image(flavour)
        stage = target if image.manifest.convert_target else "measure"
        dockerfile = f"{image.place}/Dockerfile"
        below = "torch" if target == "convert" and image.manifest.convert_target else image.manifest.base
        order = _Order(_build(tag, dockerfile, _pinned(image)), tag, dockerfile, context, tag_of(below, flavour), stage)
        built = self._build_if_needed(order, flavour, arguments, tell)
        self._ids[tag] = str(built.id)
        recipe, notes = self.recipe(image, flavour), image.manifest.notes
        return ImageInfo(reference=tag, id=self._ids[tag], recipe=recipe, notes=notes)

    def recipe(self, image: Image, flavour: DeviceKind) -> str:
        """Digest of the files that the image and its bases are built of, and the name of what lies below them.

        Unlike the label of a built image it holds no id of this machine, and not the suite's own code.
        """
        bases = _chain(image.manifest.base)
        names = [*image.file_places, *(base_dockerfile(base) for base in bases)]
        names += [name for base in bases for name in _base_files(base, flavour)]
        words = {"flavour": flavour, "os": self.operating_system(flavour, bases[0]), **self._build_image(flavour)}
        return recipe_of([REPOSITORY / name for name in names], words)

    def _build_image(self, flavour: DeviceKind) -> dict[str, str]:
        """What compiles where an image compiles, as a build argument; nothing where the Dockerfile's own stands."""
        named = self.operating_system(flavour) if flavour == "cpu" else os.environ.get("BENCH_CUDA_BUILD_IMAGE")
        return {"BUILD_IMAGE": named} if named else {}

    def ensure_service(self, name: str, flavour: DeviceKind, tell: Tell) -> str:
        """Builds ``docker/<name>.Dockerfile`` on the base, with the room of that name; returns its tag."""
        self._ensure_base("base", flavour, tell)
        tag = tag_of(name, flavour)
        dockerfile = f"docker/{name}.Dockerfile"
        context = self._service_context(name, flavour)
        below = tag_of("base", flavour)
        order = _Order(_build(tag, dockerfile, _service_files(name)), tag, dockerfile, context, below)
        self._ids[tag] = str(self._build_if_needed(order, flavour, {"BASE_IMAGE": below}, tell).id)
        return tag

    def service_is_current(self, name: str, flavour: DeviceKind) -> bool:
        """Whether such an image is there and made of what the repository holds now."""
        if not self._base_is_current("base", flavour):
            return False
        return self._made_of(tag_of(name, flavour), self._service_context(name, flavour)) is not None

    def _service_context(self, name: str, flavour: DeviceKind) -> str:
        files = [f"bench_core/{part}" for part in ("__init__.py", "contract", "system", name)]
        files += _service_files(name)
        return self._digest(f"docker/{name}.Dockerfile", files, [tag_of("base", flavour)], {"flavour": flavour})

    def _ensure_base(self, name: str, flavour: DeviceKind, tell: Tell) -> None:
        if name not in SYSTEMS:
            self._ensure_base("base", flavour, tell)
        below = self._parent(name, flavour)
        dockerfile = base_dockerfile(name)
        if not (REPOSITORY / dockerfile).is_file():
            raise BadInput(f"there is no {dockerfile}", "image.yaml's base names a Dockerfile in docker/")
        tag, context = tag_of(name, flavour), self._base_context(name, flavour)
        order = _Order(_build(tag, dockerfile, _base_files(name, flavour)), tag, dockerfile, context, below)
        self._build_if_needed(order, flavour, {"BASE_IMAGE": below}, tell)

    def _base_is_current(self, name: str, flavour: DeviceKind) -> bool:
        if name not in SYSTEMS and not self._base_is_current("base", flavour):
            return False
        return self._made_of(tag_of(name, flavour), self._base_context(name, flavour)) is not None

    def _base_context(self, name: str, flavour: DeviceKind) -> str:
        parents = [self._parent(name, flavour)]
        return self._digest(base_dockerfile(name), _base_files(name, flavour), parents, {"flavour": flavour})

    def _parent(self, name: str, flavour: DeviceKind) -> str:
        return self.operating_system(flavour, name) if name in SYSTEMS else tag_of("base", flavour)

    def _image_context(self, image: Image, target: Target, flavour: DeviceKind) -> str:
        if not image.manifest.convert_target:  # one image for both, under one tag
            target = "measure"
        rooms = ("__init__.py", "contract", "system", "worker")
        files = [*(f"bench_core/{room}" for room in rooms), *image.file_places]
        parents = [tag_of(image.manifest.base, flavour)]
        if target == "convert":
            parents.append(tag_of("torch", flavour))
        extra = {"flavour": flavour, "target": target, "build": os.environ.get("BENCH_CUDA_BUILD_IMAGE", "")}
        return self._digest(f"{image.place}/Dockerfile", files, parents, extra)

    def _digest(self, dockerfile: str, files: Iterable[str], parents: list[str], extra: Mapping[str, str]) -> str:
        digest = hashlib.sha256()
        for name in [dockerfile, *sorted(files)]:
            for path in files_below(REPOSITORY / name):
                digest.update(path.relative_to(REPOSITORY).as_posix().encode() + b"\0")
                digest.update(path.read_bytes() + b"\0")
        for parent in parents:
            found = self._find(parent)
            digest.update(f"{found.id if found is not None else 'absent'}\n".encode())
        digest.update(repr(sorted(extra.items())).encode())
        return digest.hexdigest()

    def _find(self, tag: str) -> DockerImage | None:
        try:
            return self._client.images.get(tag)
        except docker.errors.ImageNotFound:
            return None

    def _build_if_needed(
        self, order: _Order, flavour: DeviceKind, arguments: Mapping[str, str], tell: Tell
    ) -> DockerImage:
        tag, dockerfile = order.tag, order.dockerfile
        if (found := self._made_of(order.tag, order.context)) is not None:
            return found
        declared = set(_ARGUMENT.findall((REPOSITORY / dockerfile).read_text(encoding="utf-8")))
        with package_source(tell) as packages:
            if (found := self._made_of(order.tag, order.context)) is not None:
                return found  # by another process, for which this one has waited
            tell(BuildBegins(f"building {tag}", order.build))
            started_s = time.monotonic()
            given = {"FLAVOUR": flavour, **arguments, **packages.build_arguments}
            build = partial(
                self._client.api.build,
                path=str(REPOSITORY),
                dockerfile=dockerfile,
                tag=tag,
                target=order.stage or "",
                buildargs={name: value for name, value in given.items() if name in declared},
                labels={CONTEXT_LABEL: order.context},
                network_mode=packages.network,
                rm=True,
                forcerm=True,
                decode=True,
            )
            # A step may say nothing for an hour; an engine that does not answer beside it hangs.
            with Pulse(self._client.ping, patience_s()) as pulse:
                cached = self._watch(tag, followed(build, pulse.check), tell)
        built = self._find(tag)
        if built is None:
            raise BadInput(f"{tag} was built but is not there", "is another build of it running?")
        below = self._find(order.below)
        size_bytes = _size(built) - (_size(below) if below is not None else 0)
        self._log.keep(order.build, size_bytes, time.monotonic() - started_s, cached=cached)
        return built

    def _made_of(self, tag: str, context: str) -> DockerImage | None:
        """The image of a tag, where it was built from what has this digest."""
        found = self._find(tag)
        return found if found is not None and found.labels.get(CONTEXT_LABEL) == context else None

    def _watch(self, tag: str, output: Iterable[dict[str, Any]], tell: Tell) -> bool:
        """Follows a build to its end; whether some of its steps had been done before."""
        lines: deque[str] = deque(maxlen=_LINES_KEPT)
        cached = False
        try:
            for message in output:
                if "error" in message:
                    cause = " ".join(str(message["error"]).split())
                    raise explain(f"{tag} could not be built", [*lines, cause], _build_hint("\n".join([*lines, cause])))
                for line in str(message.get("stream", "")).splitlines():
                    text = line.strip()
                    cached |= text == _CACHED
                    if text:
                        tell(f"{tag}: {text[:160]}")
                        lines.append(text)
        except docker.errors.APIError as error:
            raise BadInput(
                f"{tag} could not be built: {error.explanation or error}", _build_hint(str(error))
            ) from error
        except OSError as error:  # the connection to the engine has broken
            raise MayPass(
                f"{tag} could not be built: {first_line(error)}", "does the Docker engine still run?"
            ) from error
        return cached


def _build(tag: str, dockerfile: str, files: Iterable[str], instead: tuple[str, ...] = ()) -> Build:
    """A build under the name of its tag; ``files`` say what it installs."""
    return Build(tag.partition("/")[2], recipe_of([REPOSITORY / name for name in (dockerfile, *files)], {}), instead)


def _like(image: Image, target: Target, flavour: DeviceKind) -> tuple[str, ...]:
    """Of an image that was made for a version: the build that it is like."""
    if image.version is None:
        return ()
    own = image_tag(image, target, flavour).partition("/")[2]
    return (own.replace(image.name, image.engine, 1),)


def _pinned(image: Image) -> list[str]:
    """Of an image's folder: the files that say what it installs."""
    return [f"{image.place}/{path.name}" for path in sorted(image.folder.glob("*.txt"))]


def _service_files(name: str) -> list[str]:
    requirements = f"docker/requirements.{name}.txt"
    return [requirements] if (REPOSITORY / requirements).is_file() else []


def _size(image: DockerImage) -> int:
    return int(image.attrs.get("Size") or 0)


def _chain(base: str) -> list[str]:
    """A base and what it stands on, the lowest first."""
    return [base] if base in SYSTEMS else ["base", base]


def _base_files(name: str, flavour: DeviceKind) -> list[str]:
    """What a base's Dockerfile copies."""
    shared = ["docker/constraints.txt"]
    if name in SYSTEMS:
        return [*shared, "docker/requirements.base.txt", "docker/as-owner.sh"]
    return [*shared, f"docker/requirements.{name}.{flavour}.txt"]


def _build_hint(text: str) -> str:
    if "pull access denied" in text or "lookup" in text or "manifest unknown" in text or "registry" in text.lower():
        return (
            "the public base image cannot be pulled: name another by BENCH_CPU_BASE_IMAGE, BENCH_CUDA_BASE_IMAGE or "
            "BENCH_PYTHON311_BASE_IMAGE, or make a Debian with docker/local-os.sh"
        )
    return "the build's own output stands above; --json or a log file keeps all of it"
