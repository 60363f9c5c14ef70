"""Wake, sleep and alive scripts for a server that is a process: start it, stop it, ask it.

Plain POSIX shell, with Python for the health check where nothing else is sure to be there. Returns text; starts
nothing itself.

The scripts do what any such hooks must: the server gets a session of its own where the system can do that, no
terminal and no pipe of llmux's; waking returns once /health answers 200, or fails once the server has died; sleeping
returns once the process is gone, by force if it must; both may be run twice. A pid file left over from another
day is not believed until the process has been looked at.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

_BODY = """\
running() {  # is the process of the pid file ours, and not dead or a zombie (which has no command line)?
    pid=$(cat "$pid_file" 2>/dev/null) || return 1
    if [ -e /proc/self/cmdline ]; then grep -qs "$mark" "/proc/$pid/cmdline"
    else ps -o command= -p "$pid" | grep -q "$mark"; fi
}

alive() {
    @HEALTH@
}

start() {
    if ! running; then
        $(command -v setsid || echo nohup) "$@" </dev/null >"$log_file" 2>&1 &
        echo $! >"$pid_file"
    fi
    until alive; do
        sleep 0.1
        running || { echo "the server did not start; $log_file ends so:" >&2; tail -n 5 "$log_file" >&2; return 1; }
    done
}

stop() {
    tries=0
    while running; do
        if [ "$tries" -eq 0 ]; then kill "$pid"; elif [ "$tries" -eq @TRIES@ ]; then kill -9 "$pid"; fi || true
        tries=$((tries + 1))
        sleep 0.05
    done
    rm -f "$pid_file"
}
"""

_PROBE = """\
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as peer:
    peer.sendall(b"GET /health HTTP/1.0\\r\\n\\r\\n")
    sys.exit(b" 200 " not in peer.recv(64))
"""


@dataclass(frozen=True, slots=True)
class HookScripts:
    """The values of a model's ``wake``, ``sleep`` and ``alive``."""

    wake: str
    sleep: str
    alive: str


def service_script(*, head: str, health: str, kill_after_secs: float = 10.0) -> str:
    """Shell functions ``start COMMAND...``, ``stop`` and ``alive``, for the rest of a script to call.

    `head` is shell text that sets ``pid_file``, ``log_file`` and ``mark``, a word that the server's command line has;
    `health` is a command that exits 0 when the server is healthy.
    """
    tries = max(1, round(kill_after_secs * 20))
    return f"{head}\n{_BODY.replace('@HEALTH@', health).replace('@TRIES@', str(tries))}"


def server_hooks(
    command: list[str],
    *,
    port: int,
    directory: Path | str,
    name: str,
    mark: str,
    kill_after_secs: float = 10.0,
) -> HookScripts:
    """Hooks for a server that `command` starts and that answers ``GET /health`` on 127.0.0.1:`port`.

    Args:
        command: program and arguments.
        port: where its health is asked for.
        directory: must exist; gets ``<name>.pid`` and ``<name>.log``.
        name: for those files; must be fit for a file's name.
        mark: a word that only this server's command line has.
        kill_after_secs: when sleeping stops asking (TERM) and uses force (KILL).
    """
    files = Path(directory).resolve() / name
    head = "\n".join(
        f"{variable}={shlex.quote(value)}"
        for variable, value in (("pid_file", f"{files}.pid"), ("log_file", f"{files}.log"), ("mark", mark))
    )
    probe = shlex.join([sys.executable, "-S", "-E", "-c", _PROBE, str(port)])
    script = service_script(head=f"set -eu\n{head}\n", health=f"{probe} 2>/dev/null", kill_after_secs=kill_after_secs)
    return HookScripts(
        wake=f"{script}\nstart {shlex.join(command)}\n", sleep=f"{script}\nstop\n", alive=f"{script}\nalive\n"
    )


def backend_hooks(model: str, *, port: int, directory: Path | str, **options: float | bool) -> HookScripts:
    """Hooks for a `SimulatedBackend` in a process of its own.

    `options` are those of ``llmux backend``: ``tokens_per_second=200, load_secs=0.5, sleep_mode=True`` and so on.
    """
    command = [sys.executable, "-m", "llmux.testing", "backend", "--model", model, "--port", str(port)]
    for key, value in options.items():
        flag = f"--{key.replace('_', '-')}"
        if value is True:
            command.append(flag)
        elif value is not False:
            command += [flag, str(value)]
    return server_hooks(command, port=port, directory=directory, name=f"backend-{port}", mark="llmux.testing")
