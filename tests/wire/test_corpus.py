"""The corpus fed to the readers by themselves: what becomes of a message does not depend on how it arrives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmux.errors import LlmuxError
from llmux.wire.request import RequestReader
from tests.wire.corpus import requests
from tests.wire.corpus.cases import Case

REQUESTS = [
    pytest.param(case, id=case.name, marks=pytest.mark.fault(*case.rows, *([4] if case.status else [])))
    for case in requests.CASES
]
SECOND = b"POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
Outcome = tuple[list[tuple[str, str, bytes]], int, bool]


def read(pieces: Iterator[bytes] | list[bytes]) -> Outcome:
    """The requests in `pieces`, the status of the error that ended them or 0, and whether one was left unfinished."""
    reader = RequestReader(max_head_bytes=65_536, max_body_bytes=1 << 20)
    got = []
    try:
        for piece in pieces:
            while piece:
                piece = reader.feed(piece)  # noqa: PLW2901  (it goes round until nothing is left of it)
                if reader.complete:
                    request = reader.request
                    got.append((request.method.decode(), (request.path + request.query).decode(), bytes(request.body)))
                    if not request.keep_alive:
                        return got, 0, False
                    reader.reset()
    except LlmuxError as error:
        return got, error.status, False
    return got, 0, reader.started


@pytest.mark.parametrize("case", REQUESTS)
def test_requests_are_judged_the_same_whole_and_cut(case: Case) -> None:
    wire = case.wire + SECOND
    expected = [(m.method, m.target, m.body) for m in case.messages]
    if not (case.status or case.closes or case.unfinished):
        expected.append(("POST", "/second", b"{}"))
    step = 1 if len(wire) < 2000 else 997
    # Whole twice: the second time, its heads are known.
    for pieces in ([wire], [wire], [wire[:-1], wire[-1:]], [wire[at : at + step] for at in range(0, len(wire), step)]):
        got, status, unfinished = read(pieces)
        got = [(method, target.partition("/upstream/m")[2] or target, body) for method, target, body in got]
        assert (got, status, unfinished) == (expected, case.status, case.unfinished), case.why


def test_the_corpus_is_as_large_as_it_says() -> None:
    names = [case.name for case in requests.CASES]
    assert len(set(names)) == len(names) >= 150
    for case in requests.CASES:
        assert case.rows
        assert bool(case.status) + bool(case.messages) + case.unfinished == 1, case.name
