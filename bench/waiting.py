"""What ten thousand waiting requests cost: memory each, and how long the event loop stands still as they come and go.

    python bench/waiting.py [--requests 10000] [--rounds 3]

Three processes: a whole llmux, a backend that answers at once, and the clients, each with a connection of its own and a
chat of 1 KB. In each round the requests arrive as fast as they can, wait for a model whose wake hook has not ended, and
are cancelled together; arrive again and are granted together when the hook ends; arrive for another model, all in one
instant on the connections that are open now, and are refused together when its hook fails.

`KB each` is the growth of llmux's resident memory (/proc) per request that waits, its body apart: the most of a round.
`lag` is the longest that a timer of llmux's loop, set every 2 ms, was late; `own` is the most CPU time that its thread
took between two such timers, which says what llmux itself is to blame for on a machine that others use too. Both in ms,
per phase, the median over the rounds and the worst.

Both ends of all connections are on this machine, so the limit on descriptors must allow twice the requests and a few.
Where it does not, `max_in_flight` makes do with fewer connections to the backend; without it, fewer requests are made.
Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import uvloop

from llmux import Config, ModelConfig, build_app
from llmux.garbage import tame

BODY_SIZE = 1024
TICK = 0.002
RESET = struct.pack("ii", 1, 0)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def request(model: str) -> bytes:
    body = b'{"model": "%b", "messages": [{"role": "user", "content": "' % model.encode()
    body += b"x" * (BODY_SIZE - len(body) - 4) + b'"}]}'
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n" + (
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


# --- llmux ----------------------------------------------------------------------------------------------------------


class Lag:
    """How late a timer is, and how much CPU time of this thread went by between two of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.reset()
        self._tick()

    def reset(self) -> None:
        self.late = self.own = 0.0
        self._due = time.monotonic()
        self._cpu = time.thread_time()

    def _tick(self) -> None:
        now, cpu = time.monotonic(), time.thread_time()
        self.late = max(self.late, now - self._due)
        self.own = max(self.own, cpu - self._cpu)
        self._cpu = cpu
        self._due = now + TICK
        self._loop.call_later(TICK, self._tick)


def resident() -> int:
    """Bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def serve_llmux(folder: Path, backend: int, requests: int, rounds: int, max_in_flight: int | None) -> None:
    def model(wake: str) -> dict[str, Any]:
        return {
            "port": backend,
            "wake": wake,
            "sleep": "true",
            "alive": "false",
            "max_in_flight": max_in_flight,
        }

    # Each wake takes its own `go` away: a sleep hook that did could take the next one, given while it ran.
    # Nor does it wait for ever when this bench was stopped, and its folder is gone.
    wait = f"cd {folder}; until [ -e go ]; do [ -e {folder} ] || exit 1; sleep 0.02; done; rm go"
    config = Config(
        models={"slow": ModelConfig(**model(wait))}
        # One for each round and for the warm-up: one that has failed pauses, longer each time.
        | {f"broken-{number}": ModelConfig(**model(f"{wait}; exit 1")) for number in range(-1, rounds)},
        max_queue=requests,
        alive_interval_secs=0.0,
        port=0,
    )
    loop = asyncio.get_running_loop()
    gc.disable()  # as the command does, until `tame`
    app, switcher = await build_app(config)
    async with app.serving() as (_, port):
        end = tame(lambda: app.connections)  # as llmux.serve does
        lag = Lag(loop)
        print(port, flush=True)
        commands: asyncio.Queue[str] = asyncio.Queue()
        loop.add_reader(sys.stdin.fileno(), lambda: commands.put_nowait(os.read(0, 4096).decode()))
        while await commands.get() != "":  # any line asks for the figures since the last one
            queued = sum(switcher.queue_depths().values())
            served = switcher.in_flight_count("slow")
            figures = {"rss": resident(), "late": lag.late, "own": lag.own, "queued": queued, "in_flight": served}
            print(json.dumps(figures), flush=True)
            lag.reset()
        end()


# --- the backend ----------------------------------------------------------------------------------------------------


class Answering(asyncio.Protocol):
    transport: asyncio.Transport
    data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end >= 0 and len(self.data) >= end + 4 + BODY_SIZE:
            self.data = b""
            self.transport.write(ANSWER)


async def serve_backend() -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


# --- the clients ----------------------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, separator, _ = self.data.partition(b"\r\n\r\n")
        if separator:
            self.clients.answered(int(head[9:12]))
            self.data = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self.clients.gone()


class Clients:
    """All of one round, on connections of their own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._made: list[Client] = []
        self._statuses: dict[int, int] = {}
        self._left = 0
        self._changed = asyncio.Event()

    def answered(self, status: int) -> None:
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._changed.set()

    def gone(self) -> None:
        self._left -= 1
        self._changed.set()

    async def come(self, count: int, model: str) -> None:
        """Connect `count` clients as fast as can be, each with a request that it sends at once."""
        loop = asyncio.get_running_loop()
        data = request(model)
        while len(self._made) < count:
            several = min(200, count - len(self._made))
            making = [loop.create_connection(lambda: Client(self), "127.0.0.1", self._port) for _ in range(several)]
            for transport, client in await asyncio.gather(*making):
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                transport.write(data)
                self._made.append(client)
                self._left += 1

    def ask_again(self, model: str) -> None:
        """One more request from everybody, all within an instant."""
        data = request(model)
        for client in self._made:
            client.transport.write(data)

    async def answers(self, status: int) -> None:
        while sum(self._statuses.values()) < len(self._made):
            self._changed.clear()
            await self._changed.wait()
        assert self._statuses == {status: len(self._made)}, self._statuses
        self._statuses.clear()

    async def leave(self) -> None:
        for client in self._made:
            client.transport.abort()
        while self._left:
            self._changed.clear()
            await self._changed.wait()
        self._made.clear()


# --- all together ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def role(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.terminate()


Figures = dict[str, float]


async def ask_server(process: subprocess.Popen[str]) -> Figures:
    """What was measured since the last time."""
    stdin, stdout = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
    stdin.write("\n")
    stdin.flush()
    figures: Figures = json.loads(await asyncio.to_thread(stdout.readline))
    return figures


async def measure(requests: int, rounds: int, max_in_flight: int | None, folder: Path) -> None:
    phases: dict[str, list[Figures]] = {}
    each: list[float] = []
    arguments = ["--requests", str(requests), "--rounds", str(rounds), "--folder", str(folder)]
    if max_in_flight is not None:
        arguments += ["--max-in-flight", str(max_in_flight)]
    with (
        role("--role", "backend") as (_, backend),
        role("--role", "llmux", "--backend", str(backend), *arguments) as (llmux, port),
    ):

        async def until(queued: int) -> Figures:
            """The figures of all the time until so many wait."""
            worst: Figures = {}
            while True:
                figures = await ask_server(llmux)
                worst = {key: max(figures[key], worst.get(key, 0.0)) for key in figures} | {"rss": figures["rss"]}
                if figures["queued"] == queued:
                    return worst
                await asyncio.sleep(0.05)

        go = folder / "go"
        for number in range(-1, rounds):
            count = requests if number >= 0 else 200  # the first round loads what is loaded on first use
            clients = Clients(port)
            before = (await ask_server(llmux))["rss"]
            await clients.come(count, "slow")
            found = {"arrive": await until(count)}
            each.append((found["arrive"]["rss"] - before) / count - BODY_SIZE)
            await clients.leave()
            found["are cancelled"] = await until(0)
            await clients.come(count, "slow")
            await until(count)
            go.touch()
            await clients.answers(200)
            found["are granted"] = await until(0)
            clients.ask_again(f"broken-{number}")
            found["arrive on connections that are open"] = await until(count)
            go.touch()
            await clients.answers(503)
            found["are refused"] = await until(0)
            await clients.leave()
            if number < 0:
                each.clear()
                continue
            for name, figures in found.items():
                phases.setdefault(name, []).append(figures)
    limit = "no max_in_flight" if max_in_flight is None else f"max_in_flight {max_in_flight}"
    print(f"{requests} waiting requests, {limit}, {rounds} rounds")
    # The round in which the process grows: in later ones, some of the memory of the earlier ones is used again.
    print(f"KB each, body apart: {max(each) / 1024:.1f}")
    print("| while they | lag, ms | worst | own, ms | worst |")
    print("|---|---|---|---|---|")
    for name, all_figures in phases.items():
        cells = []
        for key in ("late", "own"):
            values = [figures[key] * 1000 for figures in all_figures]
            cells += [f"{statistics.median(values):.0f}", f"{max(values):.0f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--backend", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--max-in-flight", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.role == "backend":
        uvloop.run(serve_backend())
    elif options.role == "llmux":
        uvloop.run(
            serve_llmux(options.folder, options.backend, options.requests, options.rounds, options.max_in_flight)
        )
    else:
        for max_in_flight in (256, None):
            most = hard - 2_000  # llmux keeps some for hooks and idle connections
            if max_in_flight is None:
                most //= 2
            with tempfile.TemporaryDirectory() as folder:
                uvloop.run(measure(min(options.requests, most), options.rounds, max_in_flight, Path(folder)))


if __name__ == "__main__":
    main()
