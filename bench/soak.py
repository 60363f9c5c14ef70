"""Hours of traffic and trouble: the real process, real hooks, real backends, and things that go wrong all the time.

    python bench/soak.py [--minutes 20] [--seed 1] [--models 4] [--clients 16] [--json FILE]

Clients ask for models by a Zipf law, streamed or whole, and check every byte of what they get; some leave while they
wait, some in the middle of an answer. Meanwhile backends are killed, backends answer 500, drop connections and stop in
the middle of answers, and wake, sleep and alive hooks fail, hang, or print megabytes. Every request ends in one class:

- right: the whole answer, and the one that this model gives to this question;
- refused: an error in OpenAI's shape, with llmux's own code or with the failure that the backend was told to act out;
  for streams that had their head while they waited, it comes as their only event;
- cut: broken off in the middle, visibly, and a fault of its backend explains it;
- left: the client went away on purpose;
- lost: anything else. No answer within the deadline, a clean end of half an answer, the answer to somebody else's
  question. Must be 0: the exit status is 1 if it is not, if memory, tasks or descriptors
  grew, or if fewer than half of the requests were answered right.

The seed fixes what is asked and which trouble is made, not when the machine gets round to it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from llmux.testing.backend import answer_text
from llmux.testing.hooks import backend_hooks

DEADLINE = 120.0
"""Longer than any request may take here, in seconds."""

WARM_UP = 60.0
"""Growth is counted from here on, in seconds: by then everything has been used once."""

TOKENS = 40
TOKENS_PER_SECOND = 100.0

#: Trouble that a hook gets into when it finds a file of this name: shell text, run before the hook itself.
HOOK_TROUBLE = {
    "fail": "exit 7",
    "hang": "trap '' TERM; sleep 60",
    "print": "head -c 4000000 /dev/zero | tr '\\0' 'x'",
    "daemon": "sleep 20 &",
}
BACKEND_TROUBLE: list[dict[str, Any]] = [
    {"kind": "status", "status": 500},
    {"kind": "die"},
    {"kind": "die", "after": 5},
    {"kind": "malformed"},
    {"kind": "malformed", "after": 3},
    {"kind": "slow", "delay_secs": 2.0},
]
#: What the scheduler and the relay may answer when things go wrong; `wire/errors.py` has the rest, which clients cause.
HONEST = {
    (429, "queue_full"), (502, "backend_error"), (503, "hook_failed"), (503, "model_backoff"), (503, "device_lost"),
    (503, "switch_failed"), (503, "request_aborted"), (504, "backend_timeout"), (504, "queue_timeout"),
}  # fmt: skip
REFUSED_IN_STREAM = {code: status for status, code in HONEST if code != "backend_error"}


@dataclass
class Tally:
    """What became of the requests, and what was done to them."""

    ends: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def lose(self, what: str) -> None:
        self.ends["lost"] += 1
        self.lost.append(what)


class Box:
    """The models, their hooks and files, and the process of llmux."""

    def __init__(self, folder: Path, models: int) -> None:
        self.folder = folder
        self.ports = dict(zip([f"model-{n}" for n in range(models)], free_ports(models), strict=True))
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""
        self.struck: dict[str, float] = dict.fromkeys(self.ports, float("-inf"))
        """When something last befell a model's backend, on the monotonic clock."""

    async def start(self) -> None:
        config = {
            "models": {name: self._model(name, port) for name, port in self.ports.items()},
            "policy": {"name": "break-even", "max_wait_secs": 15, "request_timeout_secs": 60},
            "hook_timeout_secs": {"wake": 20, "sleep": 15, "alive": 5},
            "drain_timeout_secs": 10,
            "alive_interval_secs": 2,
            "event_log": "events.jsonl",
            "event_log_max_bytes": "4MiB",
            "on_exit": "sleep",
            "port": 0,
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))
        with (self.folder / "llmux.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "llmux", "-c", "config.yaml", "--log-format", "json", cwd=self.folder, stderr=log
            )
        async with asyncio.timeout(30):
            while not (listening := [one for one in self.log() if one["event"] == "listening"]):  # noqa: ASYNC110  # a file
                await asyncio.sleep(0.1)  # a file tells nobody
        self.url = str(listening[0]["url"])

    def _model(self, name: str, port: int) -> dict[str, Any]:
        scripts = backend_hooks(
            name, port=port, directory=self.folder, tokens=TOKENS, tokens_per_second=TOKENS_PER_SECOND, load_secs=0.2
        )
        return {
            "port": port,
            "wake": self._troubled(name, "wake") + scripts.wake,
            "sleep": self._troubled(name, "sleep") + scripts.sleep,
            "alive": self._troubled(name, "alive") + scripts.alive,
        }

    def _troubled(self, name: str, hook: str) -> str:
        lines = [
            f"if rm '{self.folder}/{name}.{hook}.{trouble}' 2>/dev/null; then\n{script}\nfi\n"
            for trouble, script in HOOK_TROUBLE.items()
        ]
        return "".join(lines)

    def log(self) -> list[dict[str, Any]]:
        lines = (self.folder / "llmux.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def pid_of(self, model: str) -> int | None:
        try:
            return int((self.folder / f"backend-{self.ports[model]}.pid").read_text())
        except (OSError, ValueError):
            return None

    async def usage(self, client: httpx.AsyncClient) -> dict[str, float]:
        """Resident memory in MiB, descriptors, tasks, child processes of llmux now."""
        assert self.process is not None
        metrics = (await client.get("/metrics")).text
        values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        children = children_of(self.process.pid)
        return {
            "memory_mib": float(values["process_resident_memory_bytes"]) / 2**20,
            "descriptors": float(values["process_open_fds"]),
            "tasks": float(values["llmux_tasks"]),
            "children": float(children),
        }

    def kill(self) -> None:
        """End whatever still runs."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        for model in self.ports:
            pid = self.pid_of(model)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(90):
            return await self.process.wait()


def children_of(pid: int) -> int:
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


# --- clients --------------------------------------------------------------------------------------------------------


class CutError(Exception):
    """The answer was broken off, and said so."""


class Client:
    """Asks one question after another, and looks at every answer."""

    def __init__(self, number: int, box: Box, tally: Tally, seed: int) -> None:
        self.number = number
        self.box = box
        self.tally = tally
        self.random = random.Random(f"{seed}/{number}")  # noqa: S311  # a load, not a secret
        self.asked = 0
        names = list(box.ports)
        self.names, self.weights = names, [1 / (rank + 1) for rank in range(len(names))]

    async def run(self, until: float) -> None:
        async with httpx.AsyncClient(base_url=self.box.url, timeout=DEADLINE) as client:
            while time.monotonic() < until:
                await asyncio.sleep(self.random.expovariate(2.0))
                await self.ask(client)

    async def ask(self, client: httpx.AsyncClient) -> None:
        self.asked += 1
        model = self.random.choices(self.names, self.weights)[0]
        prompt = f"client {self.number} question {self.asked}"
        streamed = self.random.random() < 0.7
        patience = self.random.uniform(0.01, 3.0) if self.random.random() < 0.1 else DEADLINE
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": streamed}
        began = time.monotonic()
        what = f"{model}, {prompt!r}"
        try:
            async with asyncio.timeout(patience):
                status, text, complete = await (self.stream if streamed else self.whole)(client, body)
        except TimeoutError:
            if patience < DEADLINE:
                self.tally.ends["left"] += 1
            else:
                self.tally.lose(f"{what}: no answer within {DEADLINE:.0f} s")
        except (httpx.HTTPError, CutError) as error:
            broken = isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError, CutError))
            if broken and self.box.struck[model] >= began - 30:
                self.tally.ends["cut"] += 1
            else:
                self.tally.lose(f"{what}: {type(error).__name__} {error}")
        else:
            self.judge(what, status, text, complete, answer_text(model, prompt, TOKENS), began, model)

    def judge(self, what: str, status: int, text: str, complete: bool, expected: str, began: float, model: str) -> None:
        if status == 200 and complete:
            if text == expected:
                self.tally.ends["right"] += 1
            else:
                self.tally.lose(f"{what}: answered {text!r}")
        elif status == 200:
            self.tally.lose(f"{what}: half an answer that ended cleanly, {text!r}")
        else:
            code = self.code(text)
            if (status, code) in HONEST or (status == 500 and code == "as scripted"):
                self.tally.ends["refused"] += 1
                self.tally.refusals[f"{status} {code}"] += 1
            else:
                self.tally.lose(f"{what}: {status} {text[:200]!r}")

    @staticmethod
    def code(text: str) -> str:
        try:
            error = json.loads(text)["error"]
            return str(error["message"] if error["message"] == "as scripted" else error.get("code"))
        except (ValueError, KeyError, TypeError):
            return ""

    async def whole(self, client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, str, bool]:
        response = await client.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            return response.status_code, response.text, False
        return 200, response.json()["choices"][0]["message"]["content"], True

    async def stream(self, client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, str, bool]:
        pieces: list[str] = []
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                return response.status_code, (await response.aread()).decode(), False
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return 200, "".join(pieces), True
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        code = event["error"].get("code")
                        if not pieces and code in REFUSED_IN_STREAM:  # its head came while it waited
                            return REFUSED_IN_STREAM[code], line[6:], False
                        raise CutError(event["error"]["message"])
                    pieces.append(event["choices"][0]["delta"].get("content", ""))
        return 200, "".join(pieces), False


# --- trouble ---------------------------------------------------------------------------------------------------------


class Chaos:
    """Does one bad thing after another, `every` seconds apart on average."""

    def __init__(self, box: Box, tally: Tally, seed: int, every: float) -> None:
        self.box = box
        self.tally = tally
        self.random = random.Random(f"{seed}/chaos")  # noqa: S311  # a load, not a secret
        self.every = every

    async def run(self, until: float) -> None:
        deeds = [self.kill, self.break_backend, self.break_backend, self.break_hook, self.break_hook]
        async with httpx.AsyncClient(timeout=2.0) as client:
            while time.monotonic() < until:
                await asyncio.sleep(self.random.expovariate(1 / self.every))
                deed = self.random.choice(deeds)
                up = [model for model in self.box.ports if self.box.pid_of(model) is not None]
                models = list(self.box.ports) if deed == self.break_hook else up
                if models:
                    await deed(self.random.choice(models), client)

    async def kill(self, model: str, client: httpx.AsyncClient) -> None:
        pid = self.box.pid_of(model)
        if pid is not None:
            self.note(model, "backend killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def break_backend(self, model: str, client: httpx.AsyncClient) -> None:
        fault = self.random.choice(BACKEND_TROUBLE)
        try:
            await client.post(f"http://127.0.0.1:{self.box.ports[model]}/_script", json=fault)
        except httpx.HTTPError:
            return  # it is asleep
        self.note(model, f"backend: {fault['kind']}{' in the middle' if 'after' in fault else ''}")

    async def break_hook(self, model: str, client: httpx.AsyncClient) -> None:
        hook = self.random.choice(["wake", "wake", "sleep", "alive"])
        trouble = self.random.choice(list(HOOK_TROUBLE))
        self.note(model, f"{hook} hook: {trouble}")
        (self.box.folder / f"{model}.{hook}.{trouble}").touch()

    def note(self, model: str, what: str) -> None:
        self.tally.troubles[what] += 1
        self.box.struck[model] = time.monotonic()


# --- the run ---------------------------------------------------------------------------------------------------------


def table(tally: Tally, began: float, options: argparse.Namespace) -> Table:
    done = (time.monotonic() - began) / 60
    shown = Table(title=f"{done:.1f} of {options.minutes:g} minutes")
    for column in ("requests", "right", "refused", "cut", "left", "lost", "troubles"):
        shown.add_column(column, justify="right")
    ends = tally.ends
    counts = [sum(ends.values()), *[ends[key] for key in ("right", "refused", "cut", "left", "lost")]]
    shown.add_row(*map(str, counts), str(sum(tally.troubles.values())))
    return shown


async def watch(tally: Tally, began: float, until: float, options: argparse.Namespace, console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while time.monotonic() < until:
            live.update(table(tally, began, options), refresh=True)
            await asyncio.sleep(1.0 if console.is_terminal else 30.0)


async def soak(options: argparse.Namespace, folder: Path) -> int:
    console = Console()
    box, tally = Box(folder, options.models), Tally()
    await box.start()
    try:
        return await soaked(options, box, tally, console)
    finally:
        box.kill()


async def soaked(options: argparse.Namespace, box: Box, tally: Tally, console: Console) -> int:
    began = time.monotonic()
    until = began + options.minutes * 60
    async with httpx.AsyncClient(base_url=box.url, timeout=30.0) as client:
        async with asyncio.TaskGroup() as group:
            for number in range(options.clients):
                group.create_task(Client(number, box, tally, options.seed).run(until))
            group.create_task(Chaos(box, tally, options.seed, options.trouble_every).run(until - 20))
            group.create_task(watch(tally, began, until, options, console))
            await asyncio.sleep(min(WARM_UP, options.minutes * 15))
            first = await box.usage(client)
        await asyncio.sleep(10)  # idle connections to backends end
        last = await box.usage(client)
    code = await box.stop()
    return report(options, box, tally, first, last, code, console)


def report(
    options: argparse.Namespace,
    box: Box,
    tally: Tally,
    first: dict[str, float],
    last: dict[str, float],
    code: int,
    console: Console,
) -> int:
    log = Counter(str(line["event"]) for line in box.log())
    requests = sum(tally.ends.values())
    result = {
        "minutes": options.minutes,
        "seed": options.seed,
        "requests": requests,
        **{key: tally.ends[key] for key in ("right", "refused", "cut", "left", "lost")},
        "refusals": dict(tally.refusals.most_common()),
        "troubles": dict(tally.troubles.most_common()),
        "log": {name: log[name] for name in ("model_activated", "switch_failed", "model_died", "model_lost")},
        "start": first,
        "end": last,
        "exit_status": code,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    console.print(json.dumps(result, indent=2))
    for what in tally.lost[:20]:
        console.print("lost:", what, markup=False)
    grown = [
        name
        for name, allowed in (("memory_mib", max(10.0, first["memory_mib"] * 0.1)), ("descriptors", 8), ("tasks", 4))
        if last[name] > first[name] + allowed
    ]
    if grown:
        console.print(f"grown: {', '.join(grown)}")
    if code:
        console.print(f"llmux ended with {code}")
    served = tally.ends["right"] >= requests / 2
    if not served:
        console.print("not even half of the requests were answered right: llmux did not recover from something")
    return 1 if tally.ends["lost"] or grown or code or not served else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--trouble-every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this folder, and leave it")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        return asyncio.run(soak(options, options.keep.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(soak(options, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
