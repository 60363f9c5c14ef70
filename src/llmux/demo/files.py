"""The files of the demo: a configuration and a hook script, as a newcomer would write them for two servers.

Writes into one folder; starts nothing but the script's own ``stop``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from llmux.demo.models import MODELS
from llmux.testing.hooks import service_script

SIMULATED = {
    "smollm2": "--tokens-per-second 60 --load-secs 0.8 --first-token-secs 0.2 --tokens 40",
    "gemma3": "--tokens-per-second 30 --load-secs 1.5 --first-token-secs 0.4 --tokens 30",
}

_CONFIG = """\
# Two models, and room for one. llmux runs a model's hooks in this folder,
# with LLMUX_MODEL and LLMUX_PORT in their environment.
models:
  smollm2:
    port: {smollm2}
    wake: ./server.sh start   # exit 0: it is ready to serve
    sleep: ./server.sh stop   # exit 0: its memory is free
    alive: ./server.sh alive  # exit 0: it is healthy
  gemma3:
    port: {gemma3}
    wake: ./server.sh start
    sleep: ./server.sh stop
    alive: ./server.sh alive

port: {port}
on_exit: sleep  # when llmux stops, so do the models
"""

_HEAD = """\
#!/bin/sh
# Starts, stops and checks the server of one model: server.sh start|stop|alive. The model is $LLMUX_MODEL.
set -eu
cd "$(dirname "$0")"
python={python}
pid_file=$LLMUX_MODEL.pid
log_file=$LLMUX_MODEL.log
mark={mark}
"""

_TAIL = """\

case "$1" in
    start) start {command} ;;
    stop) stop ;;
    alive) alive ;;
esac
"""


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """What was written where."""

    config: Path
    script: Path

    def stop_servers(self) -> None:
        """Run the script's ``stop`` for every model: nothing happens if llmux has done that already."""
        for model in MODELS:
            subprocess.run([self.script, "stop"], env={**os.environ, "LLMUX_MODEL": model}, check=False)

    def log_of(self, model: str) -> Path:
        """The output of a model's server."""
        return self.script.with_name(f"{model}.log")


def write_files(folder: Path, *, simulated: bool, port: int | None) -> DemoFiles:
    """Write ``config.yaml`` and ``server.sh`` into `folder`, and stop what an earlier demo may have left running there.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = DemoFiles(config=folder.resolve() / "config.yaml", script=folder.resolve() / "server.sh")
    files.script.write_text(_script(simulated=simulated))
    files.script.chmod(0o755)
    files.stop_servers()
    ports = {"smollm2": _free_port(8001), "gemma3": _free_port(8002)}
    files.config.write_text(_CONFIG.format(**ports, port=_free_port(3000) if port is None else port or _free_port()))
    return files


def _script(*, simulated: bool) -> str:
    if simulated:
        choices = "".join(f'\n        {model}) echo "{flags}" ;;' for model, flags in SIMULATED.items())
        flags = f'$(case "$LLMUX_MODEL" in{choices}\n    esac)'
        module = "llmux.testing"
        command = f'"$python" -m {module} backend --model "$LLMUX_MODEL" --port "$LLMUX_PORT" {flags}'
    else:
        module = "llmux.demo.server"
        command = f'"$python" -m {module} --model "$LLMUX_MODEL" --port "$LLMUX_PORT"'
    head = _HEAD.format(python=shlex.quote(sys.executable), mark=module)
    return service_script(head=head, health=_health_check()) + _TAIL.format(command=command)


def _health_check() -> str:
    url = '"http://127.0.0.1:$LLMUX_PORT/health"'
    if shutil.which("curl"):
        return f"curl --silent --fail --max-time 5 --output /dev/null {url}"
    code = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)"
    return f"\"$python\" -c '{code}' {url} 2>/dev/null"


def _free_port(preferred: int = 0) -> int:
    """`preferred` if nobody listens on it, or else any free port of 127.0.0.1."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", preferred))
        except OSError:
            sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
