"""The `model` field of a form: which one counts, what is refused, and that Starlette agrees."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from llmux.errors import BadRequestError
from llmux.wire import multipart
from llmux.wire.multipart import model_in_form, with_model_in_form

KIND = b'multipart/form-data; boundary="frontier"'


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    return f'--frontier\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--frontier--\r\n"


AUDIO = part("file", b"RIFF\x00\xff" * 1000, "speech.wav")


def test_the_model_of_a_transcription() -> None:
    assert model_in_form(KIND, form(AUDIO, part("model", b"whisper-1"), part("language", b"en"))) == "whisper-1"


def test_a_bytearray_is_read_as_well() -> None:
    assert model_in_form(KIND, bytearray(form(part("model", b"whisper-1"), AUDIO))) == "whisper-1"


def test_of_two_models_the_last_one_counts() -> None:
    assert model_in_form(KIND, form(part("model", b"a"), AUDIO, part("model", b"b"))) == "b"


def test_a_file_that_quotes_a_form_does_not_name_a_model() -> None:
    inner = part("model", b"evil").replace(b"--frontier", b"--other")
    assert model_in_form(KIND, form(part("file", inner, "x.txt"))) is None


def test_a_name_may_be_utf_8_and_is_not_trimmed() -> None:
    assert model_in_form(KIND, form(part("model", " modèle ".encode()))) == " modèle "


def test_a_form_without_model() -> None:
    assert model_in_form(KIND, form(AUDIO)) is None
    assert model_in_form(KIND, b"") is None
    assert model_in_form(KIND, b"--frontier--") is None


def test_a_part_that_never_ends_is_no_field() -> None:
    assert model_in_form(KIND, part("model", b"a") + part("model", b"b").removesuffix(b"\r\n")) == "a"


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (b"multipart/form-data", b"", "without a boundary"),
        (b"multipart/form-data; boundary=" + b"b" * 71, b"", "boundary longer than 70 bytes"),
        (KIND + b"; charset=utf-16", b"", "charset other than UTF-8"),
        (KIND + b"; charset=\x00", b"", "charset other than UTF-8"),
        (KIND, b"--frontiers\r\n\r\n", "Did not find CR"),
        (KIND, b"nothing", "Expected boundary character"),
        (KIND, form(*[part("x", b"")] * 300), "more than 128 parts"),
        (KIND, b"--frontier\r\nX: " + b"y" * 5000 + b"\r\n\r\n", "Maximum header size exceeded"),
        (KIND, b"--frontier\r\n" + b"X: y\r\n" * 20 + b"\r\n", "Maximum header count exceeded"),
        (KIND, form(part("a", b""), b"--frontier" + b" " * 100 + b"\r\n"), "padding after a boundary"),
        (KIND, form(part("model", b"")), "'model' is empty"),
        (KIND, form(part("model", b"\xff")), "'model' is not UTF-8"),
        (KIND, form(part("model", b"m" * 5000)), "longer than 4096 bytes"),
        (KIND, form(part("model", b"m", "m.txt")), "must be text, not a file"),
    ],
)
def test_what_cannot_be_read_is_a_bad_request(kind: bytes, body: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        model_in_form(kind, body)


@pytest.mark.fault(23)
def test_near_boundaries_are_counted_before_the_parser_walks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 23. Each of them would cost a step in Python; with these, 16 MB of them took 10 s."""
    monkeypatch.delattr(multipart, "MultipartParser")  # the body must be refused without it
    with pytest.raises(BadRequestError, match="more than 128 parts"):
        model_in_form(b"multipart/form-data; boundary=b", form(part("file", b"\r\n--bX" * 3_000_000, "f")))


def test_rewriting_touches_the_content_of_text_fields_only() -> None:
    body = form(part("model", b"old"), AUDIO, part("model", b""), part("model", b"old", "model.txt"))
    assert with_model_in_form(KIND, body, "org/nëw") == form(
        part("model", "org/nëw".encode()), AUDIO, part("model", "org/nëw".encode()), part("model", b"old", "model.txt")
    )


def test_rewriting_a_form_without_model_changes_nothing() -> None:
    assert with_model_in_form(KIND, form(AUDIO), "new") == form(AUDIO)


def starlette_reads(kind: bytes, body: bytes) -> str | UploadFile | None:
    async def parse() -> str | UploadFile | None:
        async def chunks() -> AsyncGenerator[bytes, None]:
            yield body

        parser = MultiPartParser(Headers(raw=[(b"content-type", kind)]), chunks())
        try:
            return (await parser.parse()).get("model")
        finally:
            for file in parser._files_to_close_on_error:  # it leaves those of unfinished parts open
                file.close()

    return anyio.run(parse)


PIECES = st.sampled_from(
    [
        b"--frontier",
        b"\r\n",
        b"--",
        b"Content-Disposition: form-data; ",
        b'name="model"',
        b"name=model",
        b'; filename="f"',
        b"; name=other",
        b"m",
        b":",
        b" ",
        b"\r",
        b"\n",
        b"-",
        part("model", b"a"),
        part("model", b"b"),
        part("file", b"\r\n--frontie", "f"),
    ]
)


@given(st.lists(PIECES).map(b"".join))
def test_starlette_reads_the_same_model(body: bytes) -> None:
    try:
        ours = model_in_form(KIND, body)
    except BadRequestError:
        return
    try:
        theirs = starlette_reads(KIND, body)
    except MultiPartException:
        return
    assert ours == theirs


def test_the_comparison_compares_something() -> None:
    assert starlette_reads(KIND, form(part("model", b"a"), AUDIO, part("model", b"b"))) == "b"


@given(st.binary(), st.binary())
def test_any_bytes_give_a_name_none_or_a_bad_request(kind: bytes, body: bytes) -> None:
    for content_type in (kind, KIND, b"multipart/form-data; boundary=" + kind):
        try:
            model = model_in_form(content_type, body)
        except BadRequestError:
            continue
        assert model is None or model


@given(st.lists(st.tuples(st.sampled_from(["model", "file", "n"]), st.binary()), max_size=5))
def test_a_rewritten_form_reads_back(fields: list[tuple[str, bytes]]) -> None:
    body = form(*(part(name, content) for name, content in fields))
    new = with_model_in_form(KIND, body, "new")
    if any(name == "model" for name, _ in fields):
        assert model_in_form(KIND, new) == "new"
    else:
        assert new == body
