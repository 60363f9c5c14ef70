"""The names that llmux answers to (FAULTS row 64)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.access import Hosts, is_loopback_name

pytestmark = pytest.mark.fault(64)

LOCAL = [
    b"", b"localhost", b"localhost:3000", b"LOCALHOST:3000", b"localhost.", b"localhost.:80", b"app.localhost",
    b"127.0.0.1", b"127.0.0.1:3000", b"[::1]", b"[::1]:3000", b"192.168.1.7:3000", b"8.8.8.8", b"[2001:db8::7]:3000",
    b"0.0.0.0:3000", b"127.1", b"2130706433", b"0x7f.1", b"127.0.0.0x1",
]  # fmt: skip
PRIVATE = [
    b"gpubox", b"gpubox:3000", b"GPUBOX", b"my_service:3000", b"gpubox.local", b"gpubox.lan:3000", b"x.internal",
    b"llmux.default.svc.cluster.local", b"gpu.home.arpa", b"llmux.test",
]  # fmt: skip
FOREIGN = [
    b"evil.example", b"evil.example:3000", b"localhost.evil.example", b"127.0.0.1.evil.example", b"evil-localhost.com",
    b"evillocal.com", b"notlocalhost.com:3000", b"lan.evil.com", b"gpubox.evil.com", b"gpubox.local.evil.com",
    b"1.2.3.4.nip.io", b"xn--lcalhost-9za.com",
]  # fmt: skip
MALFORMED = [
    b"evil.example@localhost", b"localhost:3000@evil.example", b"localhost/evil.example", b"localhost evil.example",
    b"localhost,evil.example", b"[::1", b"::1", b"[localhost]", b"localhost:evil", b"localhost:80:80", b":3000", b".",
    b"localhost\xff", b"localhost#", b"localhost\\", b"http://localhost", b"[::1]evil.example",
]  # fmt: skip


@pytest.mark.parametrize("authority", LOCAL + PRIVATE)
def test_names_that_nobody_outside_can_have(authority: bytes) -> None:
    hosts = Hosts()
    assert hosts.allow(authority)
    assert hosts.allow(authority), "remembered"


@pytest.mark.parametrize("authority", FOREIGN + MALFORMED)
def test_all_others_are_refused(authority: bytes) -> None:
    hosts = Hosts(own=("gpubox", "127.0.0.1"))
    assert not hosts.allow(authority)
    assert not hosts.allow(authority), "not remembered"


def test_the_machines_own_name() -> None:
    hosts = Hosts(own=("gpubox.example.com", "::"))
    assert hosts.allow(b"GPUbox.example.com.:3000")
    assert not hosts.allow(b"other.example.com")


def test_listed_names() -> None:
    hosts = Hosts(["llm.example.com", "*.cluster.example", "[2001:db8::1]"], only_listed=True, own=("gpubox",))
    for name in (b"llm.example.com", b"LLM.example.com:443", b"a.cluster.example", b"a.b.cluster.example"):
        assert hosts.allow(name), name
    for name in (
        b"example.com",
        b"x.llm.example.com",
        b"cluster.example",
        b"evilcluster.example",
        b"gpubox",
        b"x.local",
    ):
        assert not hosts.allow(name), name
    for name in LOCAL:
        assert hosts.allow(name) == (name != b"app.localhost"), name


def test_any_name() -> None:
    assert Hosts(["*"], only_listed=True).allow(b"evil.example")


def test_it_does_not_remember_without_end() -> None:
    hosts = Hosts(["*"])
    for number in range(5000):
        assert hosts.allow(b"host-%d" % number)
    assert len(hosts._known) <= 1024


@given(st.text(st.sampled_from("abclohst.-019[]:@/*"), max_size=24))
def test_what_ends_in_a_public_domain_never_passes(text: str) -> None:
    assert not Hosts(own=("gpubox",)).allow(text.encode() + b".evil.example")


@pytest.mark.parametrize(
    "authority", [b"localhost", b"localhost:1", b"a.localhost", b"127.0.0.1:3", b"127.9.9.9", b"[::1]:3"]
)
def test_loopback_names(authority: bytes) -> None:
    assert is_loopback_name(authority)


@pytest.mark.parametrize(
    "authority", [b"", b"gpubox", b"192.168.0.1", b"0.0.0.0", b"[::]", b"x.local", *FOREIGN, *MALFORMED]
)
def test_what_is_no_loopback_name(authority: bytes) -> None:
    assert not is_loopback_name(authority)
