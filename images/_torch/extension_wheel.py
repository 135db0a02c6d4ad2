"""Turns an engine's wheel, which compiles itself at first import, into one that carries its compiled extension.

An image's build_wheel.py says what its extension is. It runs in the Dockerfile's stage ``build``, which copies this
file alone, so that no other change compiles anew; or by hand, with the repository as PYTHONPATH. Needs torch (the
release that the extension is for), the image's requirements.build.txt and g++; no GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


@dataclass(frozen=True)
class Extension:
    """An engine's extension, with the flags that the engine itself compiles it with."""

    package: str
    name: str  # of the module, and of the folder of its sources in the package
    compiler_flags: tuple[str, ...] = ()
    nvcc_flags: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  # folders of its sources that are for other devices


def build(extension: Extension, source: Path, target: Path) -> None:
    """Writes the wheel ``source`` into ``target`` with its extension; one that is compiled already is copied as it is.

    What an interrupted build has compiled stays in ``target/build`` for the next.

    Raises:
        RuntimeError: a compiler fails.
        subprocess.CalledProcessError: ``wheel`` cannot read or write the file.
    """
    target.mkdir(parents=True, exist_ok=True)
    if not source.name.endswith("-none-any.whl"):
        shutil.copy(source, target)
        return
    work = target / "build"
    work.mkdir(exist_ok=True)
    if not (work / "unpacked").is_dir():  # files written anew would be compiled anew
        wheel("unpack", "--dest", str(work / "unpacked"), str(source))
    (root,) = (work / "unpacked").iterdir()
    library = _compile(extension, root / extension.package / extension.name, work)
    shutil.copy(library, root / f"{extension.name}{sysconfig.get_config_var('EXT_SUFFIX')}")
    wheel("pack", "--dest-dir", str(work), str(root))
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_")
    wheel(
        "tags", "--remove", "--python-tag", python, "--abi-tag", python, "--platform-tag", platform,
        str(work / source.name),
    )  # fmt: skip
    (made,) = work.glob("*.whl")
    shutil.copy(made, target)
    shutil.rmtree(work)


def sources_of(extension: Extension, folder: Path) -> list[str]:
    """Paths of all that is compiled, in order."""
    found = (path for path in folder.rglob("*") if path.suffix in (".cpp", ".cu"))
    return sorted(str(path) for path in found if path.relative_to(folder).parts[0] not in extension.left_out)


def use_toolkit() -> Path:
    """CUDA_HOME where that is set, else the toolkit that distributions of this environment make up together. Compilers
    find it from then on, and torch, which must be imported after this."""
    toolkit = _toolkit()
    os.environ["CUDA_HOME"] = str(toolkit)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{toolkit / 'bin'}:{os.environ['PATH']}"
    return toolkit


def link_cuda_runtime(toolkit: Path, folder: Path) -> None:
    """Gives CUDA's run time the unversioned name that linkers look for and distributions leave out."""
    (folder / "libcudart.so").unlink(missing_ok=True)
    found = [path for name in ("lib", "lib64") for path in sorted((toolkit / name).glob("libcudart.so*"))]
    (folder / "libcudart.so").symlink_to(found[0])


def wheel(*arguments: str) -> None:
    """Calls the tool ``wheel``.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    subprocess.run([sys.executable, "-m", "wheel", *arguments], check=True)


def _compile(extension: Extension, sources: Path, work: Path) -> Path:
    toolkit = use_toolkit()
    objects, links = work / "objects", work / "lib"
    objects.mkdir(exist_ok=True)
    links.mkdir(exist_ok=True)
    link_cuda_runtime(toolkit, links)
    from torch.utils import cpp_extension  # noqa: PLC0415  # reads CUDA_HOME when it is imported

    cpp_extension.load(
        name=extension.name,
        sources=sources_of(extension, sources),
        extra_include_paths=[str(sources), *_cuda_headers(toolkit)],
        extra_cflags=list(extension.compiler_flags),
        extra_cuda_cflags=list(extension.nvcc_flags),
        extra_ldflags=[f"-L{links}", "-Wl,--strip-debug"],
        build_directory=str(objects),
        is_python_module=False,
        verbose=True,
    )
    return objects / f"{extension.name}.so"


def _toolkit() -> Path:
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    nvcc = next(file for file in distribution("nvidia-cuda-nvcc").files or [] if file.name == "nvcc")
    return Path(str(nvcc.locate())).resolve().parent.parent


def _cuda_headers(toolkit: Path) -> list[str]:
    """Of the toolkit, and of the libraries that torch brings, where a toolkit is not complete."""
    folders = [toolkit / "include"]
    try:
        header = next(file for file in distribution("nvidia-cublas").files or [] if file.name == "cublas_v2.h")
        folders.append(Path(str(header.locate())).resolve().parent)
    except (PackageNotFoundError, StopIteration):
        pass
    return list(dict.fromkeys(str(folder) for folder in folders))
