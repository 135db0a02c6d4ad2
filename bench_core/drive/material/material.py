"""What cells are measured on: model, prompts and artifacts, looked at before anything is written, then made ready."""

from __future__ import annotations

from collections.abc import Set
from functools import partial

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.spec import require_end_of_text
from bench_core.contract.records.workload import Workload, require_fit
from bench_core.contract.serving.schedule import Schedule
from bench_core.drive.ask.request import Request
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.material.provide import Provision
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.outlook import Outlook, look_ahead
from bench_core.drive.plan.plan import Job, Plan
from bench_core.drive.plan.resume import Earlier
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.progress import Display
from bench_core.drive.search.trials import Site
from bench_core.prepare.models.given_artifact import prepare_given
from bench_core.prepare.models.model import ModelRequest, plan_model, prepare_model
from bench_core.prepare.prompts.loads import of_trace, with_shared_prefix
from bench_core.prepare.prompts.tokenizer import load_tokenizer
from bench_core.prepare.prompts.workload import WorkloadRequest, prepare_workload, put_workload, survey_workload

DEFAULT_MAX_PROMPT_TOKENS = 1024
MODEL_STEP = "model and prompts"
# Options that say what the prompts are; a suite file says all of them.
_OF_THE_PROMPTS = {
    "suite", "dataset", "split", "text_column", "samples", "sample_order", "sample_seed", "max_prompt_tokens",
    "trace", "shared_prefix_tokens",
}  # fmt: skip


class Material:
    """Of one call; ``given`` are the names of the options that stand on its command line."""

    def __init__(self, request: Request, given: Set[str], catalogue: Catalogue, earlier: Earlier | None) -> None:
        self._request = request
        self._given = given
        self._catalogue = catalogue
        self._earlier = earlier

    def checked(self, plan: Plan) -> Outlook:
        """Looks at model, dataset, artifacts and disk before anything is written.

        Raises:
            BadInput: something asked for cannot be had, or does not fit.
        """
        suite = self._request.suite
        model_plan = plan_model(self._model_request(), self._request.models)
        if model_plan.eos_token_ids is not None:
            require_end_of_text(suite.length, model_plan.eos_token_ids, model_plan.name)
        if self._earlier is not None and model_plan.model is not None:
            self._earlier.require_same_model(model_plan.model.digest)
        kept = self._kept_prompts
        found = None
        if kept is None:
            found = survey_workload(self._workload_request(suite.max_prompt_tokens or DEFAULT_MAX_PROMPT_TOKENS))
        prompts = len(kept.prompts) if kept is not None else found.prompts if found is not None else suite.samples
        if prompts is not None:
            _require_batches(plan, prompts)
        prompts_are = kept.prompt_source if kept is not None else found.source if found is not None else None
        outlook = look_ahead(suite, plan, model_plan, self.makers(plan), self._request.models, prompts_are)
        outlook.require_disk(self._request.models)
        return outlook

    def makers(self, plan: Plan) -> dict[str, Job]:
        """Artifact to be converted to the image that makes it, with a variant of that image for its device."""
        makers = {}
        for artifact in plan.artifacts:
            if artifact in self._request.suite.artifacts:
                continue
            image = self._catalogue.maker_of(artifact)
            makers[artifact] = Job(image, image.manifest.default_variant(plan.device), (Offline(batch_size=1),), {})
        return makers

    def ready(self, execution: Execution, plan: Plan, display: Display) -> Prepared:
        """Model, workload, and artifacts that are taken from elsewhere."""
        display.step(MODEL_STEP)
        prepared = execution.retries.run("model and workload", partial(self._prepare, plan, display))
        for artifact, source in self._request.suite.artifacts.items():
            if artifact in plan.artifacts:
                step = partial(prepare_given, artifact, source, prepared.model, self._request.models, display.note)
                execution.retries.run(f"artifact {artifact}", step)
        return prepared

    def provide(self, provision: Provision, plan: Plan, prepared: Prepared) -> list[Job]:
        """Images and artifacts; the jobs that can be launched with what there is then."""
        provision.install()
        provision.convert(prepared, self.makers(plan))
        return [job for job in plan.jobs if provision.unready(job) is None]

    def all_ready(self, execution: Execution, plan: Plan, site: Site) -> tuple[Provision, Prepared]:
        """Everything that a plan needs, or the first failure.

        Raises:
            BadInput: something cannot be had.
        """
        prepared = self.ready(execution, plan, site.display)
        provision = Provision(self._request, plan, site.launcher, list(site.gpus), site.display, site.locks, execution)
        self.provide(provision, plan, prepared)
        provision.require_all()
        return provision, prepared

    def _prepare(self, plan: Plan, display: Display) -> Prepared:
        request, suite = self._request, self._request.suite
        model = prepare_model(self._model_request(), request.models, display.note)
        require_end_of_text(suite.length, model.eos_token_ids, model.name)
        model_folder = request.models / model.folder
        room = model.context_length - suite.max_new_tokens
        limit = suite.max_prompt_tokens or min(DEFAULT_MAX_PROMPT_TOKENS, room)
        if limit < 1:
            raise BadInput(
                f"--max-new-tokens {suite.max_new_tokens} leaves no room for a prompt in the context of {model.name}, "
                f"{model.context_length} tokens"
            )
        workload = self._kept_prompts
        if workload is not None:
            path, trace = put_workload(workload, request.data), self._kept_trace
            display.note(f"workload {workload.name}: {len(workload.prompts)} prompts, kept by the run")
        else:
            tokenizer = load_tokenizer(model_folder / layout.HF_ARTIFACT)
            path, workload = prepare_workload(self._workload_request(limit), tokenizer, request.data, display.note)
            trace, of_loads = None, workload
            if suite.trace is not None:
                of_loads, trace = of_trace(suite.trace, workload, tokenizer, suite.max_new_tokens)
            if suite.shared_prefix_tokens:
                of_loads = with_shared_prefix(of_loads, suite.shared_prefix_tokens, tokenizer.prefix_tokens)
            if of_loads is not workload:
                path, workload = put_workload(of_loads, request.data), of_loads
                display.note(
                    f"workload {workload.name}: {len(workload.prompts)} prompts, the longest of {workload.longest}"
                )
        require_fit(workload, model, plan.batch_sizes, suite.max_new_tokens)
        return Prepared(model, model_folder, workload, path, trace)

    @property
    def _kept_prompts(self) -> Workload | None:
        """Those of the run that is resumed, which needs no dataset then; ``None`` where it keeps none, or where the
        command line or a suite file says anew what they are."""
        asked_anew = self._given & _OF_THE_PROMPTS
        return None if self._earlier is None or asked_anew else self._earlier.view.workload

    @property
    def _kept_trace(self) -> Schedule | None:
        kept = self._earlier.folder / layout.SCHEDULES_FOLDER / "trace.json.gz" if self._earlier is not None else None
        return Schedule.read_packed(kept) if kept is not None and kept.is_file() else None

    def _model_request(self) -> ModelRequest:
        suite = self._request.suite
        return ModelRequest(name=suite.model, revision=suite.revision, tokenizer=suite.tokenizer, seed=suite.seed)

    def _workload_request(self, max_prompt_tokens: int) -> WorkloadRequest:
        suite = self._request.suite
        return WorkloadRequest(
            dataset=suite.dataset,
            split=suite.split,
            text_column=suite.text_column,
            samples=suite.samples,
            max_prompt_tokens=max_prompt_tokens,
            sample_seed=suite.shuffle_seed,
        )


def _require_batches(plan: Plan, prompts: int) -> None:
    largest = max(plan.batch_sizes, default=0)
    if largest > prompts:
        raise BadInput(
            f"batch size {largest} needs at least {largest} prompts, there are {prompts}",
            "raise --samples, or leave that batch size out",
        )
