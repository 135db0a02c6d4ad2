"""compose.yaml and its CPU overlay: one service per image folder, the driver's hardening, the driver's files."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from module_file import module_at
from private_engine import ENGINE_PREFIX

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.drive.launch.containers.build import SYSTEMS, ImageBuilder, base_dockerfile, image_tag, tag_of
from bench_core.drive.launch.containers.endpoint import chosen_endpoint
from bench_core.drive.launch.containers.launcher import DockerLauncher
from bench_core.drive.launch.launcher import Folders, Launch
from bench_core.drive.plan.catalogue import Catalogue, Image

ROOT = Path(__file__).resolve().parents[1]
FILES = ("compose.yaml", "compose.cpu.yaml")
RESET = "reset by the overlay"
AFTER = {"condition": "service_completed_successfully"}
BESIDE = {"condition": "service_started"}
_ARGUMENT = re.compile(r"^ARG\s+(\w+)", re.MULTILINE)


class _Loader(yaml.SafeLoader):
    """Safe YAML that also knows compose's ``!reset``."""


_Loader.add_constructor("!reset", lambda loader, node: RESET)


def _load(name: str) -> dict[str, Any]:
    content = yaml.load((ROOT / name).read_text(encoding="utf-8"), _Loader)  # noqa: S506  # a SafeLoader
    assert isinstance(content, dict)
    return content


MAIN, OVERLAY = (_load(name) for name in FILES)
SERVICES: dict[str, dict[str, Any]] = MAIN["services"]
CATALOGUE = Catalogue()
IMAGES = [CATALOGUE.get(name) for name in CATALOGUE.names]
BASES = {"base", "torch"} | {image.manifest.base for image in IMAGES}


def _makers(image: Image) -> set[str]:
    """Images whose converter must run before this image's default variants can."""
    manifest = image.manifest
    defaults = {manifest.variants[manifest.default_variant(device)].artifact for device in manifest.devices}
    return {CATALOGUE.maker_of(name).name for name in defaults - {layout.NO_ARTIFACT, layout.HF_ARTIFACT}}


MAKERS = sorted(set().union(*map(_makers, IMAGES)))
ARTIFACTS = [f"{name}-artifacts" for name in MAKERS]
SERVED = [image.name for image in IMAGES if image.manifest.serve is not None]
SERVERS, CLIENTS = [f"{name}-server" for name in SERVED], [f"{name}-serve" for name in SERVED]


def _all_dependencies(service: str) -> set[str]:
    """What compose completes before it starts a service."""
    wanted = SERVICES[service].get("depends_on", {})
    beside = [service.replace("-serve", "-server")] if service in CLIENTS else []
    assert all(condition == (BESIDE if name in beside else AFTER) for name, condition in wanted.items()), service
    return set(wanted).union(*(_all_dependencies(name) for name in wanted))


def test_one_service_per_image_folder_and_per_converter() -> None:
    """A new image without a service, or a service without an image: `make compose` was not called."""
    assert set(SERVICES) == {*CATALOGUE.names, *ARTIFACTS, *SERVERS, *CLIENTS, *BASES, "prepare"}


def test_the_overlay_covers_every_service_that_runs_on_a_cpu() -> None:
    """An engine for GPUs alone in the overlay would be built and then refused."""
    gpu_only = {image.name for image in IMAGES if "cpu" not in image.manifest.devices}
    for image in IMAGES:
        if image.manifest.serve is not None and not image.manifest.served_on("cpu"):
            gpu_only |= {f"{image.name}-server", f"{image.name}-serve"}
    makers = gpu_only & set(MAKERS)
    assert {name for name in CATALOGUE.names if _makers(CATALOGUE.get(name)) & makers} <= gpu_only
    gpu_only |= {f"{name}-artifacts" for name in makers}  # nobody reads there what they make on a GPU
    assert set(OVERLAY["services"]) == set(SERVICES) - gpu_only
    for name, service in OVERLAY["services"].items():
        reserves = "deploy" in SERVICES[name]
        assert (service.get("deploy") == RESET) is reserves, f"{name}: a GPU would still be reserved"


@pytest.mark.parametrize("document", [MAIN, OVERLAY], ids=FILES)
def test_engines_and_converters_take_everything_from_one_anchor(document: dict[str, Any]) -> None:
    """No engine gains or loses by its service: beside image, build and order all of them are the same."""
    own = {"image", "build", "extends", "depends_on"}
    roles = ((CATALOGUE.names, "x-engine"), (ARTIFACTS, "x-artifacts"), (SERVERS, "x-server"), (CLIENTS, "x-client"))
    for names, anchor in roles:
        for name in set(names) & set(document["services"]):
            service = document["services"][name]
            beside = {"network_mode"} if names is CLIENTS else set[str]()
            kept = {key: value for key, value in service.items() if key not in own | beside}
            assert kept == document.get(anchor, {}), name


def test_containers_are_hardened_as_the_driver_hardens_them() -> None:
    """Same box whoever starts it; only user and memory differ, which compose cannot know."""
    client = mock.MagicMock()
    launch = Launch(IMAGES[0], "measure", (), Folders(ROOT, "none"))
    DockerLauncher(client)._create(launch)
    wanted = client.containers.create.call_args.kwargs
    for name in (*CATALOGUE.names, *ARTIFACTS, *SERVERS, *CLIENTS, "prepare"):
        box = SERVICES[name]
        assert box["read_only"] is wanted["read_only"] is True
        assert box["tmpfs"] == [f"{folder}:{options}" for folder, options in wanted["tmpfs"].items()]
        assert box["cap_drop"] == wanted["cap_drop"] == ["ALL"]
        assert [option.removesuffix(":true") for option in box["security_opt"]] == wanted["security_opt"]
        assert (box["pids_limit"], box["init"]) == (wanted["pids_limit"], wanted["init"])
        assert box["working_dir"] == wanted["working_dir"]
        assert box["logging"] == {"driver": "json-file", "options": wanted["log_config"]["Config"]}
        assert not {"privileged", "devices", "pid", "ipc", "user"} & set(box)
        assert box["cap_add"] == ["SETUID", "SETGID", "KILL"], "only what as-owner and its init process need"
        assert box["entrypoint"][0] == "/opt/bench/as-owner"


def test_only_prepare_has_a_network_a_token_and_the_right_to_write_data() -> None:
    writable = {
        name: {v["target"] for v in box.get("volumes", ()) if not v.get("read_only")} for name, box in SERVICES.items()
    }
    for name in set(SERVICES) - {"prepare"}:
        network = f"service:{name.replace('-serve', '-server')}" if name in CLIENTS else "none"
        assert SERVICES[name]["network_mode"] == network, name
        assert "environment" not in SERVICES[name], name
    assert SERVICES["prepare"]["network_mode"] == "bridge", "Docker's own: no network is made that would stay"
    assert all("deploy" not in SERVICES[name] for name in CLIENTS), "a client needs no GPU"
    assert writable.pop("prepare") == {"/data", "/models"}
    engines = {name: {"/results"} for name in (*CATALOGUE.names, *CLIENTS)}
    converters = {name: {"/models"} for name in ARTIFACTS}
    assert {name: folders for name, folders in writable.items() if folders} == engines | converters
    assert "HF_TOKEN" in SERVICES["prepare"]["environment"]
    assert SERVICES["prepare"]["environment"]["HF_TOKEN"] is None, "passed on, never written down"


def test_mounted_folders_are_in_a_clone_and_never_made_by_docker() -> None:
    """A folder that Docker makes is root's, and as-owner would run everything as root."""
    for box in SERVICES.values():
        for volume in box.get("volumes", ()):
            assert volume["bind"] == {"create_host_path": False}
    for kept in ("data/.gitkeep", "models/.gitkeep"):
        assert (ROOT / kept).is_file()
        if (ROOT / ".git").exists():
            ignored = subprocess.run(["git", "check-ignore", "-q", "--no-index", kept], cwd=ROOT, check=False)
            assert ignored.returncode == 1, f"{kept} is ignored: a clone would lack the folder"


def test_everything_that_a_container_reads_is_made_before_it() -> None:
    """engine -> artifacts -> prepare, and each after the base that it is built on (the classic builder's order)."""
    for image in IMAGES:
        wanted = {"prepare", image.manifest.base, *(f"{maker}-artifacts" for maker in _makers(image))}
        assert wanted <= _all_dependencies(image.name), image.name
    for maker in MAKERS:
        converts_on = "torch" if CATALOGUE.get(maker).manifest.convert_target else CATALOGUE.get(maker).manifest.base
        assert {"prepare", converts_on} <= _all_dependencies(f"{maker}-artifacts")
    for name in BASES - set(SYSTEMS) | {"prepare"}:
        assert "base" in _all_dependencies(name)


@pytest.mark.parametrize(("document", "flavour"), [(MAIN, "cuda"), (OVERLAY, "cpu")], ids=FILES)
def test_builds_make_the_drivers_images(document: dict[str, Any], flavour: Any) -> None:
    """Same tags, Dockerfiles, targets and arguments, so that either finds what the other has built."""
    expected: dict[str, tuple[str, str, str | None]] = {
        name: (tag_of(name, flavour), base_dockerfile(name), None) for name in (*BASES, "prepare")
    }
    images = [image for image in IMAGES if flavour in image.manifest.devices]
    for image in images:
        expected[image.name] = (image_tag(image, "measure", flavour), f"images/{image.name}/Dockerfile", "measure")
    for name in SERVED:
        if f"{name}-server" in document["services"]:
            expected[f"{name}-server"] = expected[name]
            expected[f"{name}-serve"] = (tag_of("client", flavour), base_dockerfile("client"), None)
    for maker, name in zip(MAKERS, ARTIFACTS, strict=True):
        image = CATALOGUE.get(maker)
        if flavour not in image.manifest.devices:
            continue
        stage = "convert" if image.manifest.convert_target else "measure"
        expected[name] = (image_tag(image, "convert", flavour), f"images/{maker}/Dockerfile", stage)
    for name, (tag, dockerfile, target) in expected.items():
        build, arguments = SERVICES[name]["build"], document["services"][name]["build"]["args"]
        assert document["services"][name]["image"] == tag
        assert (build["dockerfile"], build.get("target")) == (dockerfile, target)
        declared = set(_ARGUMENT.findall((ROOT / dockerfile).read_text(encoding="utf-8")))
        needed = {"BASE_IMAGE", "BUILD_IMAGE", "FLAVOUR"} | ({"TORCH_IMAGE"} if target == "convert" else set())
        assert declared & needed <= set(arguments), name
        assert arguments.get("FLAVOUR", flavour) == flavour
        ours = [value for value in arguments.values() if str(value).startswith("llm-bench/")]
        assert all(value.endswith(f":{flavour}") for value in ours), name
    for name in BASES & set(SYSTEMS):
        system = SYSTEMS[name][flavour]
        given = document["services"][name]["build"]["args"]["BASE_IMAGE"]
        assert given == f"${{{system.variable}:-{system.public}}}"
    for image in images:
        arguments = document["services"][image.name]["build"]["args"]
        assert arguments["BASE_IMAGE"] == tag_of(image.manifest.base, flavour)


def test_buildkit_finds_every_base_among_the_services() -> None:
    """BuildKit does not look at depends_on: without these contexts it would ask a registry for our base images."""
    files = {key: _load(f"docker/compose.builder-{key}.yaml")["services"] for key in "01"}
    assert set(files["0"]) == set(files["1"])
    assert all(not service for service in files["0"].values()), "the classic builder refuses contexts"
    for name in set(SERVICES) - set(SYSTEMS):
        extends = SERVICES[name]["extends"]
        assert extends["file"] == "docker/compose.builder-${DOCKER_BUILDKIT:-1}.yaml"
        contexts = files["1"][extends["service"]]["build"]["additional_contexts"]
        for document in (document for document in (MAIN, OVERLAY) if name in document["services"]):
            build, target = document["services"][name]["build"], SERVICES[name]["build"].get("target")
            key = "TORCH_IMAGE" if target == "convert" else "BASE_IMAGE"
            base = build["args"][key]
            assert contexts[base] == "service:" + base.removeprefix("llm-bench/").split(":")[0], name


WRITE = module_at(ROOT / "docker/compose/write.py")


@pytest.mark.parametrize("name", [*WRITE.COMPOSE_FILES, WRITE.README])
def test_what_follows_from_the_images_is_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == WRITE.written()[name], "run `make compose`"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What services are written from, in a folder of its own."""
    for name in ("docker", "images"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_a_new_image_is_its_own_folder_and_nothing_else(repository: Path) -> None:
    """Made from the template, it has services for both flavours and its line in the README, and no file but its own
    has changed."""
    command = [str(repository / "docker/new-image.sh"), "my-engine"]
    subprocess.run(command, capture_output=True, check=True)
    texts = WRITE.written(repository)
    main, overlay = (yaml.load(texts[name], _Loader)["services"] for name in FILES)  # noqa: S506  # a SafeLoader
    assert set(main) == {*SERVICES, "my-engine"}
    assert {name: main[name] for name in SERVICES} == SERVICES
    build = main["my-engine"]["build"]
    assert (build["dockerfile"], build["args"]["BASE_IMAGE"]) == ("images/my-engine/Dockerfile", "llm-bench/base:cuda")
    assert overlay["my-engine"]["build"] == {"args": {"BASE_IMAGE": "llm-bench/base:cpu"}}
    assert "| my-engine | `my-engine` | toy | GPU, CPU |\n" in texts["README.md"]


def test_an_image_on_a_base_of_its_own_brings_that_base(repository: Path) -> None:
    (repository / "docker/fresh.Dockerfile").write_text("ARG BASE_IMAGE=llm-bench/base:cuda\nFROM ${BASE_IMAGE}\n")
    manifest = repository / "images/null/image.yaml"
    manifest.write_text(manifest.read_text(encoding="utf-8") + "base: fresh\n", encoding="utf-8")
    texts = WRITE.written(repository)
    services = yaml.load(texts["compose.yaml"], _Loader)["services"]  # noqa: S506  # a SafeLoader
    assert services["fresh"]["build"]["args"] == {"BASE_IMAGE": "llm-bench/base:cuda"}
    assert set(services["null"]["depends_on"]) == {"prepare", "fresh"}
    builder = yaml.safe_load(texts["docker/compose.builder-1.yaml"])["services"]["on-fresh"]
    assert set(builder["build"]["additional_contexts"].values()) == {"service:base", "service:fresh"}


def test_services_of_one_name_are_refused(repository: Path) -> None:
    folder = repository / "images/prepare"
    shutil.copytree(repository / "images/null", folder)
    manifest = (folder / "image.yaml").read_text(encoding="utf-8")
    (folder / "image.yaml").write_text(manifest.replace('name: "null"', "name: prepare"), encoding="utf-8")
    with pytest.raises(BadInput, match=r"two services of compose\.yaml would be called prepare"):
        WRITE.written(repository)


def test_a_readme_without_a_place_for_the_table_is_refused(repository: Path) -> None:
    (repository / "README.md").write_text("no table\n", encoding="utf-8")
    with pytest.raises(BadInput, match="no block of engines"):
        WRITE.written(repository)


# With real containers


@pytest.fixture(scope="module")
def current_images() -> None:
    """Docker with compose, and the images of this checkout: compose itself builds only what is missing."""
    probe = subprocess.run(["docker", "info"], capture_output=True, check=False)
    if probe.returncode != 0:
        if os.environ.get("CI") or shutil.which("dockerd"):
            pytest.fail("a Docker engine could be started here but none answers")
        pytest.skip("this machine has no Docker engine and none can be started: see .ci/docker-engine.sh")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        if os.environ.get("CI"):
            pytest.fail("docker has no compose plugin here: see .ci/docker-engine.sh")
        pytest.skip("docker has no compose plugin here")
    builder = ImageBuilder(chosen_endpoint().client(3600))
    builder.ensure(CATALOGUE.get("null"), "measure", "cpu", lambda line: None)
    for service in ("prepare", "client"):
        builder.ensure_service(service, "cpu", lambda line: None)


@pytest.fixture
def clone(current_images: None, tmp_path: Path) -> Iterator[Path]:
    """What a clone holds, with folders of another user where this one is root; its containers are cleared away."""
    folder = tmp_path / f"clone-{secrets.token_hex(4)}"
    folder.mkdir()
    for name in (".dockerignore", *FILES):
        shutil.copy(ROOT / name, folder)
    for name in ("bench_core", "docker", "images"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("data", "models", "results"):
        (folder / name).mkdir()
        if os.getuid() == 0:
            os.chown(folder / name, 1000, 1000)
    yield folder
    _compose(folder, "--profile", "engine", "down", "--remove-orphans", timeout=120)


def _compose(folder: Path, *arguments: str, timeout: int = 900, **environment: str) -> subprocess.CompletedProcess[str]:
    files = [part for name in FILES for part in ("-f", name)]
    return subprocess.run(
        ["docker", "compose", *files, *arguments],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip


def _shape(value: Any) -> Any:
    """Keys and nesting of JSON without its values; a list is the set of its members' shapes."""
    if isinstance(value, dict):
        return {key: _shape(member) for key, member in sorted(value.items())}
    if isinstance(value, list):
        return sorted({json.dumps(_shape(member)) for member in value})
    return "value"


def _shapes(cell: Path) -> dict[str, Any]:
    """File name to shape, for every file of a cell folder; the events' shapes by type."""
    found: dict[str, Any] = {}
    for path in cell.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            found[path.name] = _shape(json.loads(text))
        elif path.suffix == ".jsonl":
            found[path.name] = _shape([json.loads(line) for line in text.splitlines()])
        else:
            found[path.name] = "text"
    return found


@pytest.mark.docker
def test_compose_leaves_the_cell_that_the_driver_leaves(clone: Path, tmp_path: Path) -> None:
    """`docker compose run` alone, on empty folders: prepared, measured, same files, same keys, the folder's owner."""
    same = ("--max-new-tokens", "8")
    done = _compose(clone, "run", "--rm", "null", "--batch-size", "4", *same, BENCH_SAMPLES="16")
    assert done.returncode == 0, done.stderr
    (run_folder,) = (clone / "results").iterdir()
    cell = layout.cell_folder(run_folder, "null.scripted.b4")
    assert Verdict.read(cell / layout.OUTCOME_FILE).outcome is Outcome.OK
    written = [path for name in ("data", "models", "results") for path in (clone / name).rglob("*")]
    assert {path.lstat().st_uid for path in written} == {(clone / "results").stat().st_uid}

    places = [f"--{name}={tmp_path / 'driver' / name}" for name in ("data", "models", "results")]
    command = [sys.executable, "-m", "bench_core.drive", "--images", "null", "--launcher", "docker", "--device", "cpu"]
    command += ["--batch-sizes", "4", "--samples", "16", *same, "--run-id", "mine", "--yes", *places]
    command += ["--no-device-rates"]  # compose measures none
    driver = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert driver.returncode == 0, driver.stderr
    theirs = tmp_path / "driver" / "results" / "mine"
    assert sorted(path.name for path in cell.iterdir()) == sorted(layout.CELL_FILES)
    assert _shapes(cell) == _shapes(layout.cell_folder(theirs, "null.scripted.b4"))
    records = [json.loads((folder / layout.RUN_FILE).read_text(encoding="utf-8")) for folder in (run_folder, theirs)]
    visits = [record.pop("visits") for record in records]
    assert _shape(records[0]) == _shape(records[1])
    assert (visits[0], len(visits[1])) == ([], 1), "a container knows neither commit nor images of a visit"


@pytest.mark.docker
def test_a_stop_ends_the_container_and_leaves_its_verdict(clone: Path) -> None:
    """SIGTERM reaches the worker through an init process of another user (KILL), and nothing is left running."""
    name = f"llm-bench-stop-{secrets.token_hex(4)}"
    slow = ("--batch-size", "1", "--max-new-tokens", "50", "--option", "tpot_s=0.02")  # 92 batches of a second
    started = _compose(clone, "run", "--detach", "--name", name, "null", *slow)
    assert started.returncode == 0, started.stderr
    try:
        begun = _wait_for(clone / "results", f"*/{layout.CELLS_FOLDER}/*/{layout.EVENTS_FILE}")
        subprocess.run(["docker", "stop", "-t", "30", name], capture_output=True, check=True, timeout=60)
        inspect = ["docker", "inspect", "--format", "{{.State.ExitCode}}", name]
        state = subprocess.run(inspect, capture_output=True, text=True, check=True)
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=True)
    assert int(state.stdout) == Outcome.KILLED.worker_exit_code, "the signal did not reach the worker"
    verdict = Verdict.read(begun.with_name(layout.OUTCOME_FILE))
    assert (verdict.outcome, verdict.cause) == (Outcome.KILLED, "stopped on request after the batch in hand")


def _wait_for(folder: Path, pattern: str) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := list(folder.glob(pattern)):
            return found[0]
        time.sleep(0.1)
    pytest.fail(f"{pattern} never came")


@pytest.mark.docker
def test_a_refusal_of_prepare_stops_before_measuring(clone: Path) -> None:
    """A wrong model is prepare's one-line error, kept in its log; no engine is started and no run folder made."""
    done = _compose(clone, "run", "--rm", "null", BENCH_MODEL="synthetic/nope")
    assert done.returncode != 0
    log = _compose(clone, "logs", "--no-log-prefix", "prepare")
    assert "no synthetic shape 'nope'" in log.stdout + log.stderr
    assert list((clone / "results").iterdir()) == []


def _docker(*words: str) -> set[str]:
    return set(subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.split())


def _networks() -> set[str]:
    """Of the machine's engine, but for those of engines that tests beside this one have."""
    names = _docker("network", "ls", "--format", "{{.Name}}")
    return {name for name in names if not name.startswith(ENGINE_PREFIX)}


def _left(folder: Path) -> tuple[set[str], set[str]]:
    """Containers of projects in this folder, and networks."""
    of = ("--filter", f"label=com.docker.compose.project.working_dir={folder}", "--format", "{{.ID}}")
    return _docker("ps", "--all", *of), _networks()


LOAD = ("--concurrency", "2", "--max-serve-seconds", "3", "--max-ramp-seconds", "1", "--max-new-tokens", "20")


@pytest.mark.docker
def test_one_cell_under_load_with_docker_alone(clone: Path) -> None:
    """`docker/measure.sh` on empty folders: prepared, served, measured; the run verifies, and nothing else is left."""
    networks = _networks()
    environment = {**os.environ, "DEVICE": "cpu", "BENCH_SAMPLES": "16"}
    command = [str(clone / "docker/measure.sh"), "null-serve", *LOAD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    (folder,) = (clone / "results").iterdir()
    spec = json.loads((layout.cell_folder(folder, "null.scripted.c2") / layout.SPEC_FILE).read_text(encoding="utf-8"))
    assert spec["server"]["network"] == "shared"
    if len(os.sched_getaffinity(0)) > 1:
        assert not set(spec["server"]["cpus"]) & set(spec["server"]["client_cpus"])
    assert "null.scripted.c2: " in done.stderr + done.stdout
    for word in ("report", "verify"):
        follow = [sys.executable, "-m", f"bench_core.{word}", str(folder)]
        told = subprocess.run(follow, cwd=ROOT, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout + told.stderr
    assert _left(clone) == (set(), networks)


@pytest.mark.docker
def test_what_compose_leaves_goes_with_the_command_that_it_names(clone: Path) -> None:
    """Compose keeps the containers of earlier steps and makes no network; the last line says how they go."""
    networks = _networks()
    done = _compose(clone, "run", "--rm", "null-serve", *LOAD, BENCH_SAMPLES="16")
    assert done.returncode == 0, done.stderr
    containers, after = _left(clone)
    assert containers
    assert after == networks
    last = (done.stdout + done.stderr).strip().splitlines()
    told = next(line for line in last if line.startswith("remove the containers that are left: "))
    command = told.partition(": ")[2].split()
    assert command[:2] == ["docker", "compose"]
    subprocess.run(command, cwd=clone, capture_output=True, check=True, timeout=120)
    assert _left(clone) == (set(), networks)
