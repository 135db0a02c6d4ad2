"""llama.cpp is compiled with libraries for several kinds of CPUs, of which it is given the list that we want."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conftest import ROOT

SCRIPT = ROOT / "images" / "llama-cpp-python" / "compile.sh"
# The beginning of llama.cpp's function for each library, of llama-cpp-python 0.3.36.
ADDS = "function(ggml_add_cpu_backend_variant tag_name)\n    set(GGML_CPU_TAG_NAME ${tag_name})\nendfunction()\n"


def compiled(folder: Path, device: str, adds: str) -> tuple[subprocess.CompletedProcess[str], str, str]:
    """What the script says, CMake's options and the list of libraries, of sources with a list of ours; pip is ours."""
    sources = folder / "llama_cpp_python-1.0" / "vendor" / "llama.cpp"
    (sources / "tools").mkdir(parents=True)
    (sources / "ggml" / "src").mkdir(parents=True)
    (sources / "ggml" / "src" / "CMakeLists.txt").write_text(adds, encoding="utf-8")
    packed = folder / "llama_cpp_python-1.0.tar.gz"
    subprocess.run(["tar", "-czf", str(packed), "-C", str(folder), "llama_cpp_python-1.0"], check=True)
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'echo "$CMAKE_ARGS" > {folder}/options\n'
        "for last; do :; done\n"
        f'cp "$last"/vendor/llama.cpp/ggml/src/CMakeLists.txt {folder}/list\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT), device, str(packed), str(folder / "out")],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "CUDA_ARCHITECTURES": "90"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = [
        path.read_text(encoding="utf-8") if path.is_file() else "" for path in (folder / "options", folder / "list")
    ]
    return done, found[0], found[1]


def test_a_library_that_is_not_wanted_is_passed_over_before_anything_is_added(tmp_path: Path) -> None:
    done, options, adds = compiled(tmp_path, "cpu", ADDS)
    assert done.returncode == 0, done.stderr
    assert "-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON" in options
    (wanted,) = (word for word in options.split() if word.startswith("-DGGML_CPU_VARIANTS="))
    assert {"haswell", "zen4"} < set(wanted.partition("=")[2].split(";"))
    assert adds.splitlines()[:4] == [
        ADDS.splitlines()[0],
        'if (GGML_SYSTEM_ARCH STREQUAL "x86" AND NOT tag_name IN_LIST GGML_CPU_VARIANTS)',
        "return()",
        "endif()",
    ]
    assert adds.splitlines()[4:] == ADDS.splitlines()[1:]


def test_sources_that_add_libraries_in_another_way_are_refused(tmp_path: Path) -> None:
    done, options, _ = compiled(tmp_path, "cpu", ADDS.replace("tag_name)", "tag_name features)"))
    assert done.returncode == 2
    assert "in another way" in done.stderr
    assert options == "", "nothing is compiled"


def test_the_build_for_gpus_has_one_library_for_the_cpu(tmp_path: Path) -> None:
    done, options, adds = compiled(tmp_path, "cuda", ADDS)
    assert done.returncode == 0, done.stderr
    assert "GGML_BACKEND_DL" not in options
    assert adds == ADDS
