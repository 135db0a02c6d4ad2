"""SGLang's own server, as ``python -m sglang.launch_server`` runs it, with the kernels that this image has compiled."""

from __future__ import annotations

import runpy

import kernels

if __name__ == "__main__":  # the server spawns processes, which import this file again
    kernels.prepare()
    runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
