"""The relay behind TLS: the same promises as without it, and certificates that are exchanged under open connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from llmux.certificates import Certificate, CertificateError, load_certificate
from llmux.gateway import GatewaySettings, Limit, Timeouts
from tests.gateway.peers import (
    PATIENCE,
    BackendConnection,
    RawClient,
    Received,
    Rig,
    TruncatedError,
    chat,
    rig,
    until,
)

pytestmark = pytest.mark.anyio

AUTHORITY = trustme.CA()


def write_pair(folder: Path, authority: trustme.CA = AUTHORITY, name: str = "localhost") -> tuple[Path, Path]:
    issued = authority.issue_cert(name, "127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return cert, key


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(load_certificate(*write_pair(tmp_path)))


def trusting(authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def connect(world: Rig, context: ssl.SSLContext | None = None, *, receive_buffer: int | None = None) -> RawClient:
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", world.port))
    streams = await asyncio.open_connection(
        sock=sock, ssl=context or trusting(), server_hostname="localhost", limit=receive_buffer or 1 << 16
    )
    client = RawClient(*streams)
    world.clients.append(client)
    return client


def serial(client: RawClient) -> str:
    return str(client.writer.get_extra_info("peercert")["serialNumber"])


@contextlib.asynccontextmanager
async def tls_rig(
    certificate: Certificate, settings: GatewaySettings | None = None, *, steady: bool = False
) -> AsyncIterator[Rig]:
    async with rig(tls=certificate.context, settings=settings, steady=steady) as world:
        yield world


async def test_requests_and_pipelines(certificate: Certificate) -> None:
    async with tls_rig(certificate) as world:
        client = await connect(world)
        await client.send(chat() * 3)
        for _ in range(3):
            assert (await client.receive()).status == 200
        assert world.backend.requests[0].header("x-forwarded-proto") == "https"
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() is None


async def test_only_http_1_1_and_only_new_tls(certificate: Certificate) -> None:
    async with tls_rig(certificate) as world:
        wanted = trusting()
        wanted.set_alpn_protocols(["h2", "http/1.1"])
        client = await connect(world, wanted)
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            exactly = trusting()
            exactly.minimum_version = exactly.maximum_version = version
            client = await connect(world, exactly)
            await client.send(chat())
            assert (await client.receive()).status == 200
        assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_a_stream_comes_as_it_is_made(certificate: Certificate) -> None:
    began: asyncio.Queue[BackendConnection] = asyncio.Queue()

    def script(connection: BackendConnection, request: Received) -> None:
        connection.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"9\r\ndata: 1\n\n\r\n"
        )
        began.put_nowait(connection)

    async with tls_rig(certificate) as world:
        world.backend.script = script
        client = await connect(world)
        await client.send(chat())
        await client.read_until(b"data: 1\n\n\r\n")
        (await began.get()).write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await client.read_until(b"0\r\n\r\n")


async def test_a_slow_reader_slows_the_backend_down(certificate: Certificate) -> None:
    size = 32 << 20
    async with tls_rig(certificate) as world:
        world.backend.play(
            lambda connection, request: connection.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
            )
        )
        client = await connect(world)
        await client.send(chat())
        await client.read_until(b"\r\n\r\n")
        await until(lambda: world.backend.connections[0].paused)
        assert world.scheduler.granted, "not all has left"
        async with asyncio.timeout(60):
            assert len(await client.reader.readexactly(size)) == size
        await world.idle()


async def test_a_client_that_does_not_read_is_given_up(certificate: Certificate) -> None:
    size = 32 << 20
    settings = GatewaySettings(timeouts=Timeouts(write=0.3))
    async with tls_rig(certificate, settings, steady=True) as world:
        world.backend.play(
            lambda connection, request: connection.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
            )
        )
        client = await connect(world, receive_buffer=4096)
        await client.send(chat())
        await client.read_until(b"\r\n\r\n")
        await world.idle()
        await until(lambda: not world.gateway.connections)


@pytest.mark.parametrize("abrupt", [True, False], ids=["reset", "close_notify"])
async def test_a_client_that_leaves_frees_the_model(certificate: Certificate, abrupt: bool) -> None:
    async with tls_rig(certificate) as world:
        world.backend.script = lambda connection, request: None
        client = await connect(world)
        await client.send(chat())
        await until(lambda: world.scheduler.granted)
        client.reset() if abrupt else client.writer.close()
        await world.idle()
        await until(lambda: not world.backend.live)


async def test_what_was_cut_cannot_be_taken_for_a_whole(certificate: Certificate) -> None:
    """Neither by its framing nor, where only the end of the connection tells, by TLS's own end."""
    heads = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ]
    async with tls_rig(certificate) as world:
        for head in heads:

            def script(connection: BackendConnection, request: Received, head: bytes = head) -> None:
                connection.write(head)
                connection.reset()

            world.backend.script = script
            client = await connect(world)
            await client.send(chat())
            with pytest.raises((TruncatedError, AssertionError)):
                await client.receive()


async def test_errors_are_read_before_the_end(certificate: Certificate) -> None:
    async with tls_rig(certificate) as world:
        client = await connect(world)
        await client.send(b"NONSENSE\r\n\r\n" + b"x" * 100_000)
        assert (await client.receive()).status == 400
        await client.close()
        await until(lambda: not world.gateway.connections)


async def test_an_answer_until_the_close_ends_cleanly(certificate: Certificate) -> None:
    size = 32 << 20
    async with tls_rig(certificate) as world:

        def script(connection: BackendConnection, request: Received) -> None:
            connection.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * size)
            connection.close()

        world.backend.script = script
        client = await connect(world)
        await client.send(chat())
        await client.read_until(b"\r\n\r\n")
        assert len(await client.rest()) == size


# --- handshakes -------------------------------------------------------------------------------------------------------


@pytest.mark.fault(14)
async def test_a_handshake_has_a_deadline(certificate: Certificate) -> None:
    settings = GatewaySettings(timeouts=Timeouts(head=0.2))
    async with tls_rig(certificate, settings) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"\x16\x03\x01")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                assert await reader.read() == b""
        writer.close()


async def connect_and_ask(world: Rig) -> RawClient:
    client = await connect(world)
    await client.send(chat())
    return client


@pytest.mark.parametrize("greeting", [chat(), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x00" * 600])
async def test_what_is_not_tls_disturbs_nobody(certificate: Certificate, greeting: bytes) -> None:
    async with tls_rig(certificate) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(greeting)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                assert b"HTTP" not in await reader.read()
        writer.close()
        assert (await (await connect_and_ask(world)).receive()).status == 200
        assert len(world.backend.requests) == 1


async def test_an_open_handshake_does_not_hold_up_the_end(certificate: Certificate) -> None:
    async with tls_rig(certificate) as world:
        _, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"\x16\x03")
        await writer.drain()
    writer.close()


# --- the certificate --------------------------------------------------------------------------------------------------


async def test_another_certificate_takes_over_and_open_connections_stay(tmp_path: Path) -> None:
    def loaded(authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
        return load_certificate(*write_pair(tmp_path, authority))

    certificate = Certificate(await asyncio.to_thread(loaded))
    async with tls_rig(certificate) as world:
        before = await connect(world)
        await before.send(chat())
        assert (await before.receive()).status == 200
        new = trustme.CA()
        certificate.exchange(await asyncio.to_thread(loaded, new))
        after = await connect(world, trusting(new))
        assert serial(after) != serial(before)
        await after.send(chat())
        assert (await after.receive()).status == 200
        with pytest.raises(ssl.SSLError):
            await connect(world, trusting(AUTHORITY))
        await before.send(chat())
        assert (await before.receive()).status == 200
        unnamed = trusting(new)
        unnamed.check_hostname = False
        streams = await asyncio.open_connection("127.0.0.1", world.port, ssl=unnamed, server_hostname="")
        world.clients.append(RawClient(*streams))
        assert serial(world.clients[-1]) == serial(after), "also without a name"


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    other_cert, other_key = write_pair(other)
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    cases = [
        (tmp_path / "none.pem", key, "cert", "none.pem cannot be read: No such file"),
        (cert, tmp_path / "none.pem", "key", "none.pem cannot be read: No such file"),
        (cert, other_key, "key", "is not the private key of"),
        (other_cert, key, "key", "is not the private key of"),
        (broken, key, "cert", "cannot be used"),
        (cert, cert, "cert", "cannot be used"),
        (tmp_path, key, "cert", "cannot be read: Is a directory"),
    ]
    for one, another, part, words in cases:
        with pytest.raises(CertificateError, match=words) as raised:
            load_certificate(one, another)
        assert raised.value.part == part


def test_a_passphrase_is_not_asked_for(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    cert, key = write_pair(tmp_path)
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateError, match="cannot be used"):
        load_certificate(cert, key)


@pytest.mark.fault(54)
async def test_54_who_connects_and_says_nothing_is_counted_before_its_handshake(certificate: Certificate) -> None:
    async with tls_rig(certificate, GatewaySettings(max_connections=3)) as world:
        kept = await connect(world)
        await kept.send(chat())
        assert (await kept.receive()).status == 200
        world.scheduler.hold = True
        await kept.send(chat())
        silent = [await world.client() for _ in range(6)]
        await until(lambda: Limit.DESCRIPTORS in world.observer.limits and world.gateway.connections == 3)
        world.scheduler.hold = False
        world.scheduler.grant()
        assert (await kept.receive()).status == 200
        *others, last = silent
        for one in others:  # those that came first are sent away after a second, and the others take their places
            assert await one.reader.read() == b""
        client = await connect(world)
        await client.send(chat())
        assert (await client.receive()).status == 200
        await last.close()  # nobody waits for its place: it would have had the whole time of a handshake


@pytest.mark.fault(54)
async def test_54_handshakes_that_fail_give_their_places_back(certificate: Certificate) -> None:
    async with tls_rig(certificate, GatewaySettings(max_connections=2)) as world:
        for last in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff"):
            for _ in range(3):
                one = await world.client()
                await one.send(last)
                await one.close()
        with pytest.raises(ssl.SSLError):
            await connect(world, trusting(trustme.CA()))
        await until(lambda: world.gateway.connections == 0)
        client = await connect(world)
        await client.send(chat())
        assert (await client.receive()).status == 200
        assert world.gateway.connections == 1


async def test_a_handshake_under_way_does_not_outlive_the_gateway(certificate: Certificate) -> None:
    async with tls_rig(certificate) as world:
        one = await world.client()
        await until(lambda: world.gateway.connections == 1)
        world.gateway.stop_accepting()
        assert await one.reader.read() == b""
        await world.gateway.drained()
