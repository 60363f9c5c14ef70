"""The models, their hooks and files, and the lives of llmux: started, told to reload, killed, started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from llmux.testing.hooks import backend_hooks

from .plan import HOOK_TROUBLE
from .shadow import shadowed
from .usage import Life

TOKENS = 40
TOKENS_PER_SECOND = 100.0
LONGEST_WAIT = 60.0
"""`request_timeout_secs`."""

DEVICES = ("gpu0", "gpu1")
NEED = 20
"""What a model needs of a device, in GiB. Devices have 24 to 36, so that there is room for one model on each."""

#: The devices that a model needs: on all of these, or, if there is an `or`, on one of them.
PLACES: list[tuple[str, ...]] = [("gpu0",), ("gpu1",), ("gpu0", "or", "gpu1"), ("gpu0", "gpu1")]
POLICIES: list[dict[str, Any]] = [
    {"name": "break-even", "max_wait_secs": 15},
    {"name": "fifo"},
    {"name": "drain-first", "max_wait_secs": 10},
    {"name": "break-even", "max_wait_secs": 8, "patience": 0.5},
]


class Box:
    """One folder, some models, and llmux, which always listens on the same port.

    Attributes:
        devices: those on which each model may be.
        aliases: the newest name of each model that llmux has said it knows.
        lives: what each process of llmux used.
    """

    def __init__(self, folder: Path, models: int) -> None:
        self.folder = folder
        names = [f"model-{number}" for number in range(models)]
        port, *ports = free_ports(models + 1)
        self.port = port
        self.ports = dict(zip(names, ports, strict=True))
        self.places = {name: PLACES[number % len(PLACES)] for number, name in enumerate(names)}
        self.devices = {name: frozenset(place) - {"or"} for name, place in self.places.items()}
        self.url = f"http://127.0.0.1:{port}"
        self.offset = time.time() - time.monotonic()
        self.aliases: dict[str, str] = {}
        self.lives: list[Life] = []
        self.listening = asyncio.Event()
        self.changes = 0
        self.died: list[str] = []
        """How llmux ended when nobody had told it to."""
        self._known: dict[str, list[str]] = {name: [] for name in names}
        self._sizes = dict.fromkeys(DEVICES, 24)
        self._policy = 0
        self._process: asyncio.subprocess.Process | None = None
        self._wanted = False
        (folder / "held").mkdir(exist_ok=True)
        for device in DEVICES:
            (folder / "held" / device).mkdir(exist_ok=True)

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    # --- the configuration -------------------------------------------------------------------------------------------

    def write(self) -> None:
        """The configuration as it is now, put in its place at once."""
        config = {
            "devices": {device: f"{size}GiB" for device, size in self._sizes.items()},
            "models": {name: self._model(name, port) for name, port in self.ports.items()},
            "policy": {**POLICIES[self._policy], "request_timeout_secs": LONGEST_WAIT},
            "hook_timeout_secs": {"wake": 15, "sleep": 10, "alive": 8},
            "timeouts_secs": {"response": 10, "between_bytes": 6},
            "drain_timeout_secs": 8,
            "alive_interval_secs": 2,
            "event_log": self.events.name,
            "event_log_max_bytes": "4MiB",
            "event_log_keep": 1000,
            "state_dir": "state",
            "on_exit": "sleep",
            "port": self.port,
        }
        new = self.folder / "config.yaml.new"
        new.write_text(yaml.safe_dump(config))
        new.replace(self.folder / "config.yaml")

    def _model(self, name: str, port: int) -> dict[str, Any]:
        scripts = backend_hooks(
            name, port=port, directory=self.folder, tokens=TOKENS, tokens_per_second=TOKENS_PER_SECOND, load_secs=0.2
        )
        place = self.places[name]
        pid_file = self.folder / f"backend-{port}.pid"
        hooks = {
            hook: shadowed(
                text, hook, box=self.folder, model=name, devices=sorted(self.devices[name]), pid_file=pid_file
            )
            for hook, text in (("wake", scripts.wake), ("sleep", scripts.sleep), ("alive", scripts.alive))
        }
        needs: Any = f"{NEED}GiB" if "or" in place else dict.fromkeys(place, f"{NEED}GiB")
        return {"port": port, "needs": needs, "aliases": self._known[name], **hooks}

    async def reload(self, what: str, model: str) -> str:
        """Change something, send SIGHUP and wait for llmux's word; says what was changed, or what went wrong."""
        self.changes += 1
        if what == "alias":
            alias = f"{model}-as-{self.changes}"
            self._known[model] = [*self._known[model][-2:], alias]  # who has asked for an older one is answered by now
            said = alias
        elif what == "device":
            device = DEVICES[self.changes % len(DEVICES)]
            self._sizes[device] = NEED + 4 + self.changes * 5 % 13
            said = f"{device} of {self._sizes[device]} GiB"
        else:
            self._policy = (self._policy + 1) % len(POLICIES)
            said = str(POLICIES[self._policy])
        self.write()
        process, life = self._process, len(self.lives)
        if process is None or process.returncode is not None or not self.listening.is_set():
            return "only written down"
        before = self._count("config_reloaded", life)
        process.send_signal(signal.SIGHUP)
        for _ in range(100):
            if len(self.lives) != life or not self.listening.is_set():
                return "only written down"  # killed meanwhile; the next one reads it
            if self._count("config_reload_failed", life):
                return "failed"
            if self._count("config_reloaded", life) > before:
                if what == "alias":
                    self.aliases[model] = said
                return said
            await asyncio.sleep(0.1)
        return "no answer"

    # --- the process -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Another life; returns once it listens.

        Raises:
            TimeoutError: it did not within a minute.
        """
        life = len(self.lives) + 1
        with (self.folder / f"llmux-{life}.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "llmux", "-c", "config.yaml", "--log-format", "json", cwd=self.folder, stderr=log
            )
        async with asyncio.timeout(60):
            while not self._count("listening", life):
                if self._process.returncode is not None:
                    raise RuntimeError(f"llmux did not start: see llmux-{life}.log")
                await asyncio.sleep(0.1)  # a file tells nobody
        self._wanted = True
        self.lives.append(Life(time.monotonic()))
        self.aliases = {model: known[-1] for model, known in self._known.items() if known}
        self.listening.set()

    def log(self, life: int) -> list[dict[str, Any]]:
        path = self.folder / f"llmux-{life}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        entries = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the last one may be cut
                entries.append(json.loads(line))
        return [entry for entry in entries if isinstance(entry, dict)]

    def _count(self, event: str, life: int) -> int:
        return sum(entry.get("event") == event for entry in self.log(life))

    async def kill_llmux(self) -> None:
        """kill -9, and a new start."""
        assert self._process is not None
        self._wanted = False
        self.listening.clear()
        self._process.kill()
        await self._process.wait()
        self.lives[-1].ended = time.monotonic()
        await self.start()

    def check(self) -> None:
        """Note it if llmux has ended by itself.

        Raises:
            RuntimeError: it has.
        """
        if self._wanted and self._process is not None and self._process.returncode is not None:
            self._wanted = False
            self.died.append(f"life {len(self.lives)} ended by itself with {self._process.returncode}")
            raise RuntimeError(self.died[-1])

    async def stop(self) -> int:
        """SIGTERM, once no trouble is left for its last hooks; its status."""
        assert self._process is not None
        for trouble in HOOK_TROUBLE:
            for path in self.folder.glob(f"*.*.{trouble}"):
                path.unlink(missing_ok=True)
        self._wanted = False
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(120):
            status = await self._process.wait()
        self.lives[-1].ended = time.monotonic()
        return status

    def kill(self) -> None:
        """End whatever still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        for model in self.ports:
            pid = self.pid_of(model)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def pid_of(self, model: str) -> int | None:
        """The process of a model's backend, if there is one."""
        try:
            pid = int((self.folder / f"backend-{self.ports[model]}.pid").read_text())
            return pid if b"llmux.testing" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        except (OSError, ValueError):
            return None


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, below those that the kernel gives to outgoing connections: one of these could take a
    backend's port while its model sleeps."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, max(lowest, 10_100))  # noqa: S311  # a port, not a secret
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found += [port] if port not in found else []
    return found
