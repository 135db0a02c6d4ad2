"""What the launches of a run need on every node, and which parcels hold it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench_core.contract.errors import MachineFailure
from bench_core.contract.records.digest import text_sha256
from bench_core.drive.cluster.images import ImageShelf
from bench_core.drive.cluster.parcels import Carrier, Parcel, data_parcel, image_parcel, model_parcel
from bench_core.drive.cluster.records import Terms
from bench_core.drive.fleet.executor import Task
from bench_core.drive.launch.containers.build import image_tag, tag_of
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.plan import Job


class Supply:
    """Of one run.

    Attributes:
        leave_out: told of a node that something could not be brought to, and why.
    """

    def __init__(
        self, carrier: Carrier, terms: Terms, nodes: Sequence[str], data: Path, tell: Callable[[str], None]
    ) -> None:
        self._carrier = carrier
        self._terms = terms
        self._nodes = list(nodes)
        self._data = data
        self._tell = tell
        self._prepared: Prepared | None = None
        self._models: dict[str, str] = {}
        self._images: dict[str, str] = {}
        self._known: dict[tuple[str, ...], str] = {}
        self.leave_out: Callable[[str, str], None] = lambda _node, _why: None

    def provide(self, jobs: Sequence[Job], prepared: Prepared) -> None:
        """Images or environments, then model and artifacts.

        Raises:
            MachineFailure: no node could be provided with them.
        """
        self._prepared = prepared
        client = any(job.served for job in jobs)
        if self._terms.launcher == "docker":
            tags = [image_tag(job.image, "measure", self._terms.device) for job in jobs]
            tags += [tag_of("client", self._terms.device)] if client else []
            for tag in dict.fromkeys(tags):
                self._image(tag)
        else:
            names = list(dict.fromkeys(job.image.name for job in jobs))
            failed: dict[str, str] = {}
            terms = self._terms.to_json()
            self._carrier.ask(self._nodes, lambda porter: porter.install.remote(terms, names, client=client), failed)
            self._without(failed)
        for artifact in dict.fromkeys(job.artifact for job in jobs):
            self._model(artifact, prepared)

    def keys_of(self, task: Task) -> tuple[str, str]:
        """The parcels of a launch; sent where that has not been done.

        Raises:
            MachineFailure: to no node.
        """
        assert self._prepared is not None  # noqa: S101  # nothing is launched before
        artifact = task.launch.folders.artifact
        if artifact not in self._models:
            self._model(artifact, self._prepared)
        names = (task.assignment.workload, *task.assignment.schedules.values())
        if names not in self._known:
            parcel = data_parcel(self._data, names)
            self._carry(parcel)
            self._known[names] = parcel.key
        return self._models[artifact], self._known[names]

    def images_of(self, task: Task) -> dict[str, str]:
        """What the images of a launch's containers held when they were brought to the nodes."""
        tags = [image_tag(task.launch.image, "measure", self._terms.device)]
        tags += [tag_of("client", self._terms.device)] if task.launch.client_processes else []
        return {tag: self._images[tag] for tag in tags if tag in self._images}

    def _model(self, artifact: str, prepared: Prepared) -> None:
        parcel = model_parcel(prepared, artifact)
        self._carry(parcel)
        self._models[artifact] = parcel.key

    def _carry(self, parcel: Parcel) -> None:
        self._without(self._carrier.carry(parcel, self._nodes))

    def _image(self, tag: str) -> None:
        """From the registry where there is one; where that fails, and elsewhere, through the object store."""
        shelf = ImageShelf()
        identity = shelf.identity(tag)
        if identity is None:  # it could not be built, which is told elsewhere
            return
        self._images[tag] = identity
        failed: dict[str, str] = {}
        here = self._carrier.ask(self._nodes, lambda porter: porter.image_is_here.remote(tag, identity), failed)
        missing = [node for node, there in here.items() if not there]
        if missing and self._terms.registry:
            missing = self._through_registry(shelf, tag, identity, missing, failed)
        if missing:
            self._through_store(shelf, tag, identity, missing, failed)
        self._without(failed)

    def _through_registry(
        self, shelf: ImageShelf, tag: str, identity: str, missing: list[str], failed: dict[str, str]
    ) -> list[str]:
        """The nodes that still lack it."""
        reference = f"{self._terms.registry}/{tag}-{text_sha256(identity)[:12]}"
        self._tell(f"pushing {tag} to {reference}")
        refused = shelf.push(tag, reference)
        if refused:
            self._tell(f"{reference}: the registry refuses it ({refused}); {tag} goes through Ray's object store")
            return missing
        answers = self._carrier.ask(missing, lambda porter: porter.pull_image.remote(reference, tag, identity), failed)
        for node, why in answers.items():
            if why:
                self._tell(f"{node}: {reference} cannot be pulled ({why}); it goes through Ray's object store")
        return [node for node, why in answers.items() if why]

    def _through_store(
        self, shelf: ImageShelf, tag: str, identity: str, missing: list[str], failed: dict[str, str]
    ) -> None:
        with tempfile.TemporaryDirectory(prefix=".image-", dir=self._data) as folder:
            saved = Path(folder) / "image.tar"
            with saved.open("wb") as stream:
                for piece in shelf.save(tag):
                    stream.write(piece)
            parcel = image_parcel(tag, saved)
            failed |= self._carrier.carry(parcel, missing)
        there = [node for node in missing if node not in failed]
        self._carrier.ask(there, lambda porter: porter.load_image.remote(parcel.key, tag, identity), failed)

    def _without(self, failed: dict[str, str]) -> None:
        """Goes on without these nodes.

        Raises:
            MachineFailure: none is left.
        """
        for node, why in failed.items():
            if node in self._nodes:
                self._nodes.remove(node)
                self._tell(f"{node} is not used: {why}")
                self.leave_out(node, why)
        if not self._nodes:
            why = "; ".join(f"{node}: {cause}" for node, cause in failed.items())
            raise MachineFailure(f"no node is left: {why}", "mend that, then --resume the run")
