"""What a request says to its backend, where that is not what its client has said."""

from __future__ import annotations

import json

import pytest

from llmux.gateway import Backend, GatewaySettings
from llmux.wire.rewrite import Params
from tests.gateway.peers import FakeBackend, chat, get, rig

pytestmark = pytest.mark.anyio

FORM = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)


def form(model: bytes) -> bytes:
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n--b--\r\n' % model
    return FORM % (len(body), body)


@pytest.mark.parametrize(
    ("send_model_as", "keep_aliases", "asked", "sent"),
    [
        (None, False, b"m", b"m"),
        (None, False, b"alias", b"m"),
        ("org/real", False, b"m", b"org/real"),
        ("org/real", False, b"alias", b"org/real"),
        (None, True, b"alias", b"alias"),
        ("org/real", True, b"alias", b"alias"),
        ("org/real", True, b"m", b"org/real"),
    ],
)
async def test_a_backend_hears_the_name_that_it_knows(
    send_model_as: str | None, keep_aliases: bool, asked: bytes, sent: bytes
) -> None:
    async with rig(send_model_as=send_model_as, keep_aliases=keep_aliases) as gateway:
        assert (await gateway.ask(chat(b'{"n": 1,  "model": "%b"}' % asked))).status == 200
        assert gateway.backend.requests[-1].body == b'{"n": 1,  "model": "%b"}' % sent
        assert (await gateway.ask(form(asked))).status == 200
        assert b"\r\n\r\n%b\r\n--b--" % sent in gateway.backend.requests[-1].body
        assert (await gateway.ask(get(b"/v1/x?a=%20b&model=" + asked + b"&c"), "GET")).status == 200
        in_query = sent.decode().replace("/", "%2F")
        assert gateway.backend.requests[-1].target == f"/v1/x?a=%20b&model={in_query}&c"


async def test_under_upstream_the_body_keeps_its_name() -> None:
    async with rig(send_model_as="org/real") as gateway:
        for name in (b"m", b"alias"):
            assert (await gateway.ask(chat(b'{"model": "alias"}', path=b"/upstream/" + name + b"/x"))).status == 200
            assert gateway.backend.requests[-1].body == b'{"model": "alias"}'


async def test_tags_of_ollama() -> None:
    async with rig() as gateway:
        gateway.scheduler.names |= {"tagged:latest": "m", "m:7b": "other"}
        for asked in (b"m:latest", b"tagged", b"tagged:latest"):
            assert (await gateway.ask(chat(b'{"model": "%b"}' % asked, path=b"/api/chat"))).status == 200
            assert gateway.backend.requests[-1].body == b'{"model": "m"}'
        for asked in (b"m:8b", b"tagged:7b", b"m:latest:latest", b":latest"):
            assert (await gateway.ask(chat(b'{"model": "%b"}' % asked))).status == 404


async def test_names_with_slashes_under_upstream() -> None:
    other = FakeBackend()
    await other.start()
    async with rig(others={"other": Backend("other", other.address)}) as gateway:
        gateway.scheduler.names |= {"m/large": "other", "m/large/one": "m", "a/b/c": "m", "a b/c": "m"}
        for path, backend, target in (
            (b"/upstream/m/x?q=1", gateway.backend, "/x?q=1"),
            (b"/upstream/m/large/x?q=1", other, "/x?q=1"),
            (b"/upstream/m/large/", other, "/"),
            (b"/upstream/m%2Flarge/x", other, "/x"),
            (b"/upstream/m/large/one/y", gateway.backend, "/y"),
            (b"/upstream/m/largest/x", gateway.backend, "/largest/x"),
            (b"/upstream/a/b/c/d/e/f/g/h/i/j/k", gateway.backend, "/d/e/f/g/h/i/j/k"),
            (b"/upstream/a%20b/c//d%2Fe", gateway.backend, "//d%2Fe"),
        ):
            assert (await gateway.ask(get(path), "GET")).status == 200, path
            assert backend.requests[-1].target == target
        assert (await gateway.ask(chat(b"{}", path=b"/upstream/m/large"))).status == 200
        assert other.requests[-1].target == "/"
        asked = len(other.requests)  # a page without its slash is for the control plane, which this gateway lacks
        assert (await gateway.ask(get(b"/upstream/m/large"), "GET")).status == 404
        assert len(other.requests) == asked
        for path in (b"/upstream/a/b/x", b"/upstream/a%ff/b/x", b"/upstream//m/x", b"/upstream/" + b"a/" * 9000):
            assert (await gateway.ask(get(path), "GET")).status in (400, 404), path
    await other.stop()


async def test_a_request_that_names_no_model_is_for_the_default_one() -> None:
    async with rig(settings=GatewaySettings(default_model="alias")) as gateway:
        assert (await gateway.ask(chat(b'{"n": [1.50]}'))).status == 200
        assert gateway.backend.requests[-1].body == b'{"n":[1.50],"model":"m"}'
        assert (await gateway.ask(chat(b"[1]"))).status == 200
        assert gateway.backend.requests[-1].body == b"[1]"
        assert (await gateway.ask(chat(b'{"model": "other?"}'))).status == 404, "it names one that there is not"
        assert (await gateway.ask(chat(b"{"))).status == 400
        assert (await gateway.ask(chat(b"\x1f", b"Content-Encoding: gzip"))).status == 415, "it may well name one"
        assert (await gateway.ask(get(b"/favicon.ico"), "GET")).status == 404, "that is nobody's wish"
        asked = len(gateway.backend.requests)
        assert (await gateway.ask(get(b"/"), "GET")).status == 404, "it is for the control plane, which is not here"
        assert len(gateway.backend.requests) == asked
        assert (await gateway.ask(chat(b"{}", path=b"/"))).status == 200
    async with rig(settings=GatewaySettings(default_model="m"), send_model_as="org/real") as gateway:
        assert (await gateway.ask(chat(b"{}"))).status == 200
        assert json.loads(gateway.backend.requests[-1].body) == {"model": "org/real"}


async def test_params_are_taken_out_and_put_in() -> None:
    params = Params.of(strip=["logit_bias", "top_k"], put={"temperature": 0.5, "top_k": 20, "x": {"é": None}})
    async with rig(params=params) as gateway:
        body = b'{"top_k": 1, "model": "m", "temperature": 2, "big": 1.000000000000000000001, "logit_bias": {}}'
        for path in (b"/v1/chat/completions", b"/v1/x?model=m", b"/upstream/m/x"):
            assert (await gateway.ask(chat(body, path=path))).status == 200
            request = gateway.backend.requests[-1]
            assert request.header("content-length") == str(len(request.body))
            assert b'"big":1.000000000000000000001' in request.body, "what is kept is not written anew"
            assert json.loads(request.body) == {
                "model": "m", "temperature": 0.5, "big": 1.0, "top_k": 20, "x": {"é": None}
            }  # fmt: skip
        assert (await gateway.ask(chat(b'{"model": "alias"}'))).status == 200
        assert json.loads(gateway.backend.requests[-1].body)["model"] == "m"
        assert (await gateway.ask(form(b"m"))).status == 200, "forms are left as they are"
        for plain in (b"[1]", b"", b'"text"'):
            assert (await gateway.ask(chat(plain, path=b"/upstream/m/x"))).status == 200
            assert gateway.backend.requests[-1].body == plain
        count = len(gateway.backend.requests)
        assert (await gateway.ask(chat(b"{", path=b"/upstream/m/x"))).status == 400
        answer = await gateway.ask(chat(b"\x1f", b"Content-Encoding: gzip", path=b"/upstream/m/x"))
        assert answer.status == 415, "nobody gets around them"
        assert "strip_params" in json.loads(answer.body)["error"]["message"]
        assert len(gateway.backend.requests) == count


async def test_no_second_member_of_a_name_gets_around_params() -> None:
    async with rig(params=Params.of(strip=["a"], put={"b": 1})) as gateway:
        assert (await gateway.ask(chat(b'{"a": 1, "b": 2, "model": "m", "\\u0061": 3, "\\u0062": 4}'))).status == 200
        assert json.loads(gateway.backend.requests[-1].body) == {"model": "m", "b": 1}


async def test_other_params_count_for_the_next_request() -> None:
    async with rig(params=Params.of(strip=["a"])) as gateway:
        address = gateway.backend.address
        changed = Backend("m", address, "later", params=Params.of(put={"b": 1}), keep_aliases=True)
        gateway.gateway.reconfigure({"m": changed}, GatewaySettings())
        assert (await gateway.ask(chat(b'{"a": 1, "model": "alias"}'))).status == 200
        assert json.loads(gateway.backend.requests[-1].body) == {"a": 1, "model": "alias", "b": 1}
        assert (await gateway.ask(chat())).status == 200
        assert json.loads(gateway.backend.requests[-1].body)["model"] == "m", "what it is called counts from its wake"
        gateway.gateway.waking("m")
        assert (await gateway.ask(chat())).status == 200
        assert json.loads(gateway.backend.requests[-1].body)["model"] == "later"
