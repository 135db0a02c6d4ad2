"""A Docker engine's images by what they hold: named, taken from a registry, or from a file of another engine's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors

from bench_core.contract.errors import MachineFailure, first_line
from bench_core.drive.launch.containers.endpoint import connect
from bench_core.system.files import remove


class ImageShelf:
    """The images of this host's engine."""

    def __init__(self, client: docker.DockerClient | None = None) -> None:
        """
        Raises:
            BadInput: none answers.
        """
        self._client = client or connect()

    def identity(self, tag: str) -> str | None:
        """What an image of that name holds: the digests of its layers and what it runs, in one word; ``None`` where
        there is none. Engines number the same image differently, so that its id would not do."""
        try:
            attributes = self._client.images.get(tag).attrs
        except docker.errors.ImageNotFound:
            return None
        layers = ",".join((attributes.get("RootFS") or {}).get("Layers") or ())
        labels = sorted(((attributes.get("Config") or {}).get("Labels") or {}).items())
        return f"{layers} {labels}"

    def save(self, tag: str) -> Iterator[bytes]:
        """The image as ``docker save`` writes it, in pieces."""
        return iter(self._client.images.get(tag).save(named=True))

    def push(self, tag: str, reference: str) -> str:
        """To a registry; why not, in one line, or nothing."""
        try:
            self._client.images.get(tag).tag(reference)
            for said in self._client.api.push(reference, stream=True, decode=True):
                if "error" in said:
                    return str(said["error"])
        except (docker.errors.DockerException, OSError) as error:
            return first_line(error)
        finally:
            with contextlib.suppress(docker.errors.DockerException, OSError):
                self._client.api.remove_image(reference, noprune=True)  # the name, of which there is another
        return ""

    def pull(self, reference: str, tag: str, identity: str) -> str:
        """From a registry, under the suite's own name; why not, in one line, or nothing."""
        why = f"{reference} is another image than the driver's"
        try:
            name, _, version = reference.rpartition(":")
            self._client.images.pull(name, tag=version).tag(tag)
            self._client.api.remove_image(reference, noprune=True)
        except (docker.errors.DockerException, OSError) as error:
            why = first_line(error)  # also where another node on this engine was quicker: it took that name away
        return "" if self.identity(tag) == identity else why

    def load(self, path: Path, tag: str, identity: str) -> None:
        """From a file.

        Raises:
            MachineFailure: the engine does not take it, or it is another image.
        """
        try:
            with path.open("rb") as stream:
                self._client.images.load(stream)  # a file goes in pieces, bytes at once
        except (docker.errors.DockerException, OSError) as error:
            raise MachineFailure(f"{tag} was not loaded: {first_line(error)}", "is there room for it?") from error
        finally:
            remove(path) if path.is_symlink() else path.unlink(missing_ok=True)
        if self.identity(tag) != identity:
            raise MachineFailure(f"{tag} was loaded and is another image than the driver's", "")
