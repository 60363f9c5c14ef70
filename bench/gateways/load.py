"""The load: short requests by wrk, or by a client of our own where there is none; and many streams at a time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .processes import libraries

PATH = "/v1/chat/completions"
STAMP = re.compile(rb"@(\d{19})\.")
SO_TIMESTAMPNS = 35  # of asm-generic/socket.h
LOOK_SECONDS = 0.004
READ_BYTES = 1 << 18
WRK_SCRIPT = """
wrk.method, wrk.path = "POST", "%s"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer none"
local file = io.open("%s")
wrk.body = file:read("*a")
function done(summary, latency)
    local e = summary.errors
    io.write(string.format('{"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "failed": %%d}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
        e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def chat(model: str, size: int, *, stream: bool = False) -> bytes:
    """The body of a chat request, of `size` bytes, with what clients put before and behind the conversation."""
    before = b'{"model": "%b", "stream": %b, ' % (model.encode(), b"true" if stream else b"false")
    before += b'"messages": [{"role": "user", "content": "'
    behind = b'"}], "temperature": 0.7}'
    return before + b"x" * (size - len(before) - len(behind)) + behind


def request(body: bytes) -> bytes:
    return (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer none\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
    )


class LoadError(Exception):
    """Requests were not answered as they should be."""


@dataclass(frozen=True)
class Short:
    """What many short requests, one after the other on each connection, came to. Times in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def short_requests(wrk: str | None, folder: Path, port: int, body: bytes, connections: int, seconds: int) -> Short:
    """Raises LoadError if any request failed or none was answered."""
    if wrk is None:
        return _own_client(port, body, connections, seconds)
    script, content = folder / "load.lua", folder / "body"
    content.write_bytes(body)
    script.write_text(WRK_SCRIPT % (PATH, content))
    how = ["-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "30s", "-s", str(script)]
    command, environment = [wrk, *how, f"http://127.0.0.1:{port}"], {**os.environ, **libraries(wrk)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    if found["failed"]:
        raise LoadError(f"{found['failed']} of {found['requests']} requests failed")
    if not found["requests"]:
        raise LoadError(f"no request was answered within {seconds} s")
    return Short(found["requests"], found["seconds"], found["p50"], found["p99"])


class _Connection:
    __slots__ = ("begun", "expected", "got", "sock", "unsent")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.unsent = memoryview(b"")
        self.begun = 0.0
        self.got = b""
        self.expected = 0

    def send(self, poll: select.epoll) -> None:
        try:
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            poll.modify(self.sock, select.EPOLLIN | select.EPOLLOUT)
        else:
            poll.modify(self.sock, select.EPOLLIN)

    def answered(self) -> bool:
        """Reads what there is; is that the end of an answer?"""
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise LoadError("a connection was closed")
        self.got = self.got + data if self.got else data
        head, separator, rest = self.got.partition(b"\r\n\r\n")
        if not separator:
            return False
        if not self.got.startswith(b"HTTP/1.1 200 "):
            raise LoadError(self.got[:40].decode("latin-1"))
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        whole = len(rest) >= int(lower[at + 17 :].partition(b"\r")[0]) if at >= 0 else rest.endswith(b"0\r\n\r\n")
        if whole:
            self.got = b""
        return whole


def _own_client(port: int, body: bytes, connections: int, seconds: int) -> Short:
    data = request(body)
    took: list[float] = []
    with contextlib.ExitStack() as stack, select.epoll() as poll:
        made = {}
        for _ in range(connections):
            connection = _Connection(port)
            stack.callback(connection.sock.close)
            made[connection.sock.fileno()] = connection
            poll.register(connection.sock, select.EPOLLIN)
        begun = time.perf_counter()
        for connection in made.values():
            connection.begun, connection.unsent = time.perf_counter(), memoryview(data)
            connection.send(poll)
        while (now := time.perf_counter()) < begun + seconds:
            for fd, events in poll.poll(1.0):
                connection = made[fd]
                if events & select.EPOLLOUT:
                    connection.send(poll)
                if events & ~select.EPOLLOUT and connection.answered():
                    now = time.perf_counter()
                    took.append(now - connection.begun)
                    connection.begun, connection.unsent = now, memoryview(data)
                    connection.send(poll)
    if not took:
        raise LoadError("no request was answered")
    took.sort()
    return Short(len(took), now - begun, took[len(took) // 2], took[int(len(took) * 0.99)])


@dataclass(frozen=True)
class Chunks:
    """What came through streams. `delays` of single chunks in seconds, where they were asked for, sorted."""

    count: int
    seconds: float
    delays: list[float]

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    def delay(self, share: float) -> float:
        return self.delays[min(int(len(self.delays) * share), len(self.delays) - 1)]


class Streams:
    """Open streams, read in one thread.

    The kernel notes when each chunk came, so this need not be quick: it shares its processor with the backend, and one
    that woke up for every chunk would delay the next ones by more than any gateway does.
    """

    def __init__(self, port: int, model: str, count: int, seconds: float = 60) -> None:
        """Opens them, and waits until each has its first chunk."""
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        data = request(chat(model, 1024, stream=True))
        begun = time.monotonic()
        waiting: set[int] = set()
        while len(self._sockets) < count or waiting:
            if len(self._sockets) < count and len(waiting) < 64:
                sock = socket.create_connection(("127.0.0.1", port), 10)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                sock.sendall(data)
                sock.setblocking(False)
                self._sockets[sock.fileno()] = sock
                waiting.add(sock.fileno())
                self._poll.register(sock, select.EPOLLIN)
                continue
            for fd, _ in self._poll.poll(1.0):
                if b"@" in self._read(fd)[0]:
                    waiting.discard(fd)
            if time.monotonic() > begun + seconds:
                self.close()
                raise LoadError(f"{len(waiting)} of {count} streams did not begin within {seconds:.0f} s")

    def _read(self, fd: int) -> tuple[bytes, int]:
        """What has come, and when the last of it did: nanoseconds of CLOCK_REALTIME."""
        try:
            data, notes, _, _ = self._sockets[fd].recvmsg(READ_BYTES, 64)
        except OSError as error:
            raise LoadError(f"a stream broke: {error}") from error
        if not data:
            raise LoadError("a stream ended")
        if b" 500 " in data[:16] or b" 502 " in data[:16] or b" 503 " in data[:16] or b" 429 " in data[:16]:
            raise LoadError(data[:40].decode("latin-1"))
        if not notes:
            return data, time.time_ns()
        seconds, nanoseconds = struct.unpack("qq", notes[0][2])
        return data, seconds * 1_000_000_000 + nanoseconds

    def read(self, seconds: float, *, delays: bool) -> Chunks:
        """Take what comes for a while."""
        count = 0
        found: list[float] = []
        begun = time.monotonic()
        end = begun + seconds
        while (now := time.monotonic()) < end:
            if delays:
                time.sleep(LOOK_SECONDS)
            for fd, _ in self._poll.poll(end - now):
                data, at = self._read(fd)
                count += data.count(b"@")
                if delays:
                    found += [(at - int(stamp)) * 1e-9 for stamp in STAMP.findall(data)]
        found.sort()
        return Chunks(count, now - begun, found)

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._poll.close()
