"""Who is let in, over real sockets: keys (FAULTS row 65), pages of other sites (63, 66), forged names (64).

A refused request must not reach a backend, must not ask for a model, and must not be told more than that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from llmux.access import Access, Hosts, Key, Keyring, Origins, digest_of
from llmux.addresses import BackendAddress
from tests.gateway.peers import Answer, FakeBackend, Rig, chat, get, rig
from tests.ports import nobodys_port

pytestmark = pytest.mark.anyio

ALICE = b"sk-alice-0123456789"
BOB = b"sk-bob-0123456789"
ADMIN = b"sk-admin-0123456789"
KEYS = Keyring([Key("alice", digest_of(ALICE)), Key("bob", digest_of(BOB), frozenset({"other"}))])
ADMIN_KEYS = Keyring([Key("ops", digest_of(ADMIN))])
CHAT = "https://chat.example.com"


def code(answer: Answer) -> tuple[int, str]:
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status, error["code"]


def untouched(world: Rig) -> None:
    """Nobody heard of the request but the gateway."""
    assert not world.backend.connections
    assert not world.scheduler.arrivals


@pytest.fixture
async def keyed() -> AsyncIterator[Rig]:
    async with rig(access=Access(keys=KEYS, admin_keys=ADMIN_KEYS)) as world:
        yield world


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(65)
@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"Authorization: Bearer wrong"],
        [b"Authorization: Bearer " + ALICE + b"x"],
        [b"Authorization: Bearer " + ALICE[:-1]],
        [b"Authorization: Basic " + ALICE],
        [b"Authorization: " + ALICE],
        [b"x-api-key: wrong"],
        [b"x-api-key: "],
        [b"X_Api_Key: " + ALICE],
        [b"Api-Key: " + ALICE],
        [b"Cookie: key=" + ALICE],
        [b"Authorization: Bearer " + ADMIN],
        [b"x-api-key: " + ADMIN],
    ],
)
@pytest.mark.parametrize(
    "request_of",
    [
        lambda *fields: chat(b'{"model": "m"}', *fields),
        lambda *fields: chat(b'{"model": "unknown"}', *fields),
        lambda *fields: chat(b"{", *fields),
        lambda *fields: get(b"/upstream/m/v1/models", *fields),
        lambda *fields: get(b"/nowhere?model=m", *fields),
        lambda *fields: get(b"/nowhere", *fields),
    ],
    ids=["model", "unknown", "broken", "upstream", "query", "nothing"],
)
async def test_without_a_key_nobody_hears_of_a_request(keyed: Rig, fields: list[bytes], request_of: object) -> None:
    assert callable(request_of)
    answer = await keyed.ask(request_of(*fields))
    assert code(answer) == (401, "invalid_api_key")
    assert answer.header("www-authenticate") == "Bearer"
    assert answer.header("access-control-allow-origin") is None
    assert keyed.observer.done == [(None, 401)]
    untouched(keyed)


@pytest.mark.fault(65)
@pytest.mark.parametrize(
    "field", [b"Authorization: Bearer " + ALICE, b"authorization: bearer " + ALICE, b"x-api-key: " + ALICE]
)
async def test_a_key_opens_and_goes_no_further(keyed: Rig, field: bytes) -> None:
    answer = await keyed.ask(chat(b'{"model": "m"}', field, b"X-Mine: 1"))
    assert answer.status == 200
    assert ALICE not in keyed.backend.connections[0].raw
    assert keyed.backend.requests[0].header("x-mine") == "1"
    assert keyed.backend.requests[0].header("authorization") is None
    assert keyed.backend.requests[0].header("x-api-key") is None


@pytest.mark.fault(65)
async def test_all_credentials_stay_here_even_those_that_were_not_looked_at(keyed: Rig) -> None:
    both = [b"Authorization: Bearer " + ALICE, b"x-api-key: something-else"]
    assert (await keyed.ask(chat(b'{"model": "m"}', *both))).status == 200
    assert b"something-else" not in keyed.backend.connections[0].raw
    nominated = chat(b'{"model": "m"}', b"Authorization: Bearer " + ALICE, b"Connection: authorization")
    assert (await keyed.ask(nominated)).status == 200
    assert ALICE not in b"".join(connection.raw for connection in keyed.backend.connections)


@pytest.mark.fault(65)
async def test_a_key_given_twice_is_malformed(keyed: Rig) -> None:
    twice = [b"Authorization: Bearer " + ALICE, b"Authorization: Bearer wrong"]
    assert code(await keyed.ask(chat(b'{"model": "m"}', *twice))) == (400, "invalid_request")
    untouched(keyed)


@pytest.mark.fault(65)
async def test_a_key_opens_the_models_that_it_is_for(keyed: Rig) -> None:
    for name in (b"m", b"alias"):
        answer = await keyed.ask(chat(b'{"model": "%b"}' % name, b"Authorization: Bearer " + BOB))
        assert code(answer) == (403, "model_not_allowed")
    answer = await keyed.ask(get(b"/upstream/m/x", b"x-api-key: " + BOB))
    assert code(answer) == (403, "model_not_allowed")
    assert code(await keyed.ask(chat(b'{"model": "x"}', b"x-api-key: " + BOB))) == (404, "model_not_found")
    untouched(keyed)


@pytest.mark.fault(65)
async def test_each_request_of_a_connection_needs_its_key(keyed: Rig) -> None:
    client = await keyed.client()
    request = chat(b'{"model": "m"}', b"x-api-key: " + ALICE)
    await client.send(request + chat() + request)
    assert [(await client.receive()).status for _ in range(3)] == [200, 401, 200]
    assert len(keyed.scheduler.arrivals) == 2


@pytest.mark.fault(65)
async def test_a_stranger_cannot_make_it_wait_for_a_body(keyed: Rig) -> None:
    """The answer comes with the head: no byte of the body is asked for, or kept."""
    client = await keyed.client()
    head = chat(b"", b"Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 50000000")
    interim: list[int] = []
    await client.send(head)
    assert code(await client.receive(interim=interim)) == (401, "invalid_api_key")
    assert interim == []
    assert keyed.gateway.buffered_bytes == 0
    assert await client.rest() == b""
    untouched(keyed)


async def test_whoever_has_a_key_may_send_a_large_body(keyed: Rig) -> None:
    client = await keyed.client()
    whole = chat(b'{"model": "m", "x": "%b"}' % (b"x" * 300_000), b"x-api-key: " + ALICE)
    await client.send(whole[:500], whole[500:])
    assert (await client.receive()).status == 200


@pytest.mark.fault(65)
async def test_keys_are_exchanged_between_two_requests() -> None:
    async with rig(access=Access(keys=KEYS)) as world:
        client = await world.client()
        await client.send(chat(b'{"model": "m"}', b"x-api-key: " + ALICE))
        assert (await client.receive()).status == 200
        world.gateway.access = Access(keys=Keyring([Key("new", digest_of(b"sk-new"))]))
        await client.send(chat(b'{"model": "m"}', b"x-api-key: " + ALICE))
        assert (await client.receive()).status == 401
        await client.send(chat(b'{"model": "m"}', b"x-api-key: sk-new"))
        assert (await client.receive()).status == 200


async def test_without_keys_authorization_is_the_backends() -> None:
    """As in 2.4.0."""
    async with rig() as world:
        fields = [b"Authorization: Bearer theirs", b"x-api-key: theirs-too"]
        assert (await world.ask(chat(b'{"model": "m"}', *fields))).status == 200
        assert world.backend.requests[0].header("authorization") == "Bearer theirs"
        assert world.backend.requests[0].header("x-api-key") == "theirs-too"


async def test_authorization_is_forwarded_if_asked() -> None:
    async with rig(access=Access(keys=KEYS, forward_to=frozenset({"m"}))) as world:
        assert (await world.ask(chat(b'{"model": "m"}', b"Authorization: Bearer " + ALICE))).status == 200
        assert world.backend.requests[0].header("authorization") == f"Bearer {ALICE.decode()}"


@pytest.mark.fault(65)
@pytest.mark.parametrize("keys", [Keyring(), KEYS], ids=["open", "keyed"])
async def test_an_admin_key_never_reaches_a_backend(keys: Keyring) -> None:
    access = Access(keys=keys, admin_keys=ADMIN_KEYS, forward_to=frozenset({"m"}))
    async with rig(access=access) as world:
        fields = [b"Authorization: Bearer " + (ALICE if keys else b"theirs"), b"x-api-key: " + ADMIN]
        assert (await world.ask(chat(b'{"model": "m"}', *fields))).status == 200
        assert world.backend.requests[0].header("authorization") is not None
        assert ADMIN not in world.backend.connections[0].raw


# --- names ------------------------------------------------------------------------------------------------------------


def to_host(request: bytes, host: bytes) -> bytes:
    return request.replace(b"llmux.test", host)


OPEN = [chat(), get(b"/upstream/m/x"), get(b"/nowhere"), get(b"/health"), get(b"/v1/models"), get(b"/metrics"),
        get(b"/admin/v1/switch"), chat(path=b"/admin/v1/switch"), get(b"/ui")]  # fmt: skip


@pytest.mark.fault(64)
@pytest.mark.parametrize("request_bytes", OPEN, ids=range(len(OPEN)))
async def test_forged_hosts(request_bytes: bytes) -> None:
    control = FakeBackend()
    await control.start()
    async with rig(control=control.address) as world:
        for host in (b"evil.example", b"evil.example:3000", b"localhost.evil.example"):
            answer = await world.ask(to_host(request_bytes, host))
            assert code(answer) == (403, "host_not_allowed"), host
        userinfo = await world.ask(to_host(request_bytes, b"localhost@evil.example"))
        assert code(userinfo) == (400, "invalid_request")  # no Host at all
        absolute = request_bytes.replace(b" /", b" http://evil.example/", 1)
        assert code(await world.ask(absolute)) == (403, "host_not_allowed")
        untouched(world)
        assert not control.requests
        for host in (b"localhost", b"127.0.0.1:3000", b"gpubox:3000", b"[::1]:3000"):
            assert (await world.ask(to_host(request_bytes, host))).status != 403, host
    await control.stop()


@pytest.mark.fault(64)
async def test_a_key_makes_up_for_the_name(keyed: Rig) -> None:
    answer = await keyed.ask(to_host(chat(b'{"model": "m"}', b"x-api-key: " + ALICE), b"llm.example.com"))
    assert answer.status == 200
    assert code(await keyed.ask(to_host(get(b"/health"), b"llm.example.com"))) == (403, "host_not_allowed")


@pytest.mark.fault(64)
async def test_listed_names() -> None:
    async with rig(access=Access(hosts=Hosts(["llm.example.com"], only_listed=True))) as world:
        assert (await world.ask(to_host(chat(), b"llm.example.com"))).status == 200
        assert (await world.ask(to_host(chat(), b"127.0.0.1:3000"))).status == 200
        assert code(await world.ask(chat())) == (403, "host_not_allowed")


async def test_http_1_0_has_no_host() -> None:
    async with rig() as world:
        request = chat().replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: llmux.test\r\n", b"")
        assert (await world.ask(request)).status == 200


# --- pages of other sites ---------------------------------------------------------------------------------------------

EVIL = b"Origin: https://evil.example"
#: What a page may make a browser send without a preflight (Fetch standard, "CORS-safelisted").
SIMPLE = [
    chat(b'{"model": "m"}').replace(b"application/json", b"text/plain"),
    chat(b'{"model": "m"}').replace(b"Content-Type: application/json\r\n", b""),
    chat(b"model=m").replace(b"application/json", b"application/x-www-form-urlencoded"),
    chat(b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n').replace(
        b"application/json", b"multipart/form-data; boundary=b"
    ),
    get(b"/upstream/m/v1/models"),
    get(b"/v1/models?model=m"),
    get(b"/upstream/m/x", method=b"HEAD"),
    chat(path=b"/upstream/m/sleep"),
    chat(path=b"/admin/v1/models/m/wake").replace(b"application/json", b"text/plain"),
    get(b"/admin/v1/events"),
    get(b"/v1/models"),
    get(b"/metrics"),
]
FROM_ELSEWHERE: list[list[bytes]] = [
    [EVIL],
    [b"Origin: null"],
    [b"Origin: http://localhost:8080"],
    [b"Sec-Fetch-Site: cross-site"],
    [b"Sec-Fetch-Site: same-site"],
    [EVIL, b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: no-cors", b"Sec-Fetch-Dest: empty"],
    [b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: iframe"],
    [b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: no-cors", b"Sec-Fetch-Dest: image"],
    [EVIL, b"Authorization: Bearer guessed"],
]
FROM_HERE: list[list[bytes]] = [
    [],
    [b"Origin: http://llmux.test"],
    [b"Sec-Fetch-Site: same-origin", b"Origin: http://llmux.test"],
    [b"Sec-Fetch-Site: none", b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: document"],
]


def with_fields(request: bytes, fields: list[bytes]) -> bytes:
    return request.replace(b"\r\n", b"\r\n" + b"".join(field + b"\r\n" for field in fields), 1)


@pytest.mark.fault(63)
@pytest.mark.parametrize("request_bytes", SIMPLE, ids=range(len(SIMPLE)))
async def test_the_header_matrix(request_bytes: bytes) -> None:
    control = FakeBackend()
    await control.start()
    method = "HEAD" if request_bytes.startswith(b"HEAD") else "POST"
    async with rig(control=control.address) as world:
        for fields in FROM_ELSEWHERE:
            answer = await world.ask(with_fields(request_bytes, fields), method)
            assert answer.status == 403, fields
            if answer.body:
                assert code(answer) == (403, "origin_not_allowed")
            assert answer.header("access-control-allow-origin") is None
        untouched(world)
        assert not control.requests
        for fields in FROM_HERE:
            # The form is no form that names a model: then nothing is reached either, but that is not why.
            assert (await world.ask(with_fields(request_bytes, fields), method)).status in (200, 404), fields
    await control.stop()


@pytest.mark.fault(63)
async def test_a_link_may_be_followed_to_what_only_shows_itself() -> None:
    control = FakeBackend()
    await control.start()
    link = [b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: document"]
    async with rig(control=control.address) as world:
        for path in (b"/ui", b"/ready", b"/v1/models"):
            assert (await world.ask(with_fields(get(path), link))).status == 200
        for path in (b"/upstream/m/", b"/x?model=m", b"/admin/v1/state"):
            assert code(await world.ask(with_fields(get(path), link))) == (403, "origin_not_allowed")
        assert code(await world.ask(with_fields(chat(path=b"/ui", body=b"{}"), link))) == (403, "origin_not_allowed")
        untouched(world)
    await control.stop()


@pytest.mark.fault(63)
async def test_a_key_shows_that_it_was_meant(keyed: Rig) -> None:
    """No page can make a browser add one without a preflight; browser extensions and desktop programs can."""
    answer = await keyed.ask(chat(b'{"model": "m"}', EVIL, b"x-api-key: " + ALICE))
    assert answer.status == 200
    assert answer.header("access-control-allow-origin") is None


# --- CORS -------------------------------------------------------------------------------------------------------------


def options(path: bytes, origin: bytes = CHAT.encode()) -> bytes:
    return get(
        path,
        b"Origin: " + origin,
        b"Access-Control-Request-Method: POST",
        b"Access-Control-Request-Headers: authorization,content-type",
        b"Sec-Fetch-Site: cross-site",
        method=b"OPTIONS",
    )


@pytest.mark.fault(66)
@pytest.mark.parametrize("access", [Access(), Access(keys=KEYS)], ids=["open", "keyed"])
async def test_preflights_are_refused_unless_configured(access: Access) -> None:
    async with rig(access=access) as world:
        for path in (b"/v1/chat/completions", b"/upstream/m/v1/chat/completions", b"/admin/v1/switch", b"/v1/models"):
            answer = await world.ask(options(path))
            assert code(answer) == (403, "origin_not_allowed")
            assert not [name for name, _ in answer.headers if name.startswith("access-control-")]
        untouched(world)


@pytest.mark.fault(66)
@pytest.mark.parametrize("keys", [Keyring(), KEYS], ids=["open", "keyed"])
async def test_preflights_of_listed_origins(keys: Keyring) -> None:
    async with rig(access=Access(keys=keys, origins=Origins([CHAT]))) as world:
        client = await world.client()
        await client.send(options(b"/v1/chat/completions"))
        answer = await client.receive("OPTIONS")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.header("access-control-allow-origin") == CHAT
        assert answer.header("access-control-allow-methods") == "POST"
        assert answer.header("access-control-allow-headers") == "authorization,content-type"
        # The connection goes on, and the request that was announced follows on it.
        fields = [b"Origin: " + CHAT.encode(), b"Sec-Fetch-Site: cross-site", b"Authorization: Bearer " + ALICE]
        await client.send(chat(b'{"model": "m"}', *fields))
        answer = await client.receive()
        assert answer.status == 200
        assert answer.header("access-control-allow-origin") == CHAT
        assert answer.header("vary") == "Origin"
        for path, origin in ((b"/v1/x", b"https://evil.example"), (b"/admin/v1/switch", CHAT.encode())):
            assert code(await world.ask(options(path, origin))) == (403, "origin_not_allowed")
        assert len(world.backend.requests) == 1
        assert all(model is not None for model, _ in world.observer.done if _ == 200)


@pytest.mark.fault(66)
async def test_a_page_may_read_errors_too() -> None:
    async with rig(access=Access(origins=Origins([CHAT]))) as world:
        answer = await world.ask(chat(b'{"model": "x"}', b"Origin: " + CHAT.encode()))
        assert code(answer) == (404, "model_not_found")
        assert answer.header("access-control-allow-origin") == CHAT


@pytest.mark.fault(63, 66)
async def test_the_admin_api_is_open_to_no_other_page() -> None:
    control = FakeBackend()
    await control.start()
    async with rig(control=control.address, access=Access(origins=Origins(["*"]))) as world:
        answer = await world.ask(chat(b"{}", EVIL, path=b"/admin/v1/switch"))
        assert code(answer) == (403, "origin_not_allowed")
        assert answer.header("access-control-allow-origin") is None
        assert not control.requests
    await control.stop()


@pytest.mark.fault(66)
async def test_a_backends_wildcard_does_not_open_llmux() -> None:
    """vLLM says `access-control-allow-origin: *` to everybody unless it is told not to."""
    wild = (
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\naccess-control-allow-credentials: true\r\nX-Mine: 1\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    async with rig(access=Access(keys=KEYS)) as world:
        world.backend.play(wild)
        key = b"x-api-key: " + ALICE
        answer = await world.ask(chat(b'{"model": "m"}', EVIL, key))
        assert answer.header("access-control-allow-origin") is None
        assert answer.header("access-control-allow-credentials") is None
        assert answer.header("x-mine") == "1"
        # To programs, what a backend answers is relayed as it is.
        answer = await world.ask(chat(b'{"model": "m"}', key))
        assert answer.header("access-control-allow-origin") == "*"
        world.gateway.access = Access(keys=KEYS, origins=Origins([CHAT]))
        answer = await world.ask(chat(b'{"model": "m"}', b"Origin: " + CHAT.encode(), key))
        assert answer.header("access-control-allow-origin") == CHAT


@pytest.mark.fault(69)
async def test_refusals_are_logged_without_what_was_shown(keyed: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="llmux")
    await keyed.ask(chat(b'{"model": "m"}', b"Authorization: Bearer sk-wrong-canary"))
    await keyed.ask(chat(b'{"model": "m", "x": "body-canary"}', b"Authorization: Bearer " + BOB))
    await asyncio.sleep(0)
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "access_refused" in logged
    assert "'bob'" in logged
    for secret in ("sk-wrong-canary", BOB.decode(), "body-canary"):
        assert secret not in logged


@pytest.mark.fault(69)
async def test_a_failed_relay_is_logged_without_what_was_to_be_relayed(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens there: the whole request is still at hand when that is logged."""
    caplog.set_level("DEBUG")
    request = chat(b'{"model": "m", "x": "body-canary"}', b"Authorization: Bearer key-canary", b"X-Other: field-canary")
    with nobodys_port() as port:
        async with rig(address=BackendAddress.local(port)) as world:
            answer = await world.ask(request)
            assert answer.status == 502
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "relay_failed" in logged
    assert "canary" not in logged
    assert b"canary" not in answer.body
