"""Listening sockets, before there is a loop."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from llmux.serve import StartError, bind


def have_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not have_ipv6(), reason="no IPv6 on this machine")


@pytest.fixture
def bound() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


def test_it_listens_at_once(bound: list[socket.socket]) -> None:
    bound += bind("127.0.0.1", 0)
    (sock,) = bound
    socket.create_connection(sock.getsockname()).close()


def test_two_cannot_have_the_same_port(bound: list[socket.socket]) -> None:
    bound += bind("127.0.0.1", 0)
    port = bound[0].getsockname()[1]
    with pytest.raises(StartError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: .*in use$"):
        bind("127.0.0.1", port)


@needs_ipv6
def test_all_addresses_of_a_name_share_a_port(bound: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
        for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0)))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    bound += bind("localhost", 0)
    assert {sock.getsockname()[0] for sock in bound} == {"127.0.0.1", "::1"}
    assert len({sock.getsockname()[1] for sock in bound}) == 1


def test_an_address_that_this_machine_lacks_is_left_out(
    bound: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    bound += bind("some.name", 0)
    assert [sock.getsockname()[0] for sock in bound] == ["127.0.0.1"]


@needs_ipv6
def test_all_interfaces_of_ipv6_take_ipv4_too(bound: list[socket.socket]) -> None:
    bound += bind("::", 0)
    socket.create_connection(("127.0.0.1", bound[0].getsockname()[1])).close()


@needs_ipv6
def test_an_ipv6_address_is_written_in_brackets(bound: list[socket.socket]) -> None:
    bound += bind("::1", 0)
    port = bound[0].getsockname()[1]
    with pytest.raises(StartError, match=rf"^cannot listen on \[::1\]:{port}: "):
        bind("::1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(StartError, match=rf"^cannot listen on {host}:1234: [^\n]+$"):
        bind(host, 1234)
