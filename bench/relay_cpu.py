"""What a relayed request costs the gateway in CPU time: 1 KB chats, 32 connections, a backend that answers at once.

    python bench/relay_cpu.py [--rounds 7] [--requests 20000] [--connections 32] [--profile FILE]

Three processes: the gateway on core 0; its backend, and the load, on core 1. CPU time is the kernel's own count for the
gateway's process, user and system, over each round; the median over rounds is the result. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import cast

import uvloop

from llmux.addresses import BackendAddress
from llmux.gateway import Backend, Gateway, GatewaySettings, Limit
from llmux.messages import Failure, Prospects
from llmux.ports import Requester

MODEL = "bench"
BODY = b'{"model": "bench", "messages": [{"role": "user", "content": "' + b"x" * 940 + b'"}], "stream": false}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: bench\r\n"
    b"Content-Type: application/json\r\nAuthorization: Bearer none\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
ANSWER_BODY = b'{"choices": [{"message": {"role": "assistant", "content": "' + b"y" * 940 + b'"}}]}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: uvicorn\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER_BODY), ANSWER_BODY)
)


class Always:
    """A scheduler that grants everything at once."""

    def resolve(self, name: str) -> str | None:
        return name if name == MODEL else None

    def arrived(self, model: str, requester: Requester, level: int = 0) -> int:
        requester.granted(0.0, False)
        return 1

    def left(self, request_id: int) -> None:
        pass

    def finished(self, request_id: int) -> None:
        pass

    def backend_failed(self, model: str, failure: Failure, in_a_row: int) -> None:
        raise AssertionError(model)

    def backend_moved(self, model: str) -> None:
        raise AssertionError(model)

    def prospects(self, model: str) -> Prospects:
        raise AssertionError(model)


class Silent:
    def queue_waited(self, model: str, seconds: float) -> None:
        pass

    def request_done(self, model: str | None, status: int, seconds_to_first_byte: float) -> None:
        pass

    def tokens_used(self, model: str, prompt: int, answer: int) -> None:
        pass

    def limit_hit(self, limit: Limit) -> None:
        pass


class Answering(asyncio.Protocol):
    """Answers once per blank line and body, looking at nothing but lengths."""

    transport: asyncio.Transport
    data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end >= 0 and len(self.data) >= end + 4 + len(BODY):
            self.data = b""
            self.transport.write(ANSWER)


class Load(asyncio.Protocol):
    """Sends the next request when the answer to the last is whole."""

    transport: asyncio.Transport

    def __init__(self, budget: list[int], done: asyncio.Event) -> None:
        self.budget = budget
        self.done = done
        self.size = 0
        self.expected = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.next()

    def next(self) -> None:
        if self.budget[0] > 0:
            self.budget[0] -= 1
            self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        if not self.size:
            assert data.startswith(b"HTTP/1.1 200 "), data
            self.expected = data.find(b"\r\n\r\n") + 4 + len(ANSWER_BODY)
        self.size += len(data)
        if self.size == self.expected:
            self.size = 0
            self.budget[1] -= 1
            if not self.budget[1]:
                self.done.set()
            self.next()


async def serve_gateway(backend_port: int) -> None:
    gateway = Gateway(
        scheduler=Always(),
        backends={MODEL: Backend(MODEL, BackendAddress.local(backend_port))},
        control=None,
        settings=GatewaySettings(),
        observer=Silent(),
    )
    await gateway.start("127.0.0.1", 0)
    await serve_until_term(gateway.addresses[0][1])
    await gateway.close()


async def serve_backend() -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    await serve_until_term(server.sockets[0].getsockname()[1])


async def serve_until_term(port: int) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(port, flush=True)
    await stopped.wait()


async def one_round(port: int, connections: int, requests: int) -> None:
    done = asyncio.Event()
    budget = [requests, requests]
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Load(budget, done), "127.0.0.1", port) for _ in range(connections)]
    await done.wait()
    for transport, _ in made:
        transport.close()


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def role(*arguments: str) -> Iterator[tuple[int, int]]:
    with subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()


def measure(options: argparse.Namespace) -> None:
    profiling = ["--profile", options.profile] if options.profile else []
    with role("--role", "backend") as (_, backend), role("--role", f"gateway:{backend}", *profiling) as (pid, port):
        os.sched_setaffinity(0, {1})
        uvloop.run(one_round(port, options.connections, options.requests // 4))  # warm up
        costs = []
        for _ in range(options.rounds):
            before, began = cpu_seconds(pid), time.perf_counter()
            uvloop.run(one_round(port, options.connections, options.requests))
            took = time.perf_counter() - began
            costs.append((cpu_seconds(pid) - before) / options.requests * 1e6)
            print(f"  {costs[-1]:6.1f} µs of CPU per request, {options.requests / took:8.0f} requests/s")
        print(f"median {statistics.median(costs):.1f} µs, best {min(costs):.1f} µs of CPU per request")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--profile", help="write the gateway's profile here (its times then mean nothing)")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role is None:
        measure(options)
        return
    kind, _, port = options.role.partition(":")
    os.sched_setaffinity(0, {0 if kind == "gateway" else 1})
    profile = cProfile.Profile() if options.profile else None
    if profile is not None:
        profile.enable()
    uvloop.run(serve_gateway(int(port)) if kind == "gateway" else serve_backend())
    if profile is not None:
        profile.disable()
        profile.dump_stats(options.profile)


if __name__ == "__main__":
    main()
