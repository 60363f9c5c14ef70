"""Serves the control plane, on the running loop, on a unix socket that only this user can reach.

It leaves signals, logging configuration and the process alone. It listens at once, and loads the web server behind the
listening socket: importing that takes as long as a quarter of llmux's whole start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmux import logs
from llmux.addresses import BackendAddress

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from llmux.control.embedded import EmbeddedServer

PREFIX = "llmux-control-"

SOCKET_PATH_LIMIT = 100
"""Bytes that surely fit into an address of a unix socket: 108 on Linux, 104 on macOS, less a terminator."""

log = logs.get_logger("llmux.control")


@contextlib.asynccontextmanager
async def control_server(make_app: Callable[[], Starlette]) -> AsyncIterator[BackendAddress]:
    """Serve the application that `make_app` makes, while the context lasts; gives the address to reach it at.

    `make_app` is called in a thread, so that it may import what it needs. Should that fail, it is logged, and the
    address refuses connections. Leaving takes about 0.1 seconds, or 1 if answers are under way; those are cut then.

    Raises:
        OSError: the socket cannot be made.
    """
    path, sock = await asyncio.to_thread(_private_socket)
    stop = asyncio.Event()
    serving = asyncio.create_task(_serve(make_app, sock, stop), name="llmux-control")
    try:
        yield BackendAddress(unix_path=str(path))
    finally:
        stop.set()
        try:
            await serving
        finally:
            await asyncio.to_thread(shutil.rmtree, path.parent, ignore_errors=True)


async def _serve(make_app: Callable[[], Starlette], sock: socket.socket, stop: asyncio.Event) -> None:
    with contextlib.closing(sock):
        try:
            server = await asyncio.to_thread(_load, make_app, stop)
            await server.serve(sockets=[sock])
        except Exception:
            log.exception("control_plane_failed")


def _load(make_app: Callable[[], Starlette], stop: asyncio.Event) -> EmbeddedServer:
    from llmux.control.embedded import EmbeddedServer

    return EmbeddedServer(make_app(), stop)


def _sweep(parent: Path) -> None:
    """Remove what llmuxes that were killed have left: directories of ours whose socket nobody listens on any more."""
    for directory in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            if directory.stat().st_uid != os.getuid():
                continue
            try:
                probe.connect(str(directory / "control.sock"))
            except ConnectionRefusedError:
                shutil.rmtree(directory, ignore_errors=True)


def _private_socket() -> tuple[Path, socket.socket]:
    """A listening socket, and its path in a new directory with mode 0700."""
    _sweep(Path(tempfile.gettempdir()))
    directory = tempfile.mkdtemp(prefix=PREFIX)
    if len(f"{directory}/control.sock".encode()) > SOCKET_PATH_LIMIT:
        shutil.rmtree(directory)
        directory = tempfile.mkdtemp(prefix=PREFIX, dir="/tmp")
    path = Path(directory, "control.sock")
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(str(path))
        sock.listen()
    except OSError:
        sock.close()
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return path, sock
