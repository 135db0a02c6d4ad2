"""Puts the extension, which the engine compiles at first import, into its wheel (images/_torch/extension_wheel.py):

TORCH_CUDA_ARCH_LIST=9.0 PYTHONPATH=. python images/exllamav2/build_wheel.py exllamav2-0.3.2-py3-none-any.whl FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from images._torch.extension_wheel import Extension, build

EXTENSION = Extension("exllamav2", "exllamav2_ext", ("-Ofast",), ("-O3",))  # flags as in the engine's own ext.py

if __name__ == "__main__":
    build(EXTENSION, Path(sys.argv[1]), Path(sys.argv[2]))
