"""The backend behind all gateways: answers at once, or streams chunks when it is told to. A process of its own.

    python bench/gateways/backend.py PORT

Plain sockets and epoll, as it shares its processor with the load: what a web framework would cost here would be taken
for the gateways' slowness. It reads commands, one JSON object a line, from its standard input:

    {"do": "hold"}                 streams are open and silent (so they begin, with one chunk)
    {"do": "paced", "gap": 0.0001} one chunk every `gap` seconds, to one stream after the other
    {"do": "flat"}                 to all streams, as fast as they take it
    {"do": "drop"}                 all streams are closed
    {"do": "ready", "is": false}   what GET /ready answers: 200 or 503
    {"do": "count"}                prints how many streams there are

Each chunk tells when it was written: ``@`` and nanoseconds of CLOCK_REALTIME, by which the kernel notes when it has
arrived.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import sys
import time

CHAT = (
    b'{"id":"chatcmpl-0","object":"chat.completion","created":1700000000,"model":"bench-0","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],"usage":{"prompt_tokens":200,'
    b'"completion_tokens":200,"total_tokens":400}}' % (b"y" * 760)
)
"""A chat completion of 1 KB, as clients expect it."""
CHUNK = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1700000000,"model":"bench-0",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"@%019d."},"finish_reason":null}]}\n\n'
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT)
NOT_READY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
READ_BYTES = 1 << 20
KEPT_BYTES = 4096
"""Of a request; "stream" is among the first members of its body, whichever client or gateway has written it."""
STAMPED = CHUNK % 0
PR_SET_TIMERSLACK = 29
SLEEP_TAKES = 100e-6
"""Seconds, beyond what was asked for, that a sleep may take."""


def chunk() -> bytes:
    return b"%x\r\n%b\r\n" % (len(STAMPED), CHUNK % time.time_ns())


class Connection:
    """Takes in requests, one at a time; keeps no body."""

    __slots__ = ("blocked", "chunked", "data", "missing", "sock", "streaming")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.missing = -1  # bytes of the body; -1: the head is not whole
        self.chunked = False
        self.streaming = False
        self.blocked = False

    def take(self, data: bytes) -> bytes | None:
        """What begins a request that is whole now (its head, and what of the body is needed), or None."""
        if self.missing > 0 and not self.chunked:
            self.missing -= len(data)
            if len(self.data) < KEPT_BYTES:
                self.data += data[:KEPT_BYTES]
            return self._whole() if self.missing <= 0 else None
        self.data += data
        if self.missing < 0:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = self.data[:end].lower()
            self.chunked = b"\r\ntransfer-encoding: chunked" in head
            at = head.find(b"\r\ncontent-length:")
            length = int(head[at + 17 :].partition(b"\r")[0]) if at >= 0 else 0
            self.missing = length - (len(self.data) - end - 4)
        if self.chunked:
            return self._whole() if self.data.endswith(b"0\r\n\r\n") else None
        if self.missing > 0:
            self.data = self.data[:KEPT_BYTES]
            return None
        return self._whole()

    def _whole(self) -> bytes:
        data, self.data, self.missing, self.chunked = self.data, b"", -1, False
        return data


class Backend:
    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.listener.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.poll.register(0, select.EPOLLIN)
        self.connections: dict[int, Connection] = {}
        self.streams: list[Connection] = []
        self.mode = "hold"
        self.gap = 1.0
        self.due = 0.0
        self.turn = 0
        self.ready = True

    def run(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)  # else each sleep takes 50 µs more than it takes anyway
        while True:
            if self.mode == "paced" and self.streams:
                self._pace()
                wait = 0.0
            elif self.mode == "flat" and any(not stream.blocked for stream in self.streams):
                self._flood()
                wait = 0.0
            else:
                wait = 10.0
            for fd, events in self.poll.poll(wait):
                if fd == 0:
                    line = os.read(0, 4096)
                    if not line:
                        return
                    for command in line.splitlines():
                        self._command(json.loads(command))
                elif fd == self.listener.fileno():
                    self._accept()
                elif (connection := self.connections.get(fd)) is not None:  # else it was closed a moment ago
                    self._happened(connection, events)

    def _command(self, command: dict[str, object]) -> None:
        if command["do"] == "ready":
            self.ready = bool(command["is"])
            return
        if command["do"] == "count":
            print(len(self.streams), flush=True)
            return
        self.mode = "hold" if command["do"] == "drop" else str(command["do"])
        if command["do"] == "drop":
            for stream in list(self.streams):
                self._gone(stream)
        self.gap = float(str(command.get("gap", 1.0)))
        self.due = time.monotonic()

    def _accept(self) -> None:
        for _ in range(256):
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[sock.fileno()] = Connection(sock)
            self.poll.register(sock, select.EPOLLIN)

    def _happened(self, connection: Connection, events: int) -> None:
        if events & select.EPOLLOUT:
            connection.blocked = False
            self.poll.modify(connection.sock, select.EPOLLIN)
        if events & ~select.EPOLLOUT:
            try:
                data = connection.sock.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._gone(connection)
                return
            request = connection.take(data)
            if request is not None:
                self._answer(connection, request)

    def _answer(self, connection: Connection, request: bytes) -> None:
        if request.startswith(b"GET /ready"):
            self._send(connection, ANSWER if self.ready else NOT_READY)
        elif b'"stream":true' in request or b'"stream": true' in request:
            connection.streaming = True
            self.streams.append(connection)
            self._send(connection, STREAM_HEAD + chunk())
        else:
            self._send(connection, ANSWER)

    def _gone(self, connection: Connection) -> None:
        self.connections.pop(connection.sock.fileno(), None)
        if connection.streaming:
            self.streams.remove(connection)
        connection.sock.close()

    def _send(self, connection: Connection, data: bytes) -> None:
        """All of it: what does not fit now is waited for, as a piece of a chunk must not be lost; but not for ever."""
        patience = 20
        while data:
            try:
                data = data[connection.sock.send(data) :]
            except BlockingIOError:
                patience -= 1
                if not patience:
                    connection.sock.shutdown(socket.SHUT_RDWR)  # epoll tells of it
                    return
                with select.epoll() as poll:
                    poll.register(connection.sock, select.EPOLLOUT)
                    poll.poll(0.1)
            except OSError:
                return

    def _pace(self) -> None:
        """One chunk when it is due; nothing if that is not soon."""
        wait = self.due - time.monotonic()
        if wait > SLEEP_TAKES:
            time.sleep(min(wait - SLEEP_TAKES, 0.002))
            if wait > 0.002:
                return
        while time.monotonic() < self.due:
            pass
        self.turn = (self.turn + 1) % len(self.streams)
        self._send(self.streams[self.turn], chunk())
        # Who is late stays late: chunks in a row would wait for one another in a gateway, be it ever so quick.
        self.due = max(self.due, time.monotonic() - self.gap) + self.gap

    def _flood(self) -> None:
        data = chunk()
        for stream in self.streams:
            if stream.blocked:
                continue
            try:
                sent = stream.sock.send(data)
            except BlockingIOError:
                stream.blocked = True
                with contextlib.suppress(OSError):
                    self.poll.modify(stream.sock, select.EPOLLIN | select.EPOLLOUT)
            except OSError:
                continue  # its end comes by epoll
            else:
                if sent < len(data):
                    self._send(stream, data[sent:])


if __name__ == "__main__":
    Backend(int(sys.argv[1])).run()
