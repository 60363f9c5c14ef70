"""deploy/ and docs/deployment.md: the parts fit each other and llmux; what can be run here is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llmux.config import Config
from llmux.serve import FORCE_SECS
from llmux.testing import SimulatedBackend
from tests.docs.documents import ROOT, blocks, code, rows
from tests.docs.test_examples import has_option, usage
from tests.e2e.conftest import llmux_process

DEPLOY = ROOT / "deploy"
DEPLOYMENT = ROOT / "docs" / "deployment.md"
UNIT = DEPLOY / "llmux.service"


def options_exist(arguments: list[str]) -> bool:
    text = usage("serve")
    return all(has_option(text, word) for word in arguments if word.startswith("-"))


# --- systemd --------------------------------------------------------------------------------------------------------


def settings() -> list[tuple[str, str]]:
    lines = [line for line in UNIT.read_text().splitlines() if re.match(r"[A-Z]\w*=", line)]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def test_the_unit_starts_llmux_and_gives_it_time_to_stop() -> None:
    unit = dict(settings())
    program, *arguments = shlex.split(unit["ExecStart"])
    assert program == "/opt/llmux/bin/llmux"
    assert options_exist(arguments)
    defaults = Config(models={})
    assert int(unit["TimeoutStopSec"]) > defaults.shutdown_grace_secs + defaults.on_exit_timeout_secs + FORCE_SECS
    assert unit["KillMode"] == "process"
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_every_restriction_is_explained() -> None:
    restrictions = UNIT.read_text().partition("may not do ---")[2].partition("[Install]")[0]
    named = set(re.findall(r"^(\w+)=", restrictions, re.MULTILINE)) | {"UMask"}
    explained = {name for row in rows(DEPLOYMENT, "setting", "forbids", "lift it when") for name in code(row[0])}
    assert named == explained


def test_what_is_said_of_the_unit_is_in_it() -> None:
    unit = settings()
    for row in rows(DEPLOYMENT, "setting", "why"):
        key, _, value = code(row[0])[0].partition("=")
        assert (key, value) in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "llmux.service"
    unit.write_text(UNIT.read_text().replace("/opt/llmux/bin/llmux", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    complaints = [line for line in verified.stderr.splitlines() if "llmux.service" in line]
    assert not complaints
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert rated.returncode == 0, rated.stdout[-200:]


# --- the container --------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Containerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".containerignore").read_text()
    assert (ROOT / ".dockerignore").read_text() == ignored
    kept = {line[1:] for line in ignored.splitlines() if line.startswith("!")}
    copied = {source for rest in of("COPY") if "--from" not in rest for source in rest.split()[:-1]}
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)


def test_what_is_copied_is_enough_to_build_it(tmp_path: Path) -> None:
    """With the extras that are wanted: what is there says what they are."""
    for rest in of("COPY"):
        if "--from" not in rest:
            for source in rest.split()[:-1]:
                place = tmp_path / source
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, place)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "LLMUX_MYPYC"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert built.returncode == 0, built.stderr
    assert list(tmp_path.glob("dist/*.whl"))
    (extras,) = [rest.partition("=")[2] for rest in of("ARG") if rest.startswith("EXTRAS=")]
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    (install,) = [rest.rpartition(" ")[2] for rest in of("RUN") if "pip install" in rest]
    for wanted, words in ((extras, f".[{extras}]"), ("", ".")):
        said = subprocess.run(
            ["sh", "-c", f"printf %s {install}"], env={"EXTRAS": wanted}, capture_output=True, text=True, check=True
        )
        assert said.stdout == words


def test_the_container_runs_llmux_as_nobody_special() -> None:
    assert of("USER") == ["10001:10001"]
    (entry,), (arguments,) = of("ENTRYPOINT"), of("CMD")
    assert yaml.safe_load(entry)[-1] == "llmux"
    command = yaml.safe_load(arguments)
    assert options_exist(command)
    (port,) = of("EXPOSE")
    assert command[command.index("--port") + 1] == port
    (check,) = of("HEALTHCHECK")
    assert f"http://127.0.0.1:{port}/health" in check
    installed = next(rest for rest in of("RUN") if "apt-get" in rest).split()
    assert {"curl", "tini", "util-linux"} <= set(installed)
    assert any("PIP_CONSTRAINT=/src/constraints.txt" in rest for rest in of("ENV"))


# --- Kubernetes -----------------------------------------------------------------------------------------------------


def manifests() -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())


def manifest(kind: str) -> dict[str, Any]:
    (found,) = [one for one in manifests() if one["kind"] == kind]
    return found


def test_the_manifests_fit_each_other() -> None:
    pod = manifest("Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("Deployment")["spec"]["replicas"] == 1
    assert manifest("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    (container,) = pod["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["config"]["configMap"]["name"] == manifest("ConfigMap")["metadata"]["name"]
    assert volumes["keys"]["secret"]["secretName"] == manifest("Secret")["metadata"]["name"]
    assert (
        volumes["state"]["persistentVolumeClaim"]["claimName"] == manifest("PersistentVolumeClaim")["metadata"]["name"]
    )
    (port,) = container["ports"]
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    for probe, path in (("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    arguments = container["args"]
    assert options_exist(arguments)
    assert arguments[arguments.index("--port") + 1] == str(port["containerPort"])
    assert f"{pod['spec']['securityContext']['runAsUser']}:" in of("USER")[0]


def test_the_pod_has_longer_to_stop_than_llmux() -> None:
    config = yaml.safe_load(manifest("ConfigMap")["data"]["config.yaml"])
    grace = manifest("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > config["shutdown_grace_secs"] + config["on_exit_timeout_secs"] + FORCE_SECS
    mounted = {
        mount["name"]: mount["mountPath"]
        for mount in manifest("Deployment")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    }
    assert config["state_dir"] == mounted["state"]
    for kind, key in (("api_keys", "clients"), ("admin_keys", "ops")):
        folder, _, name = config[kind][key]["file"].rpartition("/")
        assert folder == mounted["keys"]
        assert name in manifest("Secret")["stringData"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the hooks need curl")
@pytest.mark.anyio
async def test_what_the_config_map_holds_serves(tmp_path: Path) -> None:
    data = manifest("ConfigMap")["data"]
    keys = manifest("Secret")["stringData"]
    for name, text in keys.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "vllm.sh").write_text(data["vllm.sh"])
    (tmp_path / "vllm.sh").chmod(0o555)
    models = ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-8B")
    llama, qwen = (SimulatedBackend(model, sleep_mode=True, tokens=3, load_secs=0.1) for model in models)
    async with llama.serving() as (_, one), qwen.serving() as (_, other):
        text = data["config.yaml"].replace("/run/secrets/llmux/", "").replace("/var/lib/llmux", "state")
        text = text.replace("http://llama:8000", f"http://127.0.0.1:{one}")
        text = text.replace("http://qwen:8000", f"http://127.0.0.1:{other}")
        (tmp_path / "config.yaml").write_text(text)
        async with (
            llmux_process("-c", str(tmp_path / "config.yaml"), "-p", "0") as server,
            httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        ):
            for model in ("llama", "qwen", "llama"):
                answer = await client.post(
                    "/v1/chat/completions",
                    json={"model": model, "messages": [{"role": "user", "content": "Hi"}]},
                    headers={"Authorization": f"Bearer {keys['api-key']}"},
                )
                assert answer.status_code == 200, answer.text
            assert (await client.get("/v1/models")).status_code == 401
            assert await server.stop() == 0
        assert not server.events("hook_failed")


# --- the document ---------------------------------------------------------------------------------------------------


def test_files_that_commands_name_exist() -> None:
    named = {
        word
        for block in blocks(DEPLOYMENT, "sh", "")
        for word in shlex.split(block.text, comments=True)
        if word.startswith("deploy/") or word == "constraints.txt"
    }
    assert {"deploy/llmux.service", "deploy/Containerfile", "deploy/kubernetes.yaml", "constraints.txt"} == named


def test_every_file_of_the_folder_is_mentioned() -> None:
    text = DEPLOYMENT.read_text()
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert path.relative_to(ROOT).as_posix() in text
