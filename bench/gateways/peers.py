"""Whom llmux is measured with: how each is configured and started, and what it can be asked to do.

Every peer gets the configuration that its own documentation recommends for this, and one processor. None of them logs
requests. Names of models are ``bench-0``, ``bench-1``, …; all are served by one backend.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .processes import libraries

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Setup:
    """What a peer is to serve.

    Attributes:
        folder: for its files, its own.
        backend: the port of the backend.
        models: how many.
        wake: the wake hook's script, where there are hooks.
        sleep: the sleep hook's.
        waits_for_ready: the wake of a model ends only when there is a file `go` in the folder and the backend's /ready
            answers 200.
        two_devices: there are two devices, and every other model has its place on the second; so bench-0 can serve
            while others wait, and it waits for nothing.
    """

    folder: Path
    backend: int
    models: int = 2
    wake: str = ""
    sleep: str = ""
    waits_for_ready: bool = False
    two_devices: bool = False

    def wake_script(self) -> str:
        """The hooks note in a file whether the model is awake, with what the shell has built in."""
        script = self.wake
        if self.waits_for_ready:
            script = f"until [ -e {self.folder}/go ]; do sleep 0.02; done"
            if self.two_devices:
                script = f"[ $LLMUX_MODEL = bench-0 ] || {script}"
        return "; ".join(filter(None, [script, f"echo 1 > {self.folder}/$LLMUX_MODEL"]))

    def sleep_script(self) -> str:
        return "; ".join(filter(None, [self.sleep, f"echo 0 > {self.folder}/$LLMUX_MODEL"]))

    def alive_script(self) -> str:
        return f'read on < {self.folder}/$LLMUX_MODEL && [ "$on" = 1 ]'


class Peer(ABC):
    """Attributes:
    key: on the command line and in the results.
    title: for people.
    about: what it is compared for, in one line.
    waits: it lets requests wait for a model that is asleep, and switches.
    slow: so slow that one round tells all.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    waits: ClassVar[bool] = False
    slow: ClassVar[bool] = False

    def __init__(self, peers: Path) -> None:
        self.peers = peers

    @abstractmethod
    def program(self) -> str | None:
        """The path of what is started, or None if it is not here."""

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def command(self, setup: Setup, port: int) -> list[str]:
        """Write the configuration to `setup.folder`; returns the command that serves it on `port` of 127.0.0.1."""

    def environment(self, setup: Setup) -> Mapping[str, str]:
        return {}

    def _require(self) -> str:
        program = self.program()
        assert program is not None, f"{self.key} is not here"
        return program


class Llmux(Peer):
    key, title, waits = "llmux", "llmux", True
    about = "this checkout"

    def program(self) -> str | None:
        named = os.environ.get("LLMUX_PYTHON")
        return which(Path(named)) if named else sys.executable

    def version(self) -> str:
        python = self._require()
        version = said([python, "-m", "llmux", "--version"]).split()[-1]
        commit = said(["git", "-C", str(HERE), "describe", "--always", "--dirty"])
        return f"{version} ({commit}), {said([python, '-c', PYTHON_VERSION])}"

    def command(self, setup: Setup, port: int) -> list[str]:
        return [self._require(), "-m", "llmux", "-c", str(self.configuration(setup)), "-p", str(port)]

    def environment(self, setup: Setup) -> Mapping[str, str]:
        # As when it is installed: compiled once, not at every start.
        return {"PYTHONDONTWRITEBYTECODE": ""}

    def configuration(self, setup: Setup) -> Path:
        hooks = {"wake": setup.wake_script(), "sleep": setup.sleep_script(), "alive": setup.alive_script()}
        config: dict[str, object] = {}
        models: dict[str, dict[str, object]] = {
            f"bench-{n}": {"port": setup.backend, **hooks} for n in range(setup.models)
        }
        if setup.two_devices:
            config["devices"] = {f"gpu{n}": "1GiB" for n in range(2)}
            for n, model in enumerate(models.values()):
                model["needs"] = {f"gpu{n % 2}": "1GiB"}
        config["models"] = models
        path = setup.folder / "llmux.json"
        path.write_text(json.dumps(config))
        return path


class Compiled(Llmux):
    key, title = "llmux-compiled", "llmux, compiled"
    about = "this checkout, its request path compiled by mypyc"

    def program(self) -> str | None:
        named = os.environ.get("LLMUX_COMPILED")
        return which(Path(named) if named else self.peers / "llmux-compiled/bin/python")


class Llmux24(Llmux):
    key, title = "llmux-2.4.0", "llmux 2.4.0 (Rust)"
    about = "axum, hyper and tokio; what llmux takes the place of"

    def program(self) -> str | None:
        return which(self.peers / "llmux-2.4.0/bin/llmux")

    def version(self) -> str:
        return said([self._require(), "--version"]).split()[-1]

    def command(self, setup: Setup, port: int) -> list[str]:
        return [self._require(), "-c", str(self.configuration(setup)), "-p", str(port)]

    def environment(self, setup: Setup) -> Mapping[str, str]:
        return {"RUST_LOG": "warn"}


class LlamaSwap(Peer):
    key, title, waits = "llama-swap", "llama-swap", True
    about = "Go; starts and stops the backends' processes"

    def program(self) -> str | None:
        named = os.environ.get("LLAMA_SWAP")
        return which(Path(named)) if named else which(self.peers / "llama-swap/bin/llama-swap")

    def version(self) -> str:
        shown = said(["go", "version", "-m", self._require()])
        module = re.search(r"^\s*mod\s+\S+\s+(\S+)", shown, re.MULTILINE)
        return module[1] if module else said([self._require(), "-version"])

    def command(self, setup: Setup, port: int) -> list[str]:
        # Its hooks are the start and the end of a process. This one stays, as a backend would; another serves. Each
        # has as much to do as the others' hooks.
        script = "; ".join(filter(None, [setup.wake, f"echo 1 > {setup.folder}/on", "exec sleep 100000"]))
        stop = "; ".join(filter(None, [setup.sleep, f"echo 0 > {setup.folder}/on", "kill ${PID}"]))
        model = {
            "cmd": f"sh -c '{script}'",
            "cmdStop": f"sh -c '{stop}'",
            "proxy": f"http://127.0.0.1:{setup.backend}",
            "checkEndpoint": "/ready" if setup.waits_for_ready else "none",
            "concurrencyLimit": 100_000,  # its default is 10 requests at a time
        }
        config = {
            "logLevel": "error",
            "logToStdout": "none",
            "models": {f"bench-{n}": model for n in range(setup.models)},
        }
        path = setup.folder / "llama-swap.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return [self._require(), "-config", str(path), "-listen", f"127.0.0.1:{port}"]


class Nginx(Peer):
    key, title = "nginx", "nginx (plain proxy)"
    about = "C; never looks into a body: the native reference"

    def program(self) -> str | None:
        return which("nginx", self.peers / "debian/usr/sbin/nginx")

    def version(self) -> str:
        return said([self._require(), "-v"]).rpartition("/")[2]

    def command(self, setup: Setup, port: int) -> list[str]:
        return nginx_command(
            self._require(),
            setup.folder,
            f"""
            upstream backend {{
                server 127.0.0.1:{setup.backend};
                keepalive 1000;
                keepalive_requests 1000000000;
            }}
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                location / {{
                    proxy_pass http://backend;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_buffering off;
                    proxy_request_buffering off;
                    proxy_read_timeout 1h;
                }}
            }}""",
        )


def nginx_command(program: str, folder: Path, http: str) -> list[str]:
    """nginx in the foreground with one worker, all its files in `folder`."""
    paths = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    path = folder / "nginx.conf"
    path.write_text(
        f"""
        daemon off;
        worker_processes 1;
        worker_rlimit_nofile 20000;
        pid {folder}/nginx.pid;
        error_log {folder}/nginx.log crit;
        events {{ worker_connections 19000; }}
        http {{
            access_log off;
            client_body_temp_path {folder}/body;
            {paths}
            client_max_body_size 0;
            client_header_buffer_size 32k;
            keepalive_timeout 1h;
            keepalive_requests 1000000000;
            tcp_nodelay on;
            {http}
        }}"""
    )
    return [program, "-p", str(folder), "-e", str(folder / "nginx.log"), "-c", str(path)]


class Haproxy(Peer):
    key, title = "haproxy", "haproxy (plain proxy)"
    about = "C; never looks into a body"

    def program(self) -> str | None:
        return which("haproxy", self.peers / "debian/usr/sbin/haproxy")

    def version(self) -> str:
        return said([self._require(), "-v"], libraries(self._require())).split()[2]

    def environment(self, setup: Setup) -> Mapping[str, str]:
        return libraries(self._require())

    def command(self, setup: Setup, port: int) -> list[str]:
        path = setup.folder / "haproxy.cfg"
        path.write_text(
            f"""
global
    nbthread 1
    maxconn 9000
defaults
    mode http
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    http-reuse always
    option http-no-delay
frontend all
    bind 127.0.0.1:{port} backlog 4096
    default_backend one
backend one
    server one 127.0.0.1:{setup.backend} pool-max-conn 1000
"""
        )
        return [self._require(), "-db", "-f", str(path)]


class LiteLLM(Peer):
    key, title, slow = "litellm", "LiteLLM proxy", True
    about = "Python: FastAPI, uvicorn; translates between providers"

    def program(self) -> str | None:
        return which(self.peers / "litellm/bin/litellm")

    def version(self) -> str:
        return package_version(self.peers / "litellm/bin/python", "litellm")

    def environment(self, setup: Setup) -> Mapping[str, str]:
        return {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no peer asks for keys here
        }

    def command(self, setup: Setup, port: int) -> list[str]:
        backend = f"http://127.0.0.1:{setup.backend}/v1"
        config = {
            "model_list": [
                {
                    "model_name": f"bench-{n}",
                    "litellm_params": {"model": f"openai/bench-{n}", "api_base": backend, "api_key": "none"},
                }
                for n in range(setup.models)
            ],
            "litellm_settings": {"telemetry": False},
        }
        path = setup.folder / "litellm.yaml"
        path.write_text(json.dumps(config))
        where = ["--host", "127.0.0.1", "--port", str(port)]
        return [self._require(), "--config", str(path), *where, "--num_workers", "1"]


class FastApi(Peer):
    key, title, slow = "fastapi", "FastAPI + httpx", True
    about = "Python: 40 lines that a team would write itself"

    def program(self) -> str | None:
        return which(self.peers / "fastapi/bin/uvicorn")

    def version(self) -> str:
        python = self.peers / "fastapi/bin/python"
        return ", ".join(f"{name} {package_version(python, name)}" for name in ("fastapi", "httpx", "uvicorn"))

    def environment(self, setup: Setup) -> Mapping[str, str]:
        names = {f"bench-{n}": f"http://127.0.0.1:{setup.backend}" for n in range(setup.models)}
        return {"BACKENDS": json.dumps(names)}

    def command(self, setup: Setup, port: int) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(port)]
        quiet = ["--no-access-log", "--log-level", "warning"]
        return [self._require(), "--app-dir", str(HERE), "fastapi_relay:app", *where, *quiet]


PEERS: tuple[type[Peer], ...] = (Llmux, Compiled, Llmux24, LlamaSwap, Nginx, Haproxy, FastApi, LiteLLM)

BUILDS = (Llmux.key, Compiled.key)
"""Those that are this checkout."""


def which(*places: str | Path) -> str | None:
    """The first of them that can be run: a name is looked for in the path, and where the system's daemons are."""
    for place in places:
        path = str(place) if isinstance(place, Path) else place
        found = shutil.which(path, path=None if isinstance(place, Path) else f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if found is not None:
            return os.path.abspath(found)  # not resolved: a virtual environment's python is a link
    return None


def said(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    return done.stdout.strip()


PYTHON_VERSION = """
import sys, timeit
from llmux.gateway import exchange
kind = "plain" if exchange.__file__.endswith(".py") else "compiled"
best = min(timeit.repeat("for _ in range(100_000): x = (1, _)[1]", number=10, repeat=5)) * 1e3
version = sys.version.split()[0]
print(f"{kind}, Python {version}, which does a million turns of a small loop in {best:.0f} ms")
"""
"""Says how llmux is built and with which Python it runs, which does not tell whether it was built with a profile. But
it can be seen: one that was not, as pyenv does it unless told otherwise, takes half as long again for that loop."""


def package_version(python: Path, package: str) -> str:
    return said([str(python), "-c", f"import importlib.metadata as m; print(m.version('{package}'))"])
