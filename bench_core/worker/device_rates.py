"""Measuring a device: an image offers work of known size, this times it and writes down every sample."""

from __future__ import annotations

import gc
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

from bench_core.contract.adapter import Device
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput, MachineFailure, first_line
from bench_core.contract.records import layout
from bench_core.contract.records.device_rates import DeviceRates, Measurement, WorkPiece
from bench_core.system.files import write_text
from bench_core.system.machine import cpu_name
from bench_core.system.nvml import GpuReader
from bench_core.worker.engine import image
from bench_core.worker.engine.clock import Clock, monotonic_ns, seconds, utc_now
from bench_core.worker.sample.sampler import Sampler

SAMPLES = 7
SAMPLE_S = 0.03  # a thousand times the cost of a launch and of reading the clock
PIECE_S = 2.0  # a slow device gets fewer samples of a piece, at least three
FEWEST_SAMPLES = 3
ALL_S = 60.0  # on a machine that others fill, pieces that come after this are left out: the roofs come first
TIME_LIMIT_S = 180  # a device that hangs must not hold up the run


def write_device_rates(image_folder: Path, device: Device, run_folder: Path, name: str) -> Path:
    """Measures the device with an image's work and writes ``device-rates/<name>.json``; returns its path.

    Raises:
        BadInput: the image does not measure devices, or the name is none.
        MachineFailure: the folder cannot be written.
    """
    if not layout.is_name(name):
        raise BadInput(f"--measure-device {name!r} is not a name", "lower case letters, digits, '.', '_' and '-'")
    manifest = Manifest.load(image_folder)
    folder = run_folder / layout.DEVICE_RATES_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineFailure(f"{folder} cannot be made: {error.strerror}", "check its owner") from error
    # A hang in a driver's call never returns to Python: the kernel ends the process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(TIME_LIMIT_S)
    try:
        record = measure_device(image_folder, manifest, device, name)
    finally:
        signal.alarm(0)
    path = folder / f"{name}.json"
    write_text(path, record.to_json())
    return path


def measure_device(
    image_folder: Path, manifest: Manifest, device: Device, name: str, clock: Clock = monotonic_ns
) -> DeviceRates:
    """Times every piece of work. One that fails is named with its cause, the others go on."""
    started = clock()
    gpu = GpuReader(device.uuid) if device.uuid else None
    idle_bytes = gpu.used_bytes() if gpu else None
    pieces = image.load_probe(image_folder, manifest)(device)
    sampler = Sampler(os.getpid(), gpu)
    sampler.start()
    measurements: list[Measurement] = []
    failures: dict[str, str] = {}
    context_bytes: int | None = None
    try:
        for number, piece in enumerate(pieces):
            if seconds(clock() - started) > ALL_S:
                failures[piece.name] = f"left out: {ALL_S:.0f} s had passed"
                continue
            try:
                measurements.append(time_piece(piece, clock))
            except Exception as error:  # noqa: BLE001  # a dtype or size that this device does not take
                failures[piece.name] = first_line(error)
            if number == 0 and gpu is not None and idle_bytes is not None:
                used = gpu.used_bytes()
                context_bytes = None if used is None else max(used - idle_bytes, 0)
            gc.collect()
    finally:
        sampler.stop()
    return DeviceRates(
        name=name,
        wall_time_utc=utc_now(),
        device=device.kind,
        gpu_uuid=device.uuid,
        cpu=cpu_name(),
        threads=device.threads,
        versions=image.versions(manifest),
        seconds=round(seconds(clock() - started), 3),
        context_bytes=context_bytes,
        measurements=tuple(measurements),
        failures=failures,
        telemetry=sampler.take(),
    )


def device_words(record: DeviceRates) -> str:
    """The roofs in one line."""
    bandwidth, launch_s = record.bandwidth_bytes_s, record.launch_s
    rates = {m.dtype: record.matrix_flop_s(m.dtype) for m in record.measurements if m.kind == "matrix"}
    words = [] if bandwidth is None else [f"{bandwidth / 1e9:.1f} GB/s"]
    words += [f"{dtype} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in rates.items() if rate is not None]
    words += [] if launch_s is None else [f"{launch_s * 1e6:.2f} us a launch"]
    words += [f"{name} failed: {cause}" for name, cause in record.failures.items()]
    return ", ".join([*words, f"{record.seconds:.1f} s"])


def time_piece(piece: WorkPiece, clock: Clock = monotonic_ns) -> Measurement:
    """Samples of at least ``SAMPLE_S`` each, after one iteration that warms up."""
    run = piece.make()
    _timed(run, 1, clock)
    iterations, took_s = 1, _timed(run, 1, clock)
    while took_s < SAMPLE_S and iterations < 1 << 24:
        # At most eightfold at once: the first timing of something tiny says little.
        wanted = math.ceil(1.2 * iterations * SAMPLE_S / max(took_s, 1e-9))
        iterations = min(max(wanted, iterations + 1), 8 * iterations)
        took_s = _timed(run, iterations, clock)
    samples: list[float] = []
    for _ in range(SAMPLES):
        samples.append(_timed(run, iterations, clock))
        if len(samples) >= FEWEST_SAMPLES and math.fsum(samples) >= PIECE_S:
            break
    return Measurement(
        kind=piece.kind,
        name=piece.name,
        dtype=piece.dtype,
        shape=piece.shape,
        amount=piece.amount,
        iterations=iterations,
        samples_s=tuple(samples),
    )


def _timed(run: Callable[[int], None], iterations: int, clock: Clock) -> float:
    started = clock()
    run(iterations)
    return seconds(clock() - started)
