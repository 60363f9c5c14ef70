"""Which routes of the control plane need which key: over its real server, and as a table."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from llmux.access import Access, Key, Keyring, digest_of
from llmux.control import build_control, control_server
from llmux.control.guard import admitted
from llmux.errors import InvalidKeyError, NotLocalError
from llmux.telemetry import Telemetry
from tests.control.test_control import View, client_of
from tests.gateway.peers import chat, get, rig

pytestmark = pytest.mark.anyio

API, SMALL, ADMIN = "sk-api-0123456789", "sk-small-0123456789", "sk-admin-0123456789"
ACCESS = Access(
    keys=Keyring([Key("api", digest_of(API.encode())), Key("small", digest_of(SMALL.encode()), frozenset({"small"}))]),
    admin_keys=Keyring([Key("ops", digest_of(ADMIN.encode()))]),
    metrics_need_key=True,
)


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


@pytest.mark.fault(63, 65)
@pytest.mark.parametrize(
    ("path", "opened_by"),
    [
        ("/health", {None, "wrong", API, SMALL, ADMIN}),
        ("/ready", {None, "wrong", API, SMALL, ADMIN}),
        ("/metrics", {API, SMALL, ADMIN}),
        ("/v1/models", {API, SMALL}),
        ("/models", {API, SMALL}),
        ("/v1/models/small", {API, SMALL}),
        ("/v1/models/%2e%2e/%2e%2e/admin", {API, SMALL}),
        ("/upstream/small", {API, SMALL}),
        ("/admin", {ADMIN}),
        ("/admin/", {ADMIN}),
        ("/admin/v1/models/small/wake", {ADMIN}),
        ("/administrators", {None, "wrong", API, SMALL, ADMIN}),
    ],
)
async def test_who_opens_what(path: str, opened_by: set[str | None]) -> None:
    async with client_of(build_control(View(), Telemetry(["small"]), lambda: ACCESS)) as client:
        for key in (None, "wrong", API, SMALL, ADMIN):
            response = await client.get(path, headers=bearer(key))
            assert (response.status_code != 401) == (key in opened_by), key
            if response.status_code == 401:
                assert response.json()["error"]["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
            if key is not None:
                assert (await client.get(path, headers={"x-api-key": key})).status_code != 500


@pytest.mark.fault(65)
async def test_the_list_has_the_models_that_the_key_opens() -> None:
    async with client_of(build_control(View(), Telemetry(["small"]), lambda: ACCESS)) as client:

        async def listed(key: str) -> list[str]:
            answer = await client.get("/v1/models", headers=bearer(key))
            return [model["id"] for model in answer.json()["data"]]

        assert await listed(API) == ["org/big:q4", "small"]
        assert await listed(SMALL) == ["small"]
        refused = await client.get("/v1/models/org/big:q4", headers=bearer(SMALL))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        assert (await client.get("/v1/models/tiny/one", headers=bearer(SMALL))).status_code == 200
        for model, status in (("small", 307), ("org/big:q4", 403), ("none", 404)):
            assert (await client.get(f"/upstream/{model}", headers=bearer(SMALL))).status_code == status


async def test_keys_are_asked_for_anew_each_time() -> None:
    access = Access()
    async with client_of(build_control(View(), Telemetry(["small"]), lambda: access)) as client:
        assert (await client.get("/v1/models")).status_code == 200
        access = ACCESS
        assert (await client.get("/v1/models")).status_code == 401


def asked(path: str, peer: bytes | None, host: bytes | None, access: Access | None = None) -> None:
    headers = [(b"x-forwarded-for", peer)] if peer is not None else []
    headers += [(b"x-forwarded-host", host)] if host is not None else []
    admitted(access or Access(), path, headers)


@pytest.mark.fault(63)
@pytest.mark.parametrize("peer", [None, b"127.0.0.1", b"127.8.8.8", b"::1", b"::ffff:127.0.0.1", b"127.0.0.1, ::1"])
@pytest.mark.parametrize("host", [None, b"localhost:3000", b"127.0.0.1:3000", b"[::1]:3000", b"x.localhost"])
def test_without_admin_keys_this_machine_may_use_the_admin_api(peer: bytes | None, host: bytes | None) -> None:
    asked("/admin/v1/state", peer, host)


@pytest.mark.fault(63, 64)
@pytest.mark.parametrize(
    ("peer", "host"),
    [
        (b"192.168.1.7", b"localhost"),
        (b"::ffff:192.168.1.7", b"localhost"),
        (b"192.168.1.7, 127.0.0.1", b"localhost"),
        (b"127.0.0.1, 192.168.1.7", b"localhost"),
        (b"unknown", b"localhost"),
        (b"", b"localhost"),
        (b"127.0.0.1", b"gpubox:3000"),
        (b"127.0.0.1", b"192.168.1.7:3000"),
        (b"127.0.0.1", b"evil.example"),
        (b"127.0.0.1", b"localhost.evil.example"),
    ],
)
def test_and_no_other(peer: bytes, host: bytes) -> None:
    for path in ("/admin", "/admin/", "/admin/v1/models/small/wake"):
        with pytest.raises(NotLocalError):
            asked(path, peer, host)
    keys = Access(keys=ACCESS.keys)
    with pytest.raises(NotLocalError):
        asked("/admin", peer, host, keys)
    asked("/health", peer, host)


@pytest.mark.fault(65)
def test_with_admin_keys_not_even_this_machine_needs_none() -> None:
    with pytest.raises(InvalidKeyError):
        asked("/admin", b"127.0.0.1", b"localhost", ACCESS)


SPELLINGS = [
    b"/admin/secret", b"/admin", b"//admin/secret", b"/%61dmin/secret", b"/ADMIN/secret", b"/admin%2fsecret",
    b"/admin//secret", b"/./admin/secret", b"/ui/../admin/secret", b"/ui/%2e%2e/admin/secret", b"/ui/..%2fadmin/secret",
    b"/v1/models/../../admin/secret", b"/v1/models/%2e%2e/%2e%2e/admin/secret", b"/health/../admin/secret",
    b"/admin;x/secret", b"/admin\\secret", b"/upstream/../admin/secret", b"/upstream/m/../../admin/secret",
    b"/admin/secret?model=m", b"/admin/secret/", b"/ui/admin/secret", b"/%2fadmin/secret", b"/admin/%00secret",
    b"/ui/../../../../../../etc/passwd", b"/ui/%2e%2e%2f%2e%2e%2fetc/passwd", b"/ui/....//....//etc/passwd",
]  # fmt: skip


@pytest.mark.fault(63, 70)
async def test_other_spellings_of_a_path_open_nothing() -> None:
    """Through the gateway, as bytes, to a route that is really there."""

    async def secret(request: Request) -> Response:
        return PlainTextResponse("root: a secret")

    app = build_control(View(), Telemetry(["small"]), lambda: ACCESS)
    app.router.routes.append(Route("/admin/secret", secret, methods=["GET", "POST"]))
    async with control_server(lambda: app) as dial, rig(control=dial) as world:
        for path in SPELLINGS:
            for request in (get(path), chat(b'{"model": "m"}', path=path), get(path, b"x-api-key: " + API.encode())):
                if path.startswith(b"/upstream/m/"):
                    continue  # the model's, whatever follows
                answer = await world.ask(request)
                assert b"root:" not in answer.body, path
                assert answer.status in (200, 400, 401, 403, 404, 405), path
                assert answer.status != 200 or answer.body == b"{}", path  # the model that the body names
        answer = await world.ask(get(b"/admin/secret", b"x-api-key: " + ADMIN.encode()))
        assert (answer.status, answer.body) == (200, b"root: a secret")
