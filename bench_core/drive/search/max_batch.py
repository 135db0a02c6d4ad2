"""``--find-max-batch``: launches short cells of ever other batch sizes until the largest that fits is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.max_batch import LARGEST_BATCH, BatchSearch, BatchTrial, MaxBatch, search_largest
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import STOPPED_ON_REQUEST
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.plan import Job
from bench_core.drive.run.collect import write_record
from bench_core.drive.search.trials import Site, Trials, conditions_of, unused_number

# Measuring ends after the batch in which so many seconds are over: the first. Not by a number of batches: an engine
# prepares for the longest prompt of all that may come, and a real cell may take the whole workload.
_ONE_BATCH_S = 1e-6


class BatchSizeSearch:
    """One search, for one variant on one device."""

    def __init__(self, site: Site, job: Job) -> None:
        self._job = job
        self._site = site
        self._suite = site.request.suite
        short = {
            "warmup_batches": 1, "max_warmup_batches": 1, "max_batches": None, "max_seconds": _ONE_BATCH_S,
            "latency_batches": 1, "direct_batches": 0, "score_texts": 0,
        }  # fmt: skip
        self._trials = Trials(site, short)

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for a stop."""
        return self._trials.stopped

    def run(self, prepared: Prepared, run_folder: Path) -> MaxBatch:
        """Searches, and writes ``max-batch/<image>.<variant>.json`` into the run's folder after each trial.

        Trials that this run has of the same variant under the same conditions are not made again; under others they
        stay where they are, and a search of its own begins.

        Raises:
            BadInput: the folder cannot be written, or a trial cannot be launched.
        """
        home = run_folder / layout.MAX_BATCH_FOLDER
        home.mkdir(exist_ok=True)
        path = home / f"{self._job.title}.json"
        record = self._begun(_read(path), prepared, home)
        kept = record.trials

        def attempt(size: int) -> BatchTrial:
            nonlocal record
            trial = self._trial(size, prepared, run_folder, record.home)
            told = {True: "fits", False: "does not fit", None: "tells nothing"}[trial.fits]
            cause = f": {trial.outcome.value}: {trial.cause}".rstrip(": ") if trial.fits is not True else ""
            self._site.display.note(f"{self._job.title} at batch size {size}: {told}{cause}")
            record = record.model_copy(update={"trials": (*record.trials, trial)})
            write_record(path, record)
            return trial

        found = search_largest(record.limit, attempt, kept)
        record = record.model_copy(update=_fields(found))
        if self.stopped:
            record = record.model_copy(update={"problem": STOPPED_ON_REQUEST})
        write_record(path, record)
        if record.largest is not None and record.trials == kept:
            self._site.display.note(
                f"{self._job.title}: the largest batch size is known already, nothing was tried again"
            )
        return record

    def _begun(self, earlier: MaxBatch | None, prepared: Prepared, home: Path) -> MaxBatch:
        """The record of this search, with the trials that it need not make again."""
        prompts = len(prepared.workload.prompts)
        asked = self._suite.max_batch_limit
        by_request = asked is not None and asked <= prompts
        if asked is not None and not by_request:
            self._site.display.note(f"no batch size beyond {prompts} can be tried: the workload has no more prompts")
        record = MaxBatch(
            image=self._job.image.name,
            variant=self._job.variant,
            conditions=conditions_of(self._site, self._job, prepared),
            limit=min(asked or prompts, prompts, LARGEST_BATCH),
            limited_by="request" if by_request else "prompts",
            gpus=self._job.gpus,
        )
        if earlier is not None and earlier.conditions == record.conditions:
            return record.model_copy(update={"trials": earlier.trials, "searches": earlier.searches})
        return record.model_copy(update={"searches": unused_number(home, record.method)})

    def _trial(self, size: int, prepared: Prepared, run_folder: Path, search: str) -> BatchTrial:
        home = run_folder / layout.MAX_BATCH_FOLDER / search
        # Of a trial that was cut off with its driver there is a folder and no record.
        number = 1
        while (home / layout.trial_folder(number)).exists():
            number += 1
        job = replace(self._job, scenarios=(Offline(batch_size=size),))
        tried = self._trials.run(job, prepared, home / layout.trial_folder(number), run_folder)
        verdict, metrics, gpu = tried.verdict, tried.metrics, self._site.gpu
        device = metrics.device_memory if metrics else None
        host = metrics.host_memory if metrics else None
        return BatchTrial(
            batch_size=size,
            number=number,
            outcome=verdict.outcome,
            cause=verdict.cause,
            phase=verdict.phase,
            evidence=verdict.evidence,
            gpu_uuid=gpu.uuid if gpu else None,
            device_peak_bytes=device.peak_bytes if device else None,
            host_peak_bytes=host.peak_bytes if host else None,
        )


def _fields(found: BatchSearch) -> dict[str, object]:
    return {name: getattr(found, name) for name in BatchSearch.model_fields}


def _read(path: Path) -> MaxBatch | None:
    """An earlier record; ``None`` where there is none, or none that can be read: then the search begins anew."""
    try:
        return MaxBatch.read(path) if path.exists() else None
    except BadInput:
        return None
