"""What a switch costs beyond its hooks: request to first byte, less the hooks' own time, for llmux and its peers.

    python bench/switch_overhead.py [--rounds 60] [--hook-ms 20] [--rust PATH/TO/llmux-2.4.0]

Two models share one backend that answers at once. Their hooks do nothing but `sleep` for a known time; requests go to
the two by turns, so each causes a switch: one sleep hook, one wake hook. Both programs get the same config file and are
asked by turns, in the same run. The hooks' own time is what `sh -c 'sleep …'` takes here when started by nobody in
particular, measured in the same run too, twice per round.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BACKEND = """
import asyncio, sys

ANSWER = b'HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 2\\r\\n\\r\\n{}'

class Backend(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.seen = transport, b""

    def data_received(self, data):
        self.seen += data
        if self.seen.endswith(b"}"):  # every request here ends with its JSON body
            self.transport.write(ANSWER)
            self.seen = b""

async def main():
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"""
"""A backend that answers at once, in a process of its own."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        else:
            raise SystemExit(f"{command[0]} does not listen")
        yield port
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def ask(port: int, model: str) -> float:
    """Seconds from sending a request to the first byte of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    body = json.dumps({"model": model, "messages": []})
    begin = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    took = time.perf_counter() - begin
    assert response.status == 200, response.read()
    response.read()
    connection.close()
    return took


def hook(script: str) -> float:
    """Seconds that the hook takes by itself."""
    begin = time.perf_counter()
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ)
    os.waitpid(pid, 0)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--hook-ms", type=float, default=20.0)
    parser.add_argument("--rust", help="the llmux 2.4.0 binary (cargo install llmux --version 2.4.0)")
    options = parser.parse_args()

    script = f"sleep {options.hook_ms / 1000}"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        backend = free_port()
        stack.enter_context(running([sys.executable, "-c", BACKEND, str(backend)], backend))
        model = {"port": backend, "wake": script, "sleep": script, "alive": "false"}
        config = Path(folder, "config.json")
        config.write_text(json.dumps({"models": {"a": model, "b": model}}))
        commands = {"llmux": [sys.executable, "-m", "llmux"]}
        if options.rust:
            commands["llmux 2.4.0 (Rust)"] = [options.rust]
        ports = {}
        for name, command in commands.items():
            port = free_port()
            ports[name] = stack.enter_context(running([*command, "-c", str(config), "-p", str(port)], port))
        switches: dict[str, list[float]] = {name: [] for name in ports}
        hooks: list[float] = []
        for port in ports.values():
            ask(port, "a")
        for number in range(options.rounds):
            for name, port in ports.items():
                switches[name].append(ask(port, "ba"[number % 2]))
            hooks.append(hook(script) + hook(script))
    own = statistics.median(hooks)
    print(f"{options.rounds} switches each; both hooks alone: median {own * 1e3:.2f} ms")
    print("| program | switch, median | switch, p95 | beyond its hooks, median |")
    print("|---|---|---|---|")
    for name, times in switches.items():
        median, p95 = statistics.median(times), sorted(times)[int(len(times) * 0.95)]
        print(f"| {name} | {median * 1e3:.2f} ms | {p95 * 1e3:.2f} ms | {(median - own) * 1e3:.2f} ms |")


if __name__ == "__main__":
    main()
