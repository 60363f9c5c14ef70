"""What is measured. Each function does one measure for all peers that can be asked for it, and notes figures."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from .bench import CEILING, FAILURES, STARTS_WITHIN, Bench, Target, ask, settled
from .load import READ_BYTES, LoadError, Streams, chat, request
from .peers import Peer
from .processes import Program, free_port

MODEL = "bench-0"
KB, MB = 1024, 1024 * 1024
STALLS = 20  # so often nothing may come: the machine may stand still for as long as it is looked


def requests(bench: Bench, peers: Sequence[Peer]) -> None:
    """Short requests, one after the other on each of 1, 32 and 256 connections, with bodies of 1 and 20 KB."""
    with bench.all_started(peers, "requests", bench.fast) as started:
        targets = [Target(CEILING, bench.fast), *started]
        for size in (KB, 20 * KB):
            for connections in (1, 32, 256):
                _short(bench, targets, "requests", size, connections, 2.0)


def large(bench: Bench, peers: Sequence[Peer]) -> None:
    """Requests of 5 MB, as with a picture in base64."""
    with bench.all_started(peers, "large", bench.backend.port) as started:
        targets = [Target(CEILING, bench.backend.port), *started]
        for connections in (1, 8):
            _short(bench, targets, "large", 5 * MB, connections, 2.0)


def _short(bench: Bench, targets: Sequence[Target], measure: str, size: int, connections: int, seconds: float) -> None:
    body = chat(MODEL, size)
    case = f"{size // MB} MB" if size >= MB else f"{size // KB} KB"
    case = f"{case}, {connections} at a time"

    def turn(target: Target) -> None:
        # To the slow ones, so many requests at a time take longer than a round.
        longer = 1 if not target.slow else 6 if connections > 32 else 2
        figures = bench.short(target, body, connections, seconds * longer)
        bench.results.add(measure, case, target.key, **figures)

    bench.by_turns(targets, measure, case, turn)


def streams(bench: Bench, peers: Sequence[Peer]) -> None:
    """Streams of chunks: first so many chunks a second as models make, evenly spread, then as many as can be."""
    with bench.all_started(peers, "streams", bench.backend.port) as started:
        targets = [Target(CEILING, bench.backend.port), *started]
        for count, each in ((1, 100), (50, 20), (500, 20)):
            case = f"{count} stream{'s' if count > 1 else ''}, {each}/s each"

            def turn(target: Target, count: int = count, each: int = each, case: str = case) -> None:
                _stream(bench, target, case, count, each)

            bench.by_turns(targets, "streams", case, turn)


def _stream(bench: Bench, target: Target, case: str, count: int, each: int) -> None:
    with _streams(bench, target, count) as opened:
        bench.backend.do("paced", gap=1 / (count * each))
        opened.read(0.2, delays=False)
        for _ in range(STALLS):
            before = target.cpu_seconds()
            paced = opened.read(max(0.5, 2 * bench.scale), delays=True)
            cpu = target.cpu_seconds() - before
            if paced.delays:
                break
        else:
            raise LoadError("no chunk came")
        figures = {"paced": paced.rate, "p50": paced.delay(0.5), "p99": paced.delay(0.99)}
        if target.program is not None:
            figures["cpu"] = cpu / paced.count
        bench.backend.do("flat")
        opened.read(0.2, delays=False)
        before = target.cpu_seconds()
        flat = opened.read(max(0.3, bench.scale), delays=False)
        figures["flat"] = flat.rate
        if target.program is not None:
            figures["flat_cpu"] = (target.cpu_seconds() - before) / max(flat.count, 1)
        bench.results.add("streams", case, target.key, **figures)


@contextlib.contextmanager
def _streams(bench: Bench, target: Target, count: int) -> Iterator[Streams]:
    bench.backend.do("hold")
    opened = Streams(target.port, MODEL, count)
    try:
        yield opened
    finally:
        opened.close()
        # The backend must have heard of the end before the next peer's turn; some never tell it.
        bench.backend.do("hold")
        deadline = time.monotonic() + 3
        while bench.backend.streams() and time.monotonic() < deadline:
            time.sleep(0.02)
        bench.backend.do("drop")


def memory(bench: Bench, peers: Sequence[Peer]) -> None:
    """What a thousand open streams take, each of which has had a few chunks."""
    count = max(50, round(1000 * bench.scale))
    case = f"{count} streams"
    for peer in peers:
        try:
            with bench.started(peer, bench.setup(peer, "memory", bench.backend.port)) as target:
                program = _program(target)
                with _streams(bench, target, 20) as opened:
                    bench.backend.do("paced", gap=0.001)
                    opened.read(0.5, delays=False)
                before = program.resident_bytes()
                with _streams(bench, target, count) as opened:
                    bench.backend.do("paced", gap=1 / (3 * count))
                    opened.read(1.0, delays=False)
                    each = (program.resident_bytes() - before) / count
                bench.results.add("memory", case, peer.key, each=each, idle=before)
        except FAILURES as error:
            bench.results.fail("memory", case, peer.key, str(error))


def start(bench: Bench, peers: Sequence[Peer]) -> None:
    """From starting the process until it listens, and until it has answered a request."""
    for models in (2, 1000):
        case = f"{models:,} models"
        for number in range(max(1, round(5 * bench.scale))):
            for peer in peers:
                if (peer.slow and number) or (models > 2 and not (peer.waits or peer.key == "litellm")):
                    continue
                setup = bench.setup(peer, f"start-{models}", bench.backend.port, models)
                try:
                    figures = _start(bench, peer.command(setup, port := free_port()), peer.environment(setup), port)
                except FAILURES as error:
                    bench.results.fail("start", case, peer.key, str(error))
                else:
                    bench.results.add("start", case, peer.key, **figures)


def _start(bench: Bench, command: list[str], environment: Mapping[str, str], port: int) -> dict[str, float]:
    begun = time.perf_counter()
    program = Program(command, [bench.cores.proxy], bench.folder / "start.log", environment)
    try:
        while True:
            if time.perf_counter() - begun > STARTS_WITHIN or program.process.poll() is not None:
                raise LoadError("it does not listen")
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", port), STARTS_WITHIN)
                break
            time.sleep(0.001)
        listening = time.perf_counter() - begun
        with connection:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            if not connection.recv(READ_BYTES).startswith(b"HTTP/1.1 "):
                raise LoadError("it closed the connection")
        return {"listening": listening, "answering": time.perf_counter() - begun, "cpu": program.cpu_seconds()}
    finally:
        program.stop()


def switch(bench: Bench, peers: Sequence[Peer]) -> None:
    """Requests for two models by turns, so that each makes a switch, with hooks that do next to nothing.

    The hooks' own time is what the same two scripts take here when started by nobody in particular.
    """
    able = [peer for peer in peers if peer.waits]
    scripts = bench.setup(peers[0], "switch", 0)
    with bench.all_started(able, "switch", bench.backend.port) as targets:
        bodies = [chat("bench-1", 256), chat("bench-0", 256)]
        for number in range(max(4, round(60 * bench.scale))):
            os.environ["LLMUX_MODEL"] = "alone"
            hooks = _alone(scripts.sleep_script(), bench.cores.proxy) + _alone(scripts.wake_script(), bench.cores.proxy)
            for target in targets:
                target.resume()
                try:
                    took = ask(target.port, bodies[number % 2])
                except FAILURES as error:
                    bench.results.fail("switch", "two models", target.key, str(error))
                else:
                    bench.results.add("switch", "two models", target.key, switch=took, hooks=hooks, beyond=took - hooks)
                time.sleep(0.01)  # what is done after the answer is no part of the next switch
                target.pause()


def _alone(script: str, core: int) -> float:
    """Seconds that a hook takes by itself, on the processor on which the peers run theirs."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        begun = time.perf_counter()
        os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ), 0)
        return time.perf_counter() - begun
    finally:
        os.sched_setaffinity(0, cores)


def queue(bench: Bench, peers: Sequence[Peer]) -> None:
    """Ten thousand requests that wait for one model: memory for each, and how long it takes to answer them all.

    Both ends of a request's two connections are on this machine, and a gateway has two descriptors for each.
    """
    most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2
    count = min(most, max(100, round(10_000 * bench.scale)))
    case = f"{count:,} requests"
    for peer in peers:
        if not peer.waits:
            continue
        setup = replace(bench.setup(peer, "queue", bench.backend.port), waits_for_ready=True)
        try:
            with bench.started(peer, setup) as target, Waiting(target.port, MODEL) as waiting:
                bench.backend.do("ready", **{"is": False})
                program = _program(target)
                waiting.come(20)
                _settle(target)
                before = program.resident_bytes()
                begun = time.perf_counter()
                waiting.come(count)
                _settle(target)
                arrived = time.perf_counter() - begun
                each = (program.resident_bytes() - before) / count
                cpu = program.cpu_seconds()
                begun = time.perf_counter()
                bench.backend.do("ready", **{"is": True})
                (setup.folder / "go").touch()
                waiting.answers(120)
                figures = {"each": each, "arrived": arrived, "answered": time.perf_counter() - begun}
                bench.results.add("queue", case, peer.key, **figures, cpu=(program.cpu_seconds() - cpu) / count)
        except FAILURES as error:
            bench.results.fail("queue", case, peer.key, str(error))
        finally:
            bench.backend.do("ready", **{"is": True})


class Waiting:
    """Clients that have sent a request and wait for its answer."""

    def __init__(self, port: int, model: str) -> None:
        self._port = port
        self._data = request(chat(model, KB))
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()

    def come(self, count: int) -> None:
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", self._port), 30)
            self._sockets.append(sock)
            sock.sendall(self._data)

    def answers(self, seconds: float) -> None:
        """Waits for an answer to everybody."""
        deadline = time.monotonic() + seconds
        failed = 0
        with select.epoll() as poll:
            missing = {sock.fileno(): sock for sock in self._sockets}
            for fd in missing:
                poll.register(fd, select.EPOLLIN)
            while missing:
                if time.monotonic() > deadline:
                    raise LoadError(f"{len(missing)} of {len(self._sockets)} not answered within {seconds:.0f} s")
                for fd, _ in poll.poll(1.0):
                    sock = missing.pop(fd)
                    poll.unregister(fd)
                    try:
                        failed += not sock.recv(READ_BYTES).startswith(b"HTTP/1.1 200 ")
                    except OSError:
                        failed += 1
        if failed:
            raise LoadError(f"{failed} of {len(self._sockets)} requests failed")


def growth(bench: Bench, peers: Sequence[Peer]) -> None:
    """What a request for the awake model costs with ever more models in the file, and with ever more that wait.

    All of them run at the same time and have their turns, since what is compared here are not the peers.
    """
    able = [peer for peer in peers if peer.waits]
    with contextlib.ExitStack() as stack:
        sizes: dict[str, list[Target]] = {}
        for models in (2, 100, 1000):
            targets = stack.enter_context(bench.all_started(able, f"growth-{models}", bench.fast, models))
            sizes[f"{models:,} models"] = targets
        _by_size(bench, sizes)
    with contextlib.ExitStack() as stack:
        sizes = {}
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        for wanted in (0, 1, 1000, 10_000):
            count = min(wanted if wanted == 1 else round(wanted * bench.scale), most)
            for peer in able:
                if peer.key == "llmux":  # the others serve nobody while somebody waits
                    setup = bench.setup(peer, f"growth-waiting-{wanted}", bench.fast)
                    setup = replace(setup, waits_for_ready=True, two_devices=True)
                    target = stack.enter_context(bench.started(peer, setup))
                    stack.enter_context(Waiting(target.port, "bench-1")).come(count)
                    _settle(target)
                    target.pause()
                    sizes[f"{count:,} waiting"] = [target]
        _by_size(bench, sizes)


def _by_size(bench: Bench, sizes: Mapping[str, Sequence[Target]]) -> None:
    body = chat(MODEL, KB)
    for number in range(bench.rounds):
        for case, targets in list(sizes.items())[:: -1 if number % 2 else 1]:

            def turn(target: Target, case: str = case) -> None:
                bench.results.add("growth", case, target.key, **bench.short(target, body, 32, 1.0))

            if targets:
                bench.by_turns(targets, "growth", case, turn, rounds=1)


def _settle(target: Target) -> None:
    if not settled(target, 60):
        raise LoadError("it does not come to rest")


def _program(target: Target) -> Program:
    assert target.program is not None
    return target.program


MEASURES: dict[str, Callable[[Bench, Sequence[Peer]], None]] = {
    "requests": requests,
    "large": large,
    "streams": streams,
    "memory": memory,
    "start": start,
    "switch": switch,
    "queue": queue,
    "growth": growth,
}
