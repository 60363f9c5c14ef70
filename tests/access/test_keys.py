"""Which keys there are, and which one a request shows."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.access import Key, Keyring, digest_of, presented_keys
from llmux.errors import BadRequestError

ALICE = Key("alice", digest_of(b"sk-alice"))
BOB = Key("bob", digest_of(b"sk-bob"), frozenset({"small"}))
RING = Keyring([ALICE, BOB])

pytestmark = pytest.mark.fault(65)


def test_a_key_is_found_by_what_it_is() -> None:
    assert RING.find([b"sk-alice"]) is ALICE
    assert RING.find([b"sk-bob"]) is BOB
    assert RING.find([b"nonsense", b"sk-bob"]) is BOB


@pytest.mark.parametrize("shown", [b"", b"sk-alic", b"sk-alicee", b"SK-ALICE", b"sk-alice\0", ALICE.digest, bytes(32)])
def test_nothing_else_is(shown: bytes) -> None:
    assert RING.find([shown]) is None


@given(st.binary(max_size=80))
def test_no_other_bytes_open_anything(shown: bytes) -> None:
    found = RING.find([shown])
    assert (found is not None) == (shown in (b"sk-alice", b"sk-bob"))


def test_a_guess_costs_the_same_comparison_as_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of one length, by the comparison whose time does not depend on them, whether there is such a key or
    not."""
    compared: list[tuple[int, int]] = []
    honest = hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return honest(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    for shown in (b"sk-alice", b"sk-bob", b"sk-alicf", b"", b"x" * 10_000):
        RING.find([shown])
    assert compared == [(32, 32)] * 5


def test_an_empty_ring_opens_nothing() -> None:
    assert not Keyring()
    assert Keyring().find([b"", b"sk-alice"]) is None


def test_a_ring_never_shows_a_key() -> None:
    assert "sk-alice" not in repr(ALICE) + repr(RING)
    assert ALICE.digest.hex() not in repr(ALICE)
    assert repr(ALICE.digest) not in repr(ALICE)


def test_what_a_key_opens() -> None:
    assert ALICE.opens("small")
    assert ALICE.opens("large")
    assert BOB.opens("small")
    assert not BOB.opens("large")
    assert not Key("none", b"", frozenset()).opens("small")


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([], []),
        ([b"Authorization: Bearer k"], [b"k"]),
        ([b"authorization:bearer   k "], [b"k"]),
        ([b"AUTHORIZATION: BEARER k"], [b"k"]),
        ([b"X-Api-Key: k"], [b"k"]),
        ([b"x-api-key:k"], [b"k"]),
        ([b"Authorization: Bearer a", b"x-api-key: b"], [b"a", b"b"]),
        ([b"Authorization: Basic k"], []),
        ([b"Authorization: k"], []),
        ([b"Authorization: Bearer"], []),
        ([b"Authorization: Bearer "], []),
        ([b"Authorization:"], []),
        ([b"Authorization: Bearerk"], []),
        ([b"x-api-key: "], []),
        ([b"x-api-keys: k"], []),
        ([b"Authorization: Bearer a b"], [b"a b"]),
    ],
)
def test_how_keys_are_shown(lines: list[bytes], shown: list[bytes]) -> None:
    assert presented_keys(lines) == shown


@pytest.mark.parametrize(
    "lines",
    [
        [b"Authorization: Bearer a", b"Authorization: Bearer b"],
        [b"Authorization: Basic x", b"authorization: Bearer b"],
        [b"x-api-key: a", b"X-API-Key: a"],
    ],
)
def test_one_field_twice_is_refused(lines: list[bytes]) -> None:
    with pytest.raises(BadRequestError):
        presented_keys(lines)
