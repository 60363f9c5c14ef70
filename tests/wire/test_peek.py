"""Finding the model in bodies and targets (FAULTS 16 to 21), and writing it back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmux.errors import BadRequestError
from llmux.wire.peek import model_and_tier, model_in_body, model_in_target, with_model

JSON = b"application/json"
FORM = b"multipart/form-data; boundary=b"
FORM_BODY = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--b--\r\n'


@pytest.mark.fault(9, 17, 18, 21)
@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model": "llama", "messages": []}', "llama"),
        (b' \r\n\t{ "model" : "llama" } \n', "llama"),
        (b'{"model": "a", "model": "b"}', "b"),
        (b'{"model": 1, "model": "b"}', "b"),
        (b'{"mod\\u0065l": "b"}', "b"),
        (b'{"model": "\\u006c\\n\\ud83e\\udd99"}', "l\n🦙"),
        ('{"model": "modèle"}'.encode(), "modèle"),
        (b'{"model": "$(touch x)\\";\'"}', "$(touch x)\";'"),
        (b'{"nested": {"model": "evil"}, "s": "\\"model\\": \\"evil\\""}', None),
        (b'{"nested": [{"model": "evil"}], "model": "good", "api_base": "http://evil"}', "good"),
        (b'{"Model": "a"}', None),
        (b"{}", None),
        (b"", None),
        (b"[]", None),
        (b'"model"', None),
        (b"null", None),
        (b'{"model": "a", "n": 1e999}', "a"),
        (b'{"model": "a", "n": 1' + b"0" * 5000 + b"}", "a"),
        (b'{"model": "a", "n": ' + b"[" * 100 + b"]" * 100 + b"}", "a"),
    ],
)
def test_the_model_in_a_json_body(body: bytes, model: str | None) -> None:
    assert model_in_body(JSON, body) == model
    assert model_in_body(JSON, bytearray(body)) == model


@pytest.mark.parametrize(
    ("said", "tier"),
    [
        ('"flex"', "flex"),
        ("7", None),
        ("null", None),
        ('["flex"]', None),
        (r'"\u0066lex"', "flex"),
    ],
)
def test_the_service_tier_is_a_string_or_none_of_it(said: str, tier: str | None) -> None:
    body = f'{{"service_tier": "x", "model": "a", "service_tier": {said}, "y": {{"service_tier": "z"}}}}'
    assert model_and_tier(JSON, body.encode()) == ("a", tier)
    assert model_and_tier(JSON, body.replace("model", "madel").encode()) == (None, tier)


@pytest.mark.fault(18, 21)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"model": 1}', "'model' must be a string"),
        (b'{"model": null}', "'model' must be a string"),
        (b'{"model": ["a"]}', "'model' must be a string"),
        (b'{"model": {"model": "a"}}', "'model' must be a string"),
        (b'{"model": 1' + b"0" * 5000 + b"}", "'model' must be a string"),
        (b'{"model": "b", "model": true}', "'model' must be a string"),
        (b'{"model": ""}', "'model' must not be empty"),
    ],
)
def test_a_model_that_is_no_name_is_named_as_the_culprit(body: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message) as caught:
        model_in_body(JSON, body)
    assert caught.value.param == "model"


@pytest.mark.fault(16, 19, 20)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid JSON"),
        (b'{"model": "a"', "not valid JSON"),
        (b'{"model": "a"} x', "not valid JSON"),
        (b"{'model': 'a'}", "not valid JSON"),
        (b'{"model": "a", "t": NaN}', "not valid JSON"),
        (b'{"model": "a", "t": -Infinity}', "not valid JSON"),
        (b'{"model": "a\nb"}', "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b'{"model": "a", "x": "\\ud800"}', "not valid JSON"),
        (b'\xef\xbb\xbf{"model": "a"}', "not valid JSON"),
        ('{"model": "a"}'.encode("utf-16"), "not valid JSON"),
        ('{"model": "a"}'.encode("utf-16-le"), "not valid JSON"),
        (b'{"model": "\xff"}', "not UTF-8"),
        (b'{"model": "a", "x": "\xff"}', "not UTF-8"),
        (b'{"model": "a", "x\xc3": 1}', "not UTF-8"),
        (b'{"model": "a", "x": "' + b"x" * 65_515 + "é".encode() + b'\xed\xa0\x80"}', "not UTF-8"),
        (b'{"model": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_not_json_is_a_bad_request(body: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        model_in_body(JSON, body)


@pytest.mark.fault(20)
def test_a_character_across_two_chunks_of_the_utf_8_check() -> None:
    for padding in range(65_530, 65_540):
        assert model_in_body(JSON, b'{"x":"' + b"x" * padding + '🦙","model":"a"}'.encode()) == "a"


@pytest.mark.fault(19)
@pytest.mark.parametrize("depth", [10, 100, 300, 900, 1000, 1100, 3000, 10_000, 1_000_000])
def test_nesting_of_any_depth_is_read_or_refused(depth: int) -> None:
    body = b'{"model":"a","x":' + b'{"x":' * depth + b"1" + b"}" * depth + b"}"
    try:
        read: tuple[str | bytes | None, ...] = model_in_body(JSON, body), with_model(JSON, body, "b")
    except BadRequestError as error:
        read = (error.message,)
    assert read in [("a", body.replace(b'"a"', b'"b"')), ("the request's body is nested too deeply",)]
    assert depth > 100 or len(read) == 2


@pytest.mark.parametrize(
    "kind",
    [
        b"application/json; charset=utf-8",
        b"Application/JSON",
        b"application/vnd.x+json",
        None,
        b"",
        b"text/plain",
        b"application/x-www-form-urlencoded",
    ],
)
def test_json_is_read_whatever_the_content_type_says(kind: bytes | None) -> None:
    assert model_in_body(kind, b' {"model": "llama"}') == "llama"


@pytest.mark.parametrize("kind", [None, b"text/plain", b"application/octet-stream", b"\xff"])
def test_other_bodies_name_no_model(kind: bytes | None) -> None:
    assert model_in_body(kind, b'model=llama&x={"model": "a"}') is None
    assert model_in_body(kind, b"\x00\xff") is None


def test_the_model_in_a_form() -> None:
    assert model_in_body(FORM, FORM_BODY) == "whisper"
    assert model_in_body(b"Multipart/Form-Data; boundary=b", FORM_BODY) == "whisper"


@pytest.mark.parametrize(
    ("path", "query", "model", "rest"),
    [
        (b"/v1/chat/completions", b"", None, b"/v1/chat/completions"),
        (b"/upstream/llama/v1/chat/completions", b"", "llama", b"/v1/chat/completions"),
        (b"/upstream/llama", b"model=other", "llama", b"/"),
        (b"/upstream/llama/", b"", "llama", b"/"),
        (b"/upstream/llama//x", b"", "llama", b"//x"),
        (b"/upstream/org%2Fname/v1", b"", "org/name", b"/v1"),
        (b"/upstream/a+b%20c%c3%A9/x%zz", b"", "a+b cé", b"/x%zz"),
        (b"/upstream", b"", None, b"/upstream"),
        (b"/upstreams/llama/x", b"", None, b"/upstreams/llama/x"),
        (b"/props", b"model=llama", "llama", b"/props"),
        (b"/props", b"x=%zz&model=a%2Fb+c&y", "a/b c", b"/props"),
        (b"/props", b"model=a&model=b", "b", b"/props"),
        (b"/props", b"mod%65l=a", "a", b"/props"),
        (b"/props", b"models=a&xmodel=b", None, b"/props"),
    ],
)
def test_the_model_in_a_target(path: bytes, query: bytes, model: str | None, rest: bytes) -> None:
    assert model_in_target(path, query) == (model, rest)


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        (b"/upstream/", b"", "path is empty"),
        (b"/upstream//v1", b"", "path is empty"),
        (b"/upstream/a%2/v1", b"", "path is badly percent-encoded"),
        (b"/upstream/a%zz", b"", "path is badly percent-encoded"),
        (b"/upstream/%ff/v1", b"", "path is not UTF-8"),
        (b"/upstream/\xff/v1", b"", "path is not UTF-8"),
        (b"/v1", b"model=", "query is empty"),
        (b"/v1", b"model", "query is empty"),
        (b"/v1", b"model=%", "query is badly percent-encoded"),
        (b"/v1", b"model=%ed%a0%80", "query is not UTF-8"),
    ],
)
def test_a_target_whose_model_cannot_be_read(path: bytes, query: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message) as caught:
        model_in_target(path, query)
    assert caught.value.param == "model"


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"old"}', b'{"model":"new"}'),
        (
            b' {"n": 1.50, "model" : "old" ,"x":{"model":"old"}, "model":"old"}\n',
            b' {"n": 1.50, "model" : "new" ,"x":{"model":"new"}, "model":"new"}\n'.replace(
                b'{"model":"new"},', b'{"model":"old"},'
            ),
        ),
        (b'{"mod\\u0065l":"old","s":"\\u00e9\\/"}', b'{"mod\\u0065l":"new","s":"\\u00e9\\/"}'),
        ('{"é":"🦙","model":"old"}'.encode(), '{"é":"🦙","model":"new"}'.encode()),
        (b'{"model":1e5,"model":"old"}', b'{"model":"new","model":"new"}'),
        (b"{}", b"{}"),
        (b"[]", b"[]"),
        (b"", b""),
    ],
)
def test_rewriting_changes_the_top_level_model_only(body: bytes, expected: bytes) -> None:
    assert with_model(JSON, body, "new") == expected


def test_rewriting_a_form() -> None:
    assert with_model(FORM, FORM_BODY, "new") == FORM_BODY.replace(b"whisper", b"new")


@pytest.mark.fault(22)
def test_a_new_name_is_quoted_as_json() -> None:
    assert json.loads(with_model(JSON, b'{"model":"a"}', 'q"\\ü')) == {"model": 'q"\\ü'}


# --- against json ---------------------------------------------------------------------------------------------

NAMES = st.one_of(st.just("model"), st.text(max_size=5))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.lists(st.tuples(NAMES, st.text(max_size=5) | VALUES), max_size=6)
SPACES = st.sampled_from(["", " ", "\n", "\t\r "])


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """A JSON object with duplicate keys, odd white space, and either spelling of what is not ASCII."""
    members = []
    for name, value in draw(MEMBERS):
        ascii_only = draw(st.booleans())
        key, text = (json.dumps(x, ensure_ascii=ascii_only) for x in (name, value))
        members.append(f"{draw(SPACES)}{key}{draw(SPACES)}:{draw(SPACES)}{text}{draw(SPACES)}")
    return f"{draw(SPACES)}{{{draw(SPACES) if not members else ''}{','.join(members)}}}{draw(SPACES)}".encode()


@pytest.mark.fault(16, 17)
@given(objects())
def test_json_reads_the_same_model(body: bytes) -> None:
    expected = json.loads(body).get("model", None)
    if "model" in json.loads(body) and not (isinstance(expected, str) and expected):
        with pytest.raises(BadRequestError, match="'model' must"):
            model_in_body(JSON, body)
    else:
        assert model_in_body(JSON, body) == expected


def pairs(body: bytes) -> Any:
    return json.loads(body, object_pairs_hook=lambda members: members)


@pytest.mark.fault(17)
@given(objects())
def test_rewriting_agrees_with_json_and_is_reversible(body: bytes) -> None:
    try:
        old = model_in_body(JSON, body)
    except BadRequestError:
        return
    new = with_model(JSON, body, "new")
    if old is None:
        assert new == body
        return
    assert pairs(new) == [(name, "new" if name == "model" else value) for name, value in pairs(body)]
    # Nothing but the values themselves: with a mark in their place, old and new are the same bytes.
    assert with_model(JSON, new, "mark") == with_model(JSON, body, "mark")


@pytest.mark.fault(16, 20)
@given(st.binary(), st.sampled_from([None, JSON, b"text/plain", FORM, b"multipart/form-data"]))
@example(b'{"model":"\\udc00"}', JSON)
@example(b'{"model":"a","\\ud800":"\\udc00"}', JSON)
@example(b'{"model":"a","x":"\\udc00"}', JSON)
def test_any_bytes_give_a_name_none_or_a_bad_request(body: bytes, kind: bytes | None) -> None:
    for data in (body, b"{" + body, b'{"model":"a","x":' + body + b"}"):
        try:
            model = model_in_body(kind, data)
            with_model(kind, data, "new")
        except BadRequestError:
            continue
        assert model is None or model.encode()


@pytest.mark.fault(20)
@given(st.binary(), st.binary())
def test_any_target_gives_a_name_none_or_a_bad_request(path: bytes, query: bytes) -> None:
    for target in (path, b"/upstream/" + path):
        for search in (query, b"model=" + query):
            try:
                model, rest = model_in_target(target, search)
            except BadRequestError:
                continue
            assert model is None or model
            assert target.endswith(rest) or rest == b"/"
