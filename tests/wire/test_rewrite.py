"""Bodies and queries rewritten."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.errors import BadRequestError
from llmux.wire.rewrite import Params, with_model_in_query, with_params

JSON = b"application/json"
NAMES = st.sampled_from(["a", "b", "temperature", "é", 'x"y'])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=5)


@given(OBJECTS, st.sets(NAMES), st.dictionaries(NAMES, VALUES, max_size=3), st.booleans())
def test_it_is_what_python_would_do(body: dict[str, Any], strip: set[str], put: dict[str, Any], ascii: bool) -> None:
    sent = json.dumps(body, ensure_ascii=ascii, indent=1).encode()
    got = json.loads(with_params(JSON, sent, Params.of(strip=strip, put=put)))
    assert got == {name: value for name, value in body.items() if name not in strip} | put


@pytest.mark.parametrize("body", [b"{", b'{"a": \xff}', '{"a": 1}'.encode("utf-16"), b'{"a": 1} x', b'{"model": 1}'])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        with_params(JSON, body, Params.of(put={"a": 1}))


def test_what_nobody_calls_json_is_left_alone() -> None:
    assert with_params(b"text/plain", b"a {", Params.of(put={"a": 1})) == b"a {"
    assert with_params(b"multipart/form-data; boundary=x", b"{}", Params.of(put={"a": 1})) == b"{}"
    assert with_params(b"application/x-www-form-urlencoded", b"{}", Params.of(put={"a": 1})) == b'{"a":1}'


def test_params_are_something_or_nothing() -> None:
    assert not Params.of()
    assert Params.of(strip=["a"])
    assert Params.of(put={"a": None}) == Params.of(put={"a": None}) != Params.of(put={"a": 1})


@pytest.mark.parametrize(
    ("query", "rewritten"),
    [
        (b"model=a", b"model=x%2Fy%20z"),
        (b"a=1&mod%65l=a&model=b&c", b"a=1&model=x%2Fy%20z&model=x%2Fy%20z&c"),
        (b"models=a&a=model", b"models=a&a=model"),
    ],
)
def test_the_model_in_a_query(query: bytes, rewritten: bytes) -> None:
    assert with_model_in_query(query, "x/y z") == rewritten
