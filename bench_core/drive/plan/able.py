"""What an image can do beyond closed batches on one device, and what to name instead where it cannot."""

from __future__ import annotations

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.catalogue import Catalogue, Image


def why_not_split(image: Image, variant: str, suite: Suite, *, served: bool = False) -> str:
    """Why a variant's model is not split over as many GPUs as the suite asks for; empty where it is, or need not be."""
    return image.manifest.why_not_split(variant, served=served) if suite.gpus_per_cell > 1 else ""


def split_here(catalogue: Catalogue, device: DeviceKind) -> str:
    """Which methods are split over GPUs, in words."""
    manifests = [catalogue.get(name).manifest for name in catalogue.names]
    found = [
        f"{one.name}.{variant}"
        for one in manifests
        for variant in one.variants_on(device)
        if variant != one.harness_variant and not one.why_not_split(variant)
    ]
    return f"split over several: {', '.join(found)}" if found else "leave --gpus-per-cell out"


def why_not_served(
    image: Image, variant: str, suite: Suite, catalogue: Catalogue, device: DeviceKind
) -> tuple[str, str] | None:
    """Why a variant has no cells under load, with what can be done; ``None`` where it has."""
    if variant not in image.manifest.served_on(device):
        return f"{image.name}.{variant} has no server", _served_here(catalogue, device)
    reason = why_not_split(image, variant, suite, served=True)
    return (reason, split_here(catalogue, device)) if reason else None


def _served_here(catalogue: Catalogue, device: DeviceKind) -> str:
    manifests = [catalogue.get(name).manifest for name in catalogue.names]
    served = ((one, variant) for one in manifests for variant in one.served_on(device))
    return "served: " + ", ".join(f"{one.name}.{v}" for one, v in served if v != one.harness_variant)
