"""Kernels that SGLang compiles with CUDA's compiler at their first use: activations, rotary embeddings, the store into
the key-value cache. A measuring container would do so at every start, for minutes.

The image brings the compiler as Python distributions, and the kernels of common shapes already compiled:

    python kernels.py 9.0 FOLDER

compiles them for GPUs of compute capability 9.0; no GPU is needed. Any other is compiled when a model wants it.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

COMPILED = Path("/opt/bench/sglang-kernels")
_CACHE = "TVM_FFI_CACHE_DIR"  # where the engine looks for compiled kernels, by names that hold source, types and GPU

# Bytes of a token's keys in one layer, 16 bits each: of 32 heads of 128, of 8 and of 4; and of half of these on a GPU
# of two.
_CACHE_ROWS = (8192, 4096, 2048, 1024)


def prepare() -> None:
    """Makes compiler and compiled kernels known to the engine's processes, which are started by this one."""
    use_compiler()
    if COMPILED.is_dir():
        folder = Path(os.environ.setdefault(_CACHE, str(Path.home() / ".cache" / "tvm-ffi")))
        shutil.copytree(COMPILED, folder, dirs_exist_ok=True)


def use_compiler() -> None:
    """Has compilers find the toolkit that distributions of this environment make up together, wherever each lies. One
    that CUDA_HOME names already is complete, and without the compiler's distribution nothing is done."""
    if os.environ.get("CUDA_HOME"):
        return
    compiler = _file("nvidia-cuda-nvcc", "nvcc")
    if compiler is None:
        return
    os.environ["CUDA_HOME"] = str(compiler.parent.parent)
    ninja = _file("ninja", "ninja")  # perhaps the base's, whose programs are elsewhere
    tools = [Path(sys.executable).parent, *([ninja.parent] if ninja is not None else [])]
    os.environ["PATH"] = ":".join([*map(str, tools), os.environ["PATH"]])
    header, library = _file("nvidia-cuda-runtime", "cuda_runtime.h"), _file("nvidia-cuda-runtime", "libcudart.so.13")
    if header is not None:
        os.environ["CPATH"] = f"{header.parent}:{os.environ.get('CPATH', '')}".rstrip(":")
    if library is not None:
        # Linkers look for the name without a version, which distributions leave out.
        links = Path(tempfile.mkdtemp(prefix="cudart-"))
        (links / "libcudart.so").symlink_to(library)
        os.environ["LIBRARY_PATH"] = f"{links}:{os.environ.get('LIBRARY_PATH', '')}".rstrip(":")


def _file(package: str, name: str) -> Path | None:
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if file.name == name), None)


def names() -> list[str]:
    """What is compiled beforehand, in 16-bit floating point."""
    return ["activation", "clamp", "rope 64", "rope 128", "qknorm 128", *(f"cache {row}" for row in _CACHE_ROWS)]


def compile_one(name: str, capability: str) -> None:
    """Compiles one kernel into the folder that ``TVM_FFI_CACHE_DIR`` names, by the engine's own functions."""
    import torch  # noqa: PLC0415  # heavy, and only wanted where a kernel is compiled
    from sglang.kernels.jit.utils import override_jit_cuda_arch  # noqa: PLC0415
    from sglang.kernels.ops.activation.activation import activation_module  # noqa: PLC0415
    from sglang.kernels.ops.attention.clamp_position import _jit_clamp_position_module  # noqa: PLC0415
    from sglang.kernels.ops.attention.rope import _jit_fused_rope_module  # noqa: PLC0415
    from sglang.kernels.ops.kvcache.kvcache import _jit_kvcache_module  # noqa: PLC0415
    from sglang.kernels.ops.layernorm.norm import _jit_qknorm_module  # noqa: PLC0415

    kind, _, size = name.partition(" ")
    half = torch.float16
    major, minor = (int(number) for number in capability.split("."))
    with override_jit_cuda_arch(major, minor):
        if kind == "activation":
            activation_module(half)
        elif kind == "clamp":
            _jit_clamp_position_module(torch.int64)
        elif kind == "rope":
            _jit_fused_rope_module(True, int(size), half, half)
        elif kind == "qknorm":
            _jit_qknorm_module(int(size), half)
        else:
            _jit_kvcache_module(int(size), int(size))


def main(capabilities: list[str], folder: Path) -> None:
    """Compiles all kernels for all capabilities; each in a process of its own, since the engine keeps what it has seen
    of a GPU."""
    use_compiler()
    os.environ[_CACHE] = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    todo = [(name, capability) for capability in capabilities for name in names()]
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as workers:
        workers.starmap(compile_one, todo, chunksize=1)
    for left in folder.glob("*/*"):
        if left.suffix != ".so":  # sources, objects and locks
            left.unlink()


if __name__ == "__main__":
    main(sys.argv[1].replace(";", " ").split(), Path(sys.argv[2]))
