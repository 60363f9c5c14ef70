"""What all measures share: where things run, the backends, the turns of the peers, and the figures that come out."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .backend import CHAT
from .load import LoadError, chat, request, short_requests
from .peers import Peer, Setup, nginx_command
from .processes import Cores, Program, free_port, running, wait_for_port

HERE = Path(__file__).parent
CEILING = "ceiling"
STARTS_WITHIN = 120.0
FAILURES = (LoadError, OSError, RuntimeError, subprocess.SubprocessError)


class Results:
    """Figures by measure, case and peer, one value per round; or why there are none. Times in seconds."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        self.failed: dict[tuple[str, str, str], str] = {}

    def add(self, measure: str, case: str, peer: str, **figures: float) -> None:
        found = self.values.setdefault((measure, case, peer), {})
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
        shown = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        print(f"{measure:9} {case:22} {peer:12} {shown}", file=sys.stderr)

    def fail(self, measure: str, case: str, peer: str, why: str) -> None:
        self.failed[measure, case, peer] = why
        print(f"{measure:9} {case:22} {peer:12} failed: {why}", file=sys.stderr)

    def get(self, measure: str, case: str, peer: str, figure: str) -> float | None:
        """The median over the rounds."""
        if (measure, case, peer) in self.failed:
            return None
        values = self.values.get((measure, case, peer), {}).get(figure)
        return statistics.median(values) if values else None

    def cases(self, measure: str) -> list[str]:
        return list(dict.fromkeys(case for known, case, _ in [*self.values, *self.failed] if known == measure))

    def as_json(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for (measure, case, peer), figures in self.values.items():
            medians = {name: statistics.median(values) for name, values in figures.items()}
            rows.append({"measure": measure, "case": case, "peer": peer, "median": medians, "rounds": figures})
        for (measure, case, peer), why in self.failed.items():
            rows.append({"measure": measure, "case": case, "peer": peer, "failed": why})
        return rows


@dataclass
class Target:
    """What load can be sent to: a peer that runs, or (without a program) the backend itself."""

    key: str
    port: int
    program: Program | None = None
    slow: bool = False

    def cpu_seconds(self) -> float:
        return 0.0 if self.program is None else self.program.cpu_seconds()

    def pause(self) -> None:
        if self.program is not None:
            self.program.pause()

    def resume(self) -> None:
        if self.program is not None:
            self.program.resume()


class Backend:
    """`backend.py`, running."""

    def __init__(self, cores: Cores) -> None:
        self.port = free_port()
        where = ["taskset", "--cpu-list", ",".join(map(str, cores.others))]
        command = [*where, sys.executable, str(HERE / "backend.py"), str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        wait_for_port(self.port, self._process, 30, "the backend")

    def do(self, what: str, **options: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **options}).encode() + b"\n")
        self._process.stdin.flush()

    def streams(self) -> int:
        """How many are open."""
        self.do("count")
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class Bench:
    """Where it all runs.

    Attributes:
        fast: the port of the backend for short requests: nginx, where there is one.
        scale: of the durations and counts; below 1 to see whether all works.
    """

    cores: Cores
    folder: Path
    backend: Backend
    fast: int
    wrk: str | None
    rounds: int
    scale: float
    results: Results = field(default_factory=Results)

    @classmethod
    @contextlib.contextmanager
    def ready(cls, *, nginx: str | None, wrk: str | None, rounds: int, scale: float) -> Iterator[Bench]:
        cores = Cores.found()
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmux-bench-")))
            backend = Backend(cores)
            stack.callback(backend.stop)
            fast = backend.port
            if nginx is not None:
                fast = free_port()
                (folder / "backend").mkdir()
                answer = CHAT.decode()
                server = f"""
                    server {{
                        listen 127.0.0.1:{fast} backlog=4096;
                        default_type application/json;
                        location / {{ return 200 '{answer}'; }}
                    }}"""
                command = nginx_command(nginx, folder / "backend", server)
                stack.enter_context(running(command, fast, cores.others, folder / "backend.log"))
            yield cls(cores, folder, backend, fast, wrk, rounds, scale)

    def setup(self, peer: Peer, name: str, backend: int, models: int = 2) -> Setup:
        folder = self.folder / f"{name}-{peer.key}"
        folder.mkdir(exist_ok=True)
        return Setup(folder, backend, models)

    @contextlib.contextmanager
    def started(self, peer: Peer, setup: Setup) -> Iterator[Target]:
        """The peer, once it has answered a request for a model that need not wait."""
        port = free_port()
        command, environment = peer.command(setup, port), peer.environment(setup)
        log = setup.folder / "log"
        with running(command, port, [self.cores.proxy], log, environment, STARTS_WITHIN) as program:
            if not setup.waits_for_ready or setup.two_devices:
                ask(port, chat("bench-0", 256))
            yield Target(peer.key, port, program, peer.slow)

    @contextlib.contextmanager
    def all_started(self, peers: Sequence[Peer], name: str, backend: int, models: int = 2) -> Iterator[list[Target]]:
        """Those of the peers that can be started, paused."""
        measure = name.partition("-")[0]
        with contextlib.ExitStack() as stack:
            targets = []
            for peer in peers:
                try:
                    target = stack.enter_context(self.started(peer, self.setup(peer, name, backend, models)))
                except FAILURES as error:
                    self.results.fail(measure, f"{name}: start", peer.key, str(error))
                else:
                    target.pause()
                    targets.append(target)
            yield targets

    def by_turns(
        self,
        targets: Sequence[Target],
        measure: str,
        case: str,
        turn: Callable[[Target], None],
        rounds: int | None = None,
    ) -> None:
        """`turn` for each target in each round, while the others are stopped; in another order in each round."""
        for number in range(self.rounds if rounds is None else rounds):
            at = number % len(targets)
            for target in [*targets[at:], *targets[:at]]:
                if (target.slow and number) or (measure, case, target.key) in self.results.failed:
                    continue
                target.resume()
                try:
                    turn(target)
                except FAILURES as error:
                    self.results.fail(measure, case, target.key, str(error) or type(error).__name__)
                finally:
                    if target.slow:  # it may still be busy with those who have left
                        settled(target, 20)
                    target.pause()

    def short(self, target: Target, body: bytes, connections: int, seconds: float) -> dict[str, float]:
        """Figures of many short requests."""
        whole = max(1, round(seconds * self.scale))
        before = target.cpu_seconds()
        found = short_requests(self.wrk, self.folder, target.port, body, connections, whole)
        figures = {"rate": found.rate, "p50": found.p50, "p99": found.p99}
        if target.program is not None:
            figures["cpu"] = (target.cpu_seconds() - before) / found.requests
        return figures


def settled(target: Target, seconds: float) -> bool:
    """Waits until it has next to nothing more to do; did that come about?"""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = target.cpu_seconds()
        time.sleep(0.2)
        if target.cpu_seconds() - before < 0.02:
            return True
    return False


def ask(port: int, body: bytes, seconds: float = 60) -> float:
    """One request on a connection of its own: seconds to the first byte of its answer."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        begun = time.perf_counter()
        connection.sendall(request(body))
        answer = connection.recv(1 << 16)
        took = time.perf_counter() - begun
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise LoadError(f"answered {answer[:60]!r}")
    return took
