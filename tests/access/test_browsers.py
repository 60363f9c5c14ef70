"""What browsers tell of the pages that they show, and what they are told (FAULTS rows 63 and 66)."""

from __future__ import annotations

import pytest

from llmux.access import Browser, Origins

HOST = b"localhost:3000"


@pytest.mark.fault(63)
@pytest.mark.parametrize(
    ("lines", "elsewhere"),
    [
        ([], False),
        ([b"Origin: http://localhost:3000"], False),
        ([b"Origin: https://LOCALHOST:3000"], False),  # TLS may end in front of llmux
        ([b"Origin: http://evil.example"], True),
        ([b"Origin: http://localhost:8080"], True),
        ([b"Origin: http://localhost"], True),
        ([b"Origin: null"], True),
        ([b"Origin: "], True),
        ([b"Origin: localhost:3000"], True),
        ([b"Origin: http://localhost:3000", b"Origin: http://evil.example"], True),
        ([b"Origin: http://evil.example", b"Origin: http://localhost:3000"], True),
        ([b"Sec-Fetch-Site: none"], False),
        ([b"Sec-Fetch-Site: same-origin"], False),
        ([b"Sec-Fetch-Site: same-origin", b"Origin: https://llm.example.com"], False),  # a proxy has changed Host
        ([b"Sec-Fetch-Site: same-site"], True),
        ([b"Sec-Fetch-Site: cross-site"], True),
        ([b"Sec-Fetch-Site: cross-site", b"Origin: http://localhost:3000"], True),
        ([b"Sec-Fetch-Site: something-new"], True),
        ([b"Sec-Fetch-Mode: cors"], False),
    ],
)
def test_pages_from_elsewhere(lines: list[bytes], elsewhere: bool) -> None:
    assert Browser(lines).from_elsewhere(HOST) is elsewhere


def test_following_a_link() -> None:
    assert Browser([b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: document"]).followed_link
    assert not Browser([b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: iframe"]).followed_link
    assert not Browser([b"Sec-Fetch-Mode: no-cors", b"Sec-Fetch-Dest: document"]).followed_link
    assert not Browser([]).followed_link


CHAT = b"https://chat.example.com"


@pytest.mark.fault(66)
def test_nothing_is_allowed_unless_listed() -> None:
    for origin in (CHAT, b"null", b"*", b"", None):
        assert Origins().fields(origin) == b""
        assert not Origins().allow(origin)


@pytest.mark.fault(66)
def test_a_listed_origin_is_named_and_no_other() -> None:
    origins = Origins(["https://Chat.example.com/"])
    assert b"Access-Control-Allow-Origin: https://chat.example.com\r\n" in origins.fields(CHAT)
    assert b"Vary: Origin\r\n" in origins.fields(CHAT)
    assert b"Credentials" not in origins.fields(CHAT)
    for origin in (b"http://chat.example.com", CHAT + b".evil.example", CHAT + b":8443", b"null", b"*"):
        assert origins.fields(origin) == b"", origin


def test_any_origin() -> None:
    assert b"Access-Control-Allow-Origin: *\r\n" in Origins(["*"]).fields(b"http://evil.example")


def preflight(origins: Origins, *lines: bytes) -> bytes:
    return origins.preflight(Browser([b"Origin: " + CHAT, *lines]))


@pytest.mark.fault(66)
def test_preflights() -> None:
    origins = Origins([CHAT.decode()])
    fields = preflight(
        origins, b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: authorization, content-type"
    )
    assert b"Access-Control-Allow-Methods: POST\r\n" in fields
    assert b"Access-Control-Allow-Headers: authorization, content-type\r\n" in fields
    assert b"Access-Control-Allow-Origin: https://chat.example.com\r\n" in fields
    assert b"Access-Control-Allow-Headers" not in preflight(origins, b"Access-Control-Request-Method: POST")
    assert preflight(Origins(), b"Access-Control-Request-Method: POST") == b""


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"Access-Control-Request-Method: "],
        [b"Access-Control-Request-Method: P OST"],
        [b"Access-Control-Request-Method: GET, POST"],
        [b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: a b"],
        [b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: a,,b"],
    ],
)
def test_odd_preflights_are_refused(lines: list[bytes]) -> None:
    assert preflight(Origins([CHAT.decode()]), *lines) == b""
