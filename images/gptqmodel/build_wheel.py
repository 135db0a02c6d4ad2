"""Puts the engine's Marlin kernel, which it compiles itself at first use, into its wheel.

Runs in the Dockerfile's stage ``build``, or by hand where a wheel is to be carried to a machine without compilers:

    TORCH_CUDA_ARCH_LIST=9.0 PYTHONPATH=. python images/gptqmodel/build_wheel.py FOLDER/gptqmodel-7.6.0-py3-none-any.whl

Needs torch (the release that the kernel is for), the engine installed, requirements.build.txt and g++; no GPU.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

from images._torch.extension_wheel import link_cuda_runtime, use_toolkit
from images._torch.extension_wheel import wheel as call_wheel

_KERNEL_FOLDER = Path("gptqmodel_ext") / "marlin"


def add_kernel(wheel: Path) -> None:
    """Puts the compiled kernel into the wheel, which from then on is one of this platform.

    The operators are registered with torch, not with Python, so one library serves every Python.

    Raises:
        RuntimeError: the engine could not compile its kernel; its reason is in the text.
    """
    with tempfile.TemporaryDirectory() as links:
        library = _compile(Path(links))
    with tempfile.TemporaryDirectory() as scratch:
        root = _unpacked(wheel, Path(scratch))
        shutil.copy(library, root / _KERNEL_FOLDER / library.name)
        call_wheel("pack", "--dest-dir", str(wheel.parent), str(root))
    call_wheel("tags", "--remove", "--platform-tag", "linux_x86_64", str(wheel))


def _compile(links: Path) -> Path:
    link_cuda_runtime(use_toolkit(), links)
    os.environ["LIBRARY_PATH"] = str(links)
    import torch  # noqa: PLC0415  # CUDA_HOME is read when these are imported
    from gptqmodel.utils.marlin import _MARLIN_FP16_TORCH_OPS_EXTENSION as EXTENSION  # noqa: PLC0415

    # The engine compiles only where it sees a GPU, although the architectures are named.
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        if not EXTENSION.load():
            raise RuntimeError(EXTENSION.last_error_message())
        folder = Path(EXTENSION.build_root())
    return next(folder.glob("*.so"))


def _unpacked(wheel: Path, scratch: Path) -> Path:
    call_wheel("unpack", "--dest", str(scratch), str(wheel))
    (root,) = scratch.iterdir()
    return root


if __name__ == "__main__":
    add_kernel(Path(sys.argv[1]))
