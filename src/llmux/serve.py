"""Serving as a process of its own: the log, the sockets, the event loop and the signals around an `llmux.app`.

Binds before anything else can be observed, so that a second llmux on the same port ends without having run a hook.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from llmux import descriptors, garbage, hangup, heap, logs
from llmux.config import Config
from llmux.exposure import expose
from llmux.version import version

if TYPE_CHECKING:
    from llmux.reload import Reloader

BACKLOG = 1024
"""Connections that the kernel holds for llmux until it accepts them."""

LEAST_DESCRIPTORS = 40
"""With fewer, llmux may start, and then have none left for a client, a hook or its own control plane."""

LEAST_THREADS = 8
"""With fewer, some of what llmux reads and writes would never be read or written."""

KILL_SECS = 2.0
"""How long the second signal may take to end everything, in seconds; then the process just exits."""

FORCE_SECS = 20.0
"""How much longer than its deadlines a graceful end may take, in seconds: hooks are ended by force after them (twice, a
wake and what cleans up after it), last words are said, and the disk is written."""

END_SECS = 2.0
"""How long a thread that a disk or a network file system holds may keep the process from exiting, once all is over."""

FIRST_PROCESS = 1
"""Of a container, say: to it come all whose parents have ended, such as servers that hooks have started."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logs.get_logger("llmux.serve")


class StartError(Exception):
    """llmux cannot start; the message is one line for the operator. No hook has run."""


def serve(
    config: Config,
    *,
    host: str | None = None,
    port: int | None = None,
    log_level: int = logging.INFO,
    log_format: str = "auto",
    watch: bool = False,
) -> int:
    """Serve until a signal; returns the exit status of the process. Owns the process: its log, loop and signals.

    `host` and `port` override the configuration's. SIGHUP has the configuration file read again, and with `watch` so
    does every change of it. The first SIGTERM or SIGINT stops gracefully (status 0), a second
    one at once (128 plus its number).

    Raises:
        StartError: the address cannot be bound, or a resource is missing.
        ConfigError: the configuration names a policy that cannot be made, or a key or certificate that cannot be used.
    """
    _check_descriptors()
    _check_threads()
    given = {"host": host, "port": port}
    overrides = {key: value for key, value in given.items() if value is not None}
    config = config.model_copy(update=overrides)
    exposure = expose(config)  # to find out what is missing before anything is bound; `build_app` reads it once more
    sockets = bind(config.host, config.port)
    logs.configure(log_level, log_format)
    heap.keep_freed()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            status = runner.run(_serve(config, sockets, exposure.warnings, overrides, watch=watch))
            _exit_soon(status)
            return status
    finally:
        for sock in sockets:
            sock.close()
        logs.shutdown()


def _check_descriptors() -> None:
    most = descriptors.limit()
    if most is not None and most < LEAST_DESCRIPTORS:
        raise StartError(
            f"cannot start: this process may have {most} file descriptors, and needs {LEAST_DESCRIPTORS} at least: "
            "raise that with `ulimit -n 1024`, or with LimitNOFILE= in systemd"
        )


def _check_threads() -> None:
    enough = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(LEAST_THREADS):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise StartError(
            f"cannot start: this process may have {len(started)} threads besides its first, and needs {LEAST_THREADS} "
            "at least: raise what a user or a container may have of processes (`ulimit -u`, TasksMax= in systemd, "
            "`--pids-limit` of docker and podman), or the memory (`ulimit -v`)"
        ) from error
    finally:
        enough.set()
        for thread in started:
            thread.join()


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on all addresses of `host`; where `port` is 0, they share one that was free.

    ``::`` also takes IPv4 connections. Blocks while it looks up the name.

    Raises:
        StartError: some address is in use, or `host` has none that this machine could listen on.
    """
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sockets.append(_listen(family, kind, protocol, (address[0], port, *address[2:])))
            except OSError as error:
                # As where "localhost" has an IPv6 address but the machine has no IPv6.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
            else:
                port = sockets[0].getsockname()[1]
        if not sockets:
            raise missing or OSError("it has no address")
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise StartError(f"cannot listen on {_netloc(host, port)}: {error.strerror or error}") from error
    return sockets


def _listen(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        sock.bind(address)
        # At once: of two sockets that are only bound, both would believe that the port is theirs.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


async def _serve(
    config: Config,
    sockets: Sequence[socket.socket],
    warnings: Sequence[str],
    overrides: Mapping[str, Any],
    *,
    watch: bool,
) -> int:
    # After the binding, which should not have to wait until all of llmux is imported.
    from llmux.app import build_app
    from llmux.hooks import reap_strays
    from llmux.reload import Reloader, digest, warn_if_open

    # It was read just now; what happens to it while llmux starts must not go unnoticed.
    seen = await asyncio.to_thread(digest, config.path) if watch and config.path is not None else None
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, signals.put_nowait, number)
    hung_up = asyncio.Event()  # several that come while the file is read are one
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    if hangup.noted():
        hung_up.set()
    listening_port = sockets[0].getsockname()[1]
    for warning in [*config.warnings, *warnings, *config.port_warnings(listening_port)]:
        log.warning("config_warning", message=warning)
    try:
        app, _ = await build_app(config)
    except ValueError as error:
        raise config.fault(("policy", "name"), str(error)) from error
    async with contextlib.AsyncExitStack() as stack:
        if os.getpid() == FIRST_PROCESS:
            stack.enter_context(_reaping(loop, reap_strays))
        try:
            address = await stack.enter_async_context(app.serving(sockets=sockets))
        except OSError as error:
            raise StartError(f"cannot start: {error}") from error
        url = f"{'http' if config.tls is None else 'https'}://{_netloc(*address[:2])}"
        log.info("listening", url=url, models=", ".join(config.models), version=version())
        public = any(_is_public(sock.getsockname()[0]) for sock in sockets)
        if public:
            warn_if_open(config)

        stack.callback(garbage.tame(lambda: app.connections))
        if config.path is not None:
            reloader = Reloader(app, config.path, overrides=overrides, port=listening_port, public=public, seen=seen)
            await stack.enter_async_context(_while_serving(_reload_on(hung_up, reloader)))
            app.oversight.reloader = partial(_reload_by_order, reloader)
            if watch:
                await stack.enter_async_context(_while_serving(reloader.watch()))

        signal_name, now = (await signals.get()).name, app.config
        log.info(
            "stopping",
            signal=signal_name,
            grace_secs=now.shutdown_grace_secs,
            on_exit=now.on_exit,
            at_most_secs=now.shutdown_grace_secs + now.on_exit_timeout_secs + FORCE_SECS,
        )
        stopping = asyncio.create_task(app.stop())
        again = asyncio.create_task(signals.get())
        await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            again.cancel()
            await stopping
            log.info("stopped")
            return 0

        status = 128 + again.result()
        log.warning("killed", signal=again.result().name)
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)  # a third one ends the process without our help
        loop.call_later(KILL_SECS, _exit, status)
        app.kill()
        await stopping
        return status


@contextlib.contextmanager
def _reaping(loop: asyncio.AbstractEventLoop, reap: Callable[[], None]) -> Iterator[None]:
    """Have `reap` called in `loop` now, and whenever a child has ended."""
    # Not by the loop's own way: uvloop refuses this signal, lest somebody reaps what it has started; it starts nobody.
    signal.signal(signal.SIGCHLD, lambda _number, _frame: loop.call_soon_threadsafe(reap))
    try:
        reap()
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


async def _reload_on(hung_up: asyncio.Event, reloader: Reloader) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        await reloader.reload("SIGHUP")


async def _reload_by_order(reloader: Reloader) -> Sequence[str]:
    await reloader.reload("an operator's order")
    return reloader.problems


@contextlib.asynccontextmanager
async def _while_serving(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do `work`, which does not end by itself, until the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _exit_soon(status: int) -> None:
    """Python waits for its threads, and one that reads a file of a server which is gone never ends."""
    watchdog = threading.Timer(END_SECS, _exit, [status])
    watchdog.daemon = True
    try:
        watchdog.start()
    except RuntimeError:  # no threads to be had, and the loop would want one to end; all that matters is over
        _exit(status)


def _exit(status: int) -> None:
    logs.flush()
    os._exit(status)


def _is_public(address: str) -> bool:
    return not ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
