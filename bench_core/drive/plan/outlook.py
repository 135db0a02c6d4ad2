"""What stands between a plan and its measurement, looked up before anything is written, and told in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.asked.scenario import Offline, Scenario
from bench_core.contract.records.artifact import digest_of_converter, usable_artifact
from bench_core.contract.records.prompt_source import PromptSource
from bench_core.contract.records.run import AgainCell, GpuInfo
from bench_core.contract.records.workload import order_words
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.launcher_choice import Choice
from bench_core.drive.plan.estimate import conversion_bytes
from bench_core.drive.plan.plan import Job, Plan
from bench_core.prepare.disk import readable, require_free
from bench_core.prepare.models.given_artifact import GivenPlan, plan_given
from bench_core.prepare.models.model import ModelPlan
from bench_core.report.format import quantity


@dataclass(frozen=True)
class Outlook:
    """What has to be fetched and made.

    Attributes:
        makers: every artifact to be read that is converted, and the job of the image that makes it.
        to_convert: those of them that are missing or damaged.
        given: every artifact to be read that is from elsewhere.
        weights_bytes: of the stored model, as far as that is known; 0 where only the hub knows.
        prompts_are: which part of the dataset the prompts are; ``None`` where only the hub knows.
    """

    model: ModelPlan
    makers: Mapping[str, Job]
    to_convert: tuple[str, ...]
    given: tuple[GivenPlan, ...]
    weights_bytes: int
    prompts_are: PromptSource | None

    @property
    def downloads(self) -> tuple[str, ...]:
        """What comes from the hub, by name."""
        given = [f"{plan.artifact} ({plan.source})" for plan in self.given if plan.action == "download"]
        return (*([self.model.name] if self.model.action == "download" else []), *given)

    @property
    def conversion_bytes(self) -> int:
        """Disk that the conversions may need at most."""
        return conversion_bytes(self.to_convert, self.weights_bytes)

    def require_disk(self, models: Path) -> None:
        """Refuses what cannot be finished, as far as sizes are known.

        Raises:
            BadInput: not enough room.
        """
        given = sum(plan.bytes_expected or 0 for plan in self.given)
        what = ["the model"]
        what += [f"its conversion to {', '.join(self.to_convert)}"] if self.to_convert else []
        what += [f"the artifact {plan.artifact}" for plan in self.given if plan.bytes_expected]
        require_free(models, (self.model.bytes_expected or 0) + self.conversion_bytes + given, " and ".join(what))


def look_ahead(
    suite: Suite,
    plan: Plan,
    model: ModelPlan,
    makers: Mapping[str, Job],
    models: Path,
    prompts_are: PromptSource | None,
) -> Outlook:
    """Looks at what is under ``models/`` and at the sources named, without a network.

    Raises:
        BadInput: a source of an artifact cannot be used.
    """
    given = {name: source for name, source in suite.artifacts.items() if name in plan.artifacts}
    return Outlook(
        model=model,
        makers=makers,
        to_convert=tuple(name for name, maker in makers.items() if _missing(name, maker, model, models)),
        given=tuple(plan_given(name, source, model.model, models) for name, source in given.items()),
        weights_bytes=_weights_bytes(suite, model),
        prompts_are=prompts_are,
    )


def _missing(artifact: str, maker: Job, plan: ModelPlan, models: Path) -> bool:
    if plan.model is None:
        return True
    folder = models / plan.model.folder / artifact
    return usable_artifact(folder, plan.model.digest, digest_of_converter(maker.image.folder)) is None


def _not_yet_known(suite: Suite) -> str:
    column = f"column {suite.text_column!r}" if suite.text_column else "a column that is found and named"
    return f"{column} when the dataset is fetched from the hub"


def _weights_bytes(suite: Suite, plan: ModelPlan) -> int:
    if plan.model is not None:
        return plan.model.weights_bytes
    if plan.action == "link":
        return sum(path.stat().st_size for path in Path(suite.model).glob("*.safetensors"))
    return plan.bytes_expected or 0


def plan_words(
    suite: Suite,
    plan: Plan,
    outlook: Outlook,
    choice: Choice,
    gpus: list[GpuInfo],
    resumed: str | None,
    again: Iterable[AgainCell] = (),
) -> list[str]:
    """The plan in lines: cells, what will be fetched and converted."""
    cells = quantity(len(plan.to_measure), "cell")
    if plan.jobs:
        cells += ": " + ", ".join(f"{job.title} x {_sizes(job)}" for job in plan.jobs)
    lines = [
        cells,
        f"on {', '.join(gpu.name for gpu in gpus) or 'the CPU'}, launched as {choice.words}",
        *([f"each model over {suite.gpus_per_cell} GPUs"] if suite.gpus_per_cell > 1 else []),
        f"model {suite.model}: {_action(outlook.model)}",
        f"prompts: {suite.dataset}, {suite.samples or 'all'}, {order_words(suite.shuffle_seed)}; "
        f"{suite.max_new_tokens} new tokens, {suite.length}",
        f"prompts are {outlook.prompts_are.words if outlook.prompts_are else _not_yet_known(suite)}",
        "to convert: "
        + (", ".join(outlook.to_convert) or "nothing")
        + (f", {readable(outlook.conversion_bytes)} of disk at most" if outlook.to_convert else ""),
    ]
    if resumed is not None:
        kept = sum(cell.cell in plan.kept for cell in plan.cells)
        lines.insert(0, f"resumes {resumed}: {kept} of {len(plan.cells)} cells asked for are complete and kept")
        lines[1:1] = [f"measured again: {one.cell} ({one.why})" for one in again if one.cell in plan.to_measure]
    if plan.devices > 1:
        lines.append(f"side by side: {plan.devices} launches at a time, each on a device of its own, the longest first")
    if plan.controls:
        everywhere = f", on each of {plan.devices} devices" if plan.devices > 1 else ""
        lines.append(f"control: {', '.join(plan.controls[0].cells)}, measured first{everywhere}")
    if plan.alone:
        sample = ", ".join(cell for job, _ in plan.alone for cell in job.cells)
        lines.append(f"again at the end with nothing beside it: {sample}")
    if plan.own_error:
        words = ", ".join(f"{job.title} x {_sizes(job)}" for job in plan.own_error)
        lines.append(f"the suite's own error: {words}, measured before the cells")
    if suite.find_max_batch:
        limit = f"{suite.max_batch_limit}" if suite.max_batch_limit else "the number of prompts"
        lines.append(f"then the largest batch size that fits, at most {limit}: {', '.join(suite.find_max_batch)}")
    lines += [f"artifact {given.artifact} from {given.source}: {_brought(given)}" for given in outlook.given]
    return lines + [f"left out: {reason}" for reason in plan.left_out]


def _sizes(job: Job) -> str:
    sizes = "{" + ",".join(_size_of(scenario) for scenario in job.scenarios) + "}"
    return sizes if job.repeat == 1 else f"{sizes} (repeat {job.repeat})"


def _size_of(scenario: Scenario) -> str:
    return str(scenario.batch_size) if isinstance(scenario, Offline) else scenario.word


def _action(plan: ModelPlan) -> str:
    words = {
        "present": "present",
        "link": "to be linked",
        "generate": "to be generated",
        "download": "to be downloaded",
    }
    return words[plan.action] + _size(plan.bytes_expected) + (f" ({plan.remark})" if plan.remark else "")


def _brought(plan: GivenPlan) -> str:
    words = {"present": "present", "link": "to be linked", "download": "to be downloaded"}
    return words[plan.action] + _size(plan.bytes_expected)


def _size(size_bytes: int | None) -> str:
    return f", {readable(size_bytes)}" if size_bytes else ""
