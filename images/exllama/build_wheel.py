"""Puts the extension, which the engine compiles at first import, into its wheel (images/_torch/extension_wheel.py):

TORCH_CUDA_ARCH_LIST=9.0 PYTHONPATH=. python images/exllama/build_wheel.py exllama-0.1.0-py3-none-any.whl FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from images._torch.extension_wheel import Extension, build

EXTENSION = Extension("exllama", "exllama_ext", ("-O3",))  # flags as in the engine's own cuda_ext.py

if __name__ == "__main__":
    build(EXTENSION, Path(sys.argv[1]), Path(sys.argv[2]))
