"""The models as clients of three APIs see them, over the control plane's real server."""

from __future__ import annotations

import httpx
import pytest

from llmux.access import Access, Key, Keyring, digest_of
from llmux.control import build_control
from llmux.telemetry import Telemetry
from llmux.version import plain
from tests.control.test_control import View, client, client_of, telemetry, view

__all__ = ["client", "telemetry", "view"]

pytestmark = pytest.mark.anyio

SMALL = {
    "state": "awake",
    "aliases": ["gpt-4o-mini", "tiny/one"],
    "metadata": {"context_length": 8192, "capabilities": ["completion", "tools"], "details": {"family": "llama"}},
}
BIG = {"state": "asleep", "aliases": [], "metadata": {}}


async def test_state_aliases_and_metadata_are_told(client: httpx.AsyncClient) -> None:
    big, small = (await client.get("/v1/models")).json()["data"]
    assert big.items() >= BIG.items()
    assert small.items() >= SMALL.items()
    for name in ("small", "gpt-4o-mini", "tiny/one", "tiny%2Fone", "small:latest"):
        assert (await client.get(f"/models/{name}")).json() == small, name
    assert (await client.get("/v1/models/small:7b")).status_code == 404


@pytest.mark.parametrize(
    ("asked", "to"),
    [
        ("/upstream/small", "/upstream/small/"),
        ("/upstream/small:latest?a=b%2Fc", "/upstream/small:latest/?a=b%2Fc"),
        ("/upstream/org/big:q4", "/upstream/org/big:q4/"),
        ("/upstream/org%2Fbig:q4", "/upstream/org%2Fbig:q4/"),
    ],
)
async def test_a_models_page_has_a_slash(client: httpx.AsyncClient, asked: str, to: str) -> None:
    answer = await client.get(asked)
    assert answer.status_code == 307
    assert answer.next_request is not None
    assert answer.next_request.url.raw_path.decode() == to


async def test_anthropics_clients_get_anthropics_shape(client: httpx.AsyncClient) -> None:
    client.headers["anthropic-version"] = "2023-06-01"
    answer = (await client.get("/v1/models")).json()
    assert (answer["has_more"], answer["first_id"], answer["last_id"]) == (False, "org/big:q4", "small")
    big, small = answer["data"]
    assert small.items() >= SMALL.items()
    assert (big["type"], big["id"], big["display_name"]) == ("model", "org/big:q4", "org/big:q4")
    assert big["created_at"].endswith("Z")
    assert (await client.get("/v1/models/gpt-4o-mini")).json() == small


async def test_ollamas_clients_find_the_models(client: httpx.AsyncClient) -> None:
    big, small = (await client.get("/api/tags")).json()["models"]
    assert (big["name"], small["name"], small["model"]) == ("org/big:q4", "small", "small")
    assert small["details"]["family"] == "llama"
    assert [model["name"] for model in (await client.get("/api/ps")).json()["models"]] == ["small"]
    for body in ({"model": "small:latest"}, {"name": "gpt-4o-mini"}):
        shown = (await client.post("/api/show", json=body)).json()
        assert shown["capabilities"] == ["completion", "tools"]
        assert shown["details"]["family"] == "llama"
    assert (await client.post("/api/show", json={"model": "org/big:q4"})).json()["capabilities"] == ["completion"]
    whole = (await client.get("/health")).json()["version"]
    assert (await client.get("/api/version")).json() == {"version": plain(whole)}


@pytest.mark.parametrize(
    ("version", "told"),
    [("3.0.0", "3.0.0"), ("3.0.0.dev0", "3.0.0"), ("3.1.2rc1", "3.1.2"), ("3.0", "0.0.0"), ("unknown", "0.0.0")],
)
def test_semantic_versions(version: str, told: str) -> None:
    assert plain(version) == told


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 400), (b"{}", 400), (b'{"model": 1}', 400), (b'{"model": "x"}', 404)]
)
async def test_what_cannot_be_shown(client: httpx.AsyncClient, body: bytes, status: int) -> None:
    answer = await client.post("/api/show", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "llmux_error"


async def test_a_key_shows_what_it_opens(view: View, telemetry: Telemetry) -> None:
    key = Key("one", digest_of(b"secret"), frozenset({"small"}))
    access = Access(keys=Keyring([key]))
    async with client_of(build_control(view, telemetry, lambda: access)) as client:
        for path in ("/v1/models", "/api/tags", "/api/ps"):
            assert (await client.get(path)).status_code == 401
        assert (await client.post("/api/show", json={"model": "small"})).status_code == 401
        client.headers["authorization"] = "Bearer secret"
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["small"]
        assert [model["name"] for model in (await client.get("/api/tags")).json()["models"]] == ["small"]
        assert (await client.post("/api/show", json={"model": "small"})).status_code == 200
        assert (await client.post("/api/show", json={"model": "org/big:q4"})).status_code == 403
