"""Puts the engine's Marlin kernel, which it compiles itself at first use, into its wheel.

Runs in the Dockerfile's stage ``build``, or by hand where a wheel is to be carried to a machine without compilers:

    TORCH_CUDA_ARCH_LIST=9.0 python build_wheel.py FOLDER/gptqmodel-7.6.0-py3-none-any.whl

Needs torch (the release that the kernel is for), the engine installed, requirements.build.txt and g++; no GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from unittest import mock

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
        _wheel("pack", "--dest-dir", str(wheel.parent), str(root))
    _wheel("tags", "--remove", "--platform-tag", "linux_x86_64", str(wheel))


def _compile(links: Path) -> Path:
    toolkit = _toolkit()
    os.environ["CUDA_HOME"] = str(toolkit)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{toolkit / 'bin'}:{os.environ['PATH']}"
    # Linkers look for an unversioned name of CUDA's run time, which distributions leave out.
    found = [path for folder in ("lib", "lib64") for path in sorted((toolkit / folder).glob("libcudart.so*"))]
    (links / "libcudart.so").symlink_to(found[0])
    os.environ["LIBRARY_PATH"] = str(links)
    import torch  # noqa: PLC0415  # CUDA_HOME is read when these are imported
    from gptqmodel.utils.marlin import _MARLIN_FP16_TORCH_OPS_EXTENSION as EXTENSION  # noqa: PLC0415

    # The engine compiles only where it sees a GPU, although the architectures are named.
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        if not EXTENSION.load():
            raise RuntimeError(EXTENSION.last_error_message())
        folder = Path(EXTENSION.build_root())
    return next(folder.glob("*.so"))


def _toolkit() -> Path:
    """CUDA_HOME where that is set, else the toolkit that distributions of this environment make up together."""
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    nvcc = next(file for file in distribution("nvidia-cuda-nvcc").files or [] if file.name == "nvcc")
    return Path(str(nvcc.locate())).resolve().parent.parent


def _unpacked(wheel: Path, scratch: Path) -> Path:
    _wheel("unpack", "--dest", str(scratch), str(wheel))
    (root,) = scratch.iterdir()
    return root


def _wheel(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "wheel", *arguments], check=True)


if __name__ == "__main__":
    add_kernel(Path(sys.argv[1]))
