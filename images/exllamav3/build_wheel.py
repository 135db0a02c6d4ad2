"""Puts the extension, which the engine compiles at first import, into its wheel (images/_torch/extension_wheel.py):

TORCH_CUDA_ARCH_LIST=9.0 PYTHONPATH=. python images/exllamav3/build_wheel.py exllamav3-1.6.5-py3-none-any.whl FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from images._torch.extension_wheel import Extension, build

# Flags and sources as in the engine's own ext.py and util/cuda_flags.py.
EXTENSION = Extension(
    "exllamav3",
    "exllamav3_ext",
    ("-Ofast",),
    (
        "-O3",
        "--use_fast_math",
        *("-Xcudafe", "--diag_suppress=177"),
        *("-Xcudafe", "--diag_suppress=20012"),
        "--compress-mode=size",
    ),
    left_out=("rocm",),
)

if __name__ == "__main__":
    build(EXTENSION, Path(sys.argv[1]), Path(sys.argv[2]))
