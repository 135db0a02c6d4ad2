"""Turns the engine's wheel, which compiles itself at every first import, into one that carries its compiled extension.

Runs in the Dockerfile's stage ``build``, or by hand where a wheel is to be carried to a machine without compilers:

    TORCH_CUDA_ARCH_LIST=9.0 python build_wheel.py exllama-0.1.0-py3-none-any.whl FOLDER

Needs torch (the release that the extension is for), requirements.build.txt and g++; no GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_PACKAGE = "exllama"
_EXTENSION = "exllama_ext"
_COMPILER_FLAGS = ["-O3"]  # as in the engine's own cuda_ext.py


def main(source: Path, target: Path) -> None:
    """Writes the wheel into ``target``; one that is compiled already is copied as it is.

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
        _wheel("unpack", "--dest", str(work / "unpacked"), str(source))
    (root,) = (work / "unpacked").iterdir()
    library = _compile(root / _PACKAGE / _EXTENSION, work)
    shutil.copy(library, root / f"{_EXTENSION}{sysconfig.get_config_var('EXT_SUFFIX')}")
    _wheel("pack", "--dest-dir", str(work), str(root))
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_")
    _wheel(
        "tags", "--remove", "--python-tag", python, "--abi-tag", python, "--platform-tag", platform,
        str(work / source.name),
    )  # fmt: skip
    (wheel,) = work.glob("*.whl")
    shutil.copy(wheel, target)
    shutil.rmtree(work)


def _compile(sources: Path, work: Path) -> Path:
    toolkit = _toolkit()
    os.environ["CUDA_HOME"] = str(toolkit)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{toolkit / 'bin'}:{os.environ['PATH']}"
    build = work / "objects"
    build.mkdir(exist_ok=True)
    from torch.utils import cpp_extension  # noqa: PLC0415  # reads CUDA_HOME when it is imported

    cpp_extension.load(
        name=_EXTENSION,
        sources=sorted(str(path) for path in sources.rglob("*") if path.suffix in (".cpp", ".cu")),
        extra_include_paths=[str(sources), *_cuda_headers(toolkit)],
        extra_cflags=_COMPILER_FLAGS,
        extra_ldflags=[f"-L{_link_folder(toolkit, work)}", "-Wl,--strip-debug"],
        build_directory=str(build),
        is_python_module=False,
        verbose=True,
    )
    return build / f"{_EXTENSION}.so"


def _toolkit() -> Path:
    """CUDA_HOME where that is set, else the toolkit that distributions of this environment make up together."""
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


def _link_folder(toolkit: Path, work: Path) -> Path:
    """A folder with an unversioned name of CUDA's run time, which linkers look for and distributions leave out."""
    link = work / "lib"
    link.mkdir(exist_ok=True)
    (link / "libcudart.so").unlink(missing_ok=True)
    found = [path for folder in ("lib", "lib64") for path in sorted((toolkit / folder).glob("libcudart.so*"))]
    (link / "libcudart.so").symlink_to(found[0])
    return link


def _wheel(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "wheel", *arguments], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
