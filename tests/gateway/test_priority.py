"""How urgent requests say they are, and who may say it."""

from __future__ import annotations

import pytest

from llmux.access import Access, Key, Keyring, digest_of
from tests.gateway.peers import chat, rig

pytestmark = pytest.mark.anyio

ACCESS = Access(keys=Keyring([Key("free", digest_of(b"free")), Key("meek", digest_of(b"meek"), None, False)]))


def body(tier: str) -> bytes:
    return b'{"model": "m", "service_tier": %b}' % tier.encode()


@pytest.mark.parametrize(
    ("request_", "level"),
    [
        (chat(), 0),
        (chat(body('"flex"')), -1),
        (chat(body('"default"')), 0),
        (chat(body('"priority"')), 1),
        (chat(body('"auto"')), 0),
        (chat(body("7")), 0),
        (chat(body("null")), 0),
        (chat(b'{"model": "m", "metadata": {"service_tier": "priority"}}'), 0),
        (chat(b'{"model": "m", "x": "\\"service_tier\\": \\"priority\\""}'), 0),
        (chat(b'"service_tier"', path=b"/upstream/m/x"), 0),
        (chat(b"x" * 9, b"X-LLMux-Priority: priority", path=b"/upstream/m/x"), 1),
        (chat(body('"priority"'), b"x-llmux-priority: flex"), -1),
        (chat(body('"flex"'), b"x-llmux-priority:  Default "), 0),
    ],
)
async def test_the_level_of_a_request(request_: bytes, level: int) -> None:
    async with rig() as gateway:
        assert (await gateway.ask(request_)).status == 200
        assert gateway.scheduler.levels == [level]
        (relayed,) = gateway.backend.requests
        assert relayed.header("x-llmux-priority") is None


@pytest.mark.parametrize("field", [b"x-llmux-priority: high", b"x-llmux-priority:"])
async def test_a_word_that_is_none_of_them_is_an_error(field: bytes) -> None:
    async with rig() as gateway:
        answer = await gateway.ask(chat(b'{"model": "m"}', field))
        assert answer.status == 400
        assert b"flex, default, priority" in answer.body


async def test_twice_is_malformed() -> None:
    async with rig() as gateway:
        answer = await gateway.ask(chat(b'{"model": "m"}', b"x-llmux-priority: flex", b"X-Llmux-Priority: priority"))
        assert answer.status == 400
        assert not gateway.scheduler.levels


@pytest.mark.parametrize(
    ("key", "said", "level"), [("free", "priority", 1), ("meek", "priority", 0), ("meek", "flex", -1)]
)
async def test_keys_can_be_barred_from_going_first(key: str, said: str, level: int) -> None:
    async with rig(access=ACCESS) as gateway:
        credential = b"Authorization: Bearer " + key.encode()
        assert (await gateway.ask(chat(body(f'"{said}"'), credential))).status == 200
        assert (await gateway.ask(chat(body("null"), credential, b"x-llmux-priority: " + said.encode()))).status == 200
        assert gateway.scheduler.levels == [level, level]
