"""What backends may send in answer to a request. The next request is then answered well.

`whole` is what the client must read, by a strict parser's judgement, with nothing left over. `status` is the honest
error in its place. `cut`: the head may have been passed on before the fault could be seen, and then the response must
end in a way that nobody takes for its end.
"""

from __future__ import annotations

from dataclasses import dataclass

FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


@dataclass(frozen=True)
class Whole:
    status: int = 200
    body: bytes = b"hello"
    fields: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """`ends`: the backend closes after `wire`. `method` is that of the request."""

    name: str
    why: str
    wire: bytes
    ends: bool = False
    method: str = "POST"
    status: int = 0
    whole: Whole | None = None
    cut: bool = False


def bad(name: str, why: str, wire: bytes, *, ends: bool = False, method: str = "POST") -> Case:
    return Case(name, why, wire, ends, method, status=502)


def cut(name: str, why: str, wire: bytes, *, ends: bool = False) -> Case:
    return Case(name, why, wire, ends, cut=True)


def good(
    name: str, why: str, wire: bytes, whole: Whole | None = None, *, ends: bool = False, method: str = "POST"
) -> Case:
    return Case(name, why, wire, ends, method, whole=whole or Whole())


def head(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([start, *lines]) + b"\r\n\r\n"


def ok(start: bytes) -> bytes:
    """Nothing wrong but, perhaps, the status line."""
    return head(b"Content-Length: 5", start=start) + b"hello"


def field(raw: bytes) -> bytes:
    """Nothing wrong but, perhaps, one header line."""
    return head(raw, b"Content-Length: 5") + b"hello"


def length(value: bytes) -> bytes:
    return head(b"Content-Length: " + value) + b"hello"


def coding(raw: bytes) -> bytes:
    return head(raw) + b"5\r\nhello\r\n0\r\n\r\n"


def chunks(body: bytes) -> bytes:
    return head(b"Transfer-Encoding: chunked") + body


STATUS_LINES = [
    bad("garbage", "no status line", b"what?\r\n\r\n"),
    bad("http-0.9", "a body and nothing else", b"<html>hello</html>\r\n\r\n", ends=True),
    bad("tls-alert", "somebody set http for an https port", b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n", ends=True),
    bad("http-2", "not spoken in text", ok(b"HTTP/2 200 OK")),
    bad("http-2.0", "not spoken in text", ok(b"HTTP/2.0 200 OK")),
    bad("http-1.2", "no such version", ok(b"HTTP/1.2 200 OK")),
    bad("http-lower-case", "the protocol's name is in capitals", ok(b"http/1.1 200 OK")),
    bad("icy", "another protocol", ok(b"ICY 200 OK")),
    bad("rtsp", "another protocol", ok(b"RTSP/1.0 200 OK")),
    bad("status-two-digits", "three digits", ok(b"HTTP/1.1 20 OK")),
    bad("status-four-digits", "three digits", ok(b"HTTP/1.1 2000 OK")),
    bad("status-zero", "there is none below 100", ok(b"HTTP/1.1 000 OK")),
    bad("status-099", "there is none below 100", ok(b"HTTP/1.1 099 OK")),
    bad("status-negative", "three digits", ok(b"HTTP/1.1 -20 OK")),
    bad("status-word", "three digits", ok(b"HTTP/1.1 two OK")),
    bad("status-missing", "three digits", ok(b"HTTP/1.1 OK")),
    bad("two-spaces", "one of them", ok(b"HTTP/1.1  200 OK")),
    bad("tab", "a space", ok(b"HTTP/1.1\t200 OK")),
    bad("space-first", "nothing comes before", b" " + ok(b"HTTP/1.1 200 OK")),
    bad("lf-ends-the-line", "lines end in CR LF", b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello"),
    bad("lf-everywhere", "lines end in CR LF", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", ends=True),
    bad("cr-in-reason", "header injection", ok(b"HTTP/1.1 200 OK\rX: y")),
    bad("request", "a backend that asks", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("nothing", "closed before a byte", b"", ends=True),
    bad("half-a-head", "closed amid the head", b"HTTP/1.1 200 OK\r\nContent-Le", ends=True),
    bad("head-without-its-end", "closed amid the head", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", ends=True),
    good("no-reason", "it may be empty", ok(b"HTTP/1.1 200 ")),
    good("no-reason-no-space", "it may be left out", ok(b"HTTP/1.1 200")),
    good("odd-reason", "obs-text", ok(b"HTTP/1.1 200 \xe9t\xe9")),
    good("escape-in-reason", "would colour a terminal: taken out", ok(b"HTTP/1.1 200 a\x1b[1m")),
    good("status-unknown", "passed as it is", ok(b"HTTP/1.1 299 X"), Whole(299)),
    good("status-past-599", "passed as it is", ok(b"HTTP/1.1 799 X"), Whole(799)),
    good("http-1.0", "closed after each", ok(b"HTTP/1.0 200 OK")),
]

FIELDS = [
    bad("folded", "RFC 9112, 5.2", field(b"X: a\r\n b")),
    bad("space-before-colon", "RFC 9112, 5.1: to be taken out, or refused", field(b"X : y")),
    bad("space-in-name", "a name is a token", field(b"X y: z")),
    bad("no-name", "a name is a token", field(b": z")),
    bad("no-colon", "no field", field(b"Xyz")),
    bad("name-obs-text", "a name is a token", field(b"X\xff: z")),
    bad("name-nul", "a name is a token", field(b"X\0: z")),
    bad("value-nul", "NUL ends strings elsewhere", field(b"X: a\0b")),
    bad("value-cr", "header injection", field(b"X: a\rSet-Cookie: b")),
    bad("value-lf", "header injection", field(b"X: a\nSet-Cookie: b")),
    bad("value-lf-lf", "a second response inside", field(b"X: a\n\nHTTP/1.1 200 OK\nContent-Length: 0\n")),
    bad("value-escape", "RFC 9110, 5.5", field(b"X: a\x1b[1m")),
    bad("huge-head", "past the bound of a head", head(b"X: " + b"y" * 300_000)),
    bad("endless-head", "past the bound of a head", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 60_000),
    bad(
        "switching-protocols",
        "nobody asked for it",
        head(b"Upgrade: x", b"Connection: upgrade", start=b"HTTP/1.1 101 X") + FORGED,
    ),
    bad("switching-protocols-unsaid", "nobody asked for it", head(start=b"HTTP/1.1 101 X") + FORGED),
    good("obs-text", "passed as it is", field(b"X: \xe9"), Whole(fields=(("x", "\xe9"),))),
    good(
        "hop-by-hop",
        "dropped",
        field(b"Connection: x-a\r\nX-A: 1\r\nKeep-Alive: 1\r\nUpgrade: h2c"),
        Whole(absent=("x-a", "keep-alive", "upgrade", "connection")),
    ),
    good("empty-value", "none is needed", field(b"X:"), Whole(fields=(("x", ""),))),
]

LENGTHS = [
    bad("length-twice", "one of them may be dropped on the way", field(b"Content-Length: 5")),
    bad("length-twice-differs", "which of them?", field(b"Content-Length: 0")),
    bad("length-list", "which of them?", length(b"5, 5")),
    bad("length-negative", "digits only", length(b"-5")),
    bad("length-plus", "digits only", length(b"+5")),
    bad("length-hex", "digits only", length(b"0x5")),
    bad("length-underscore", "digits only", length(b"0_5")),
    bad("length-empty", "digits only", length(b"")),
    bad("length-word", "digits only", length(b"five")),
    bad("length-past-64-bits", "it would wrap", length(b"18446744073709551621")),
    bad(
        "length-and-coding",
        "RFC 9112, 6.3: smuggling, perhaps",
        head(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    ),
    bad(
        "coding-and-length",
        "RFC 9112, 6.3: smuggling, perhaps",
        head(b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"5\r\nhello\r\n0\r\n\r\n",
    ),
    bad("length-space-before-colon", "no such field name", head(b"Content-Length : 5") + b"hello"),
    cut("length-too-long", "the body ends early", length(b"500"), ends=True),
    cut("length-too-long-and-reset-never-comes", "a byte is missing", length(b"6"), ends=True),
    good("length-too-short", "the rest is no part of it", head(b"Content-Length: 5") + b"hello world"),
    good("length-zero-with-body", "the rest is no part of it", head(b"Content-Length: 0") + b"hello", Whole(body=b"")),
    good("length-leading-zeros", "digits, and not octal", length(b"0005")),
    good("no-length", "the connection's end is the body's", head() + b"hello", ends=True),
    good("no-length-two-heads", "the second is body", head() + FORGED, Whole(body=FORGED), ends=True),
    good("two-heads", "the second is no part of it", length(b"5") + FORGED),
    good("three-answers", "one was asked for", length(b"5") + FORGED * 2),
    good("empty-lines-after", "no part of it", length(b"5") + b"\r\n\r\n"),
]

CODINGS = [
    bad("te-gzip", "not asked for", coding(b"Transfer-Encoding: gzip")),
    bad("te-gzip-chunked", "not asked for", coding(b"Transfer-Encoding: gzip, chunked")),
    bad("te-twice", "chunked is applied once", coding(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
    bad("te-identity", "withdrawn", coding(b"Transfer-Encoding: identity")),
    bad("te-xchunked", "no such coding", coding(b"Transfer-Encoding: xchunked")),
    bad("te-empty", "no coding", coding(b"Transfer-Encoding:")),
    bad("te-space-before-colon", "no such field name", coding(b"Transfer-Encoding : chunked")),
    bad("te-vertical-tab", "not white space", coding(b"Transfer-Encoding: \x0bchunked")),
    bad(
        "te-on-1.0",
        "1.0 has no codings",
        head(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK") + b"5\r\nhello\r\n0\r\n\r\n",
    ),
    good("te-capitals", "codings are case-insensitive", coding(b"TRANSFER-ENCODING: CHUNKED")),
    good("te-underscore", "another field", field(b"Transfer_Encoding: chunked")),
]

CHUNKS = [
    cut("chunk-size-word", "hexadecimal digits only", chunks(b"five\r\nhello\r\n0\r\n\r\n")),
    cut("chunk-size-negative", "hexadecimal digits only", chunks(b"-5\r\nhello\r\n0\r\n\r\n")),
    cut("chunk-size-hex-prefix", "hexadecimal digits only", chunks(b"0x5\r\nhello\r\n0\r\n\r\n")),
    cut("chunk-size-space", "hexadecimal digits only", chunks(b"5 \r\nhello\r\n0\r\n\r\n")),
    cut("chunk-size-past-64-bits", "it would wrap to five", chunks(b"10000000000000005\r\nhello\r\n0\r\n\r\n")),
    cut("chunk-size-ends-in-lf", "lines end in CR LF", chunks(b"5\nhello\r\n0\r\n\r\n")),
    cut("chunk-too-short", "more data than its size", chunks(b"4\r\nhello\r\n0\r\n\r\n")),
    cut("chunk-too-long", "the size reaches into what follows", chunks(b"8\r\nhello\r\n0\r\n\r\n")),
    cut("chunk-two-other-bytes", "data ends in CR LF", chunks(b"5\r\nhelloXX0\r\n\r\n")),
    cut("extension-lf", "no bare LF", chunks(b"5;x\nhello\r\n0\r\n\r\n")),
    cut("trailer-folded", "no line folding", chunks(b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n")),
    cut(
        "trailer-length", "framing has no place in a trailer", chunks(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n")
    ),
    cut("trailer-is-a-response", "no field", chunks(b"5\r\nhello\r\n0\r\n" + FORGED)),
    cut("ends-amid-a-chunk", "never a clean end", chunks(b"5\r\nhel"), ends=True),
    cut("ends-between-chunks", "never a clean end", chunks(b"5\r\nhello\r\n"), ends=True),
    cut("ends-amid-the-last-chunk", "never a clean end", chunks(b"5\r\nhello\r\n0\r\n"), ends=True),
    good("chunks", "passed as they are", chunks(b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX: y\r\n\r\n"), Whole(absent=("x",))),
    good(
        "chunk-is-a-response",
        "data, whatever it looks like",
        chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (len(FORGED), FORGED)),
        Whole(body=FORGED),
    ),
    good("chunks-then-another-answer", "no part of it", chunks(b"5\r\nhello\r\n0\r\n\r\n" + FORGED)),
    good("chunks-then-empty-lines", "no part of it", chunks(b"5\r\nhello\r\n0\r\n\r\n\r\n\r\n")),
    good("last-chunk-zeros", "still zero", chunks(b"5\r\nhello\r\n000\r\n\r\n")),
    good("no-chunks", "an empty body", chunks(b"0\r\n\r\n"), Whole(body=b"")),
]

WITHOUT_BODY = [
    good("204-with-body", "it has none", ok(b"HTTP/1.1 204 No"), Whole(204, b"", absent=("content-length",))),
    good(
        "204-with-chunks",
        "it has none",
        head(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 204 No") + b"5\r\nhello\r\n0\r\n\r\n",
        Whole(204, b"", absent=("transfer-encoding",)),
    ),
    good("204-then-forged", "it has none", head(start=b"HTTP/1.1 204 No") + FORGED, Whole(204, b"")),
    good("304-with-body", "it has none", ok(b"HTTP/1.1 304 Not"), Whole(304, b"")),
    good(
        "304-then-forged",
        "it has none",
        head(b"Content-Length: 50", start=b"HTTP/1.1 304 Not") + FORGED,
        Whole(304, b""),
    ),
    good(
        "head-with-body",
        "the answer to HEAD has none",
        length(b"5"),
        Whole(body=b"", fields=(("content-length", "5"),)),
        method="HEAD",
    ),
    good(
        "head-with-chunks",
        "the answer to HEAD has none",
        coding(b"Transfer-Encoding: chunked"),
        Whole(body=b""),
        method="HEAD",
    ),
    good(
        "head-then-forged",
        "the answer to HEAD has none",
        head(b"Content-Length: 5") + FORGED,
        Whole(body=b""),
        method="HEAD",
    ),
    good("head-without-length", "no body, so no end of one", head(), Whole(body=b""), method="HEAD"),
    good("205-with-body", "framed like any other", ok(b"HTTP/1.1 205 Reset"), Whole(205)),
]

INTERIM = [
    bad(
        "interim-flood", "past the bound of a head", b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000 + ok(b"HTTP/1.1 200 OK")
    ),
    bad("interim-and-nothing", "closed before the answer", b"HTTP/1.1 100 Continue\r\n\r\n", ends=True),
    bad(
        "interim-with-body",
        "what follows is no status line",
        head(b"Content-Length: 5", start=b"HTTP/1.1 103 Hints") + b"hello" + ok(b"HTTP/1.1 200 OK"),
    ),
    good("interim", "dropped", b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"HTTP/1.1 200 OK")),
    good(
        "interim-several",
        "dropped",
        head(b"Link: x", start=b"HTTP/1.1 103 Hints") * 3 + ok(b"HTTP/1.1 200 OK"),
        Whole(absent=("link",)),
    ),
    good(
        "interim-with-length",
        "dropped, and it has no body",
        head(b"Content-Length: 5", start=b"HTTP/1.1 103 Hints") + ok(b"HTTP/1.1 200 OK"),
    ),
    good("interim-unknown", "dropped", head(start=b"HTTP/1.1 199 X") + ok(b"HTTP/1.1 200 OK")),
    good("interim-after", "no part of the answer", ok(b"HTTP/1.1 200 OK") + b"HTTP/1.1 100 Continue\r\n\r\n"),
]

CASES = [*STATUS_LINES, *FIELDS, *LENGTHS, *CODINGS, *CHUNKS, *WITHOUT_BODY, *INTERIM]
