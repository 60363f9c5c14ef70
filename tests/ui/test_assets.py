"""The dashboard's files as they are served: what there is, how it is sent, and no way to anything else."""

from __future__ import annotations

import re
import socket
from importlib import resources

import httpx
import pytest

from llmux.control.ui.assets import ASSETS, HEADERS
from tests.ui.conftest import DEADLINE, ELSEWHERE, Llmux

STATIC = resources.files("llmux.control.ui") / "static"

#: Ways out of a folder that have worked somewhere, and ways of naming what is there otherwise.
RAW = [
    "/ui/../../../../../../etc/passwd",
    "/ui/../assets.py",
    "/ui/./app.js",
    "/ui/static/app.js",
    "/ui/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/ui/%2e%2e%2f%2e%2e%2fassets.py",
    "/ui/..%2fassets.py",
    "/ui/..%5cassets.py",
    "/ui/..\\assets.py",
    "/ui/%252e%252e/assets.py",
    "/ui/....//assets.py",
    "/ui/%c0%ae%c0%ae/assets.py",
    "/ui/%uff0e%uff0e/assets.py",
    "/ui//etc/passwd",
    "/ui/%2fetc/passwd",
    "/ui//app.js",
    "/ui/app.js/",
    "/ui/app.js/..",
    "/ui/app.js%00",
    "/ui/app.js%00.css",
    "/ui/app.js;.css",
    "/ui/app.js%20",
    "/ui/APP.JS",
    "/ui/app",
    "/ui/file:///etc/passwd",
    "/ui/C:/Windows/win.ini",
    "/ui/~root/.profile",
    "/ui/.git/config",
    "/ui/__init__.py",
    "/ui/assets.py",
    "/ui/..",
    "/ui/../ui",
    "/uix/app.js",
    "http://127.0.0.1/ui/../assets.py",
]


def raw(llmux: Llmux, target: str) -> tuple[int, bytes]:
    """Ask for exactly these bytes; gives the status and all that came."""
    with socket.create_connection(("127.0.0.1", llmux.port), DEADLINE) as peer:
        peer.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = b""
        while data := peer.recv(65536):
            answer += data
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.fault(70)
def test_no_path_leads_out_of_the_map(llmux: Llmux) -> None:
    assert raw(llmux, "/ui/app.js")[0] == 200  # so the server is asked as a client would ask it
    for target in RAW:
        status, answer = raw(llmux, target)
        assert status == 404, target
        body = answer.partition(b"\r\n\r\n")[2]
        assert body.startswith(b'{"error":'), target
        assert b"root:" not in answer, target


@pytest.mark.fault(71)
def test_every_file_is_sent_so_that_nothing_else_can_run(llmux: Llmux) -> None:
    policy = dict(one.split(" ", 1) for one in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    with httpx.Client(base_url=llmux.url, timeout=DEADLINE) as client:
        for path in ("/ui", "/ui/", *(f"/ui/{name}" for name in ASSETS)):
            response = client.get(path)
            assert response.status_code == (307 if path == "/ui" else 200), path
            for name, value in HEADERS.items():
                assert response.headers.get_list(name) == [value], path
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"


def test_files_are_as_they_are_in_the_package_and_not_sent_twice(llmux: Llmux) -> None:
    with httpx.Client(base_url=llmux.url, timeout=DEADLINE) as client:
        for name, kind in ASSETS.items():
            response = client.get(f"/ui/{name}")
            assert response.headers["content-type"] == kind
            assert response.content == (STATIC / name).read_bytes()
            tag = response.headers["etag"]
            for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
                again = client.get(f"/ui/{name}", headers={"If-None-Match": known})
                assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), known
            assert client.get(f"/ui/{name}", headers={"If-None-Match": '"other"'}).status_code == 200
            head = client.head(f"/ui/{name}")
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["content-length"]) == len(response.content)
        assert client.get("/ui/").content == client.get("/ui/index.html").content
        assert client.get("/ui").headers["location"] == "ui/"
        assert client.post("/ui/app.js").status_code == 405


def test_the_map_has_every_file_and_no_other() -> None:
    assert {one.name for one in STATIC.iterdir()} == set(ASSETS)


def test_the_page_needs_nothing_from_elsewhere_and_has_nothing_inline() -> None:
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=|javascript:", page)
    assert set(re.findall(r'(?:src|href)="([^"#]+)"', page)) <= set(ASSETS)
    for name in ASSETS:
        text = (STATIC / name).read_text()
        assert set(re.findall(r"https?://[^\s\"']*", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert set(re.findall(r'from "\./([^"]+)"', text)) <= set(ASSETS), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), name


def test_the_page_is_told_which_keys_it_needs_by_an_answer_that_is_no_failure(llmux: Llmux) -> None:
    with httpx.Client(base_url=llmux.url, timeout=DEADLINE) as client:
        response = client.get("/ui/doors", headers={"Authorization": "Bearer whatever"})
        assert (response.status_code, response.json()) == (200, {"admin": None, "api": None})
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert response.headers["x-content-type-options"] == "nosniff"
        told = client.get("/ui/doors", headers={"Host": ELSEWHERE}).json()
        refused = client.get("/admin/v1/state", headers={"Host": ELSEWHERE})
        assert told["admin"]["status"] == refused.status_code == 403
        assert told["admin"]["code"] == refused.json()["error"]["code"]
        assert told["admin"]["message"] == refused.json()["error"]["message"]
        assert told["api"] is None


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_root_says_that_llmux_runs_and_shows_browsers_the_way(llmux: Llmux, method: str) -> None:
    with httpx.Client(base_url=llmux.url, timeout=DEADLINE) as client:
        plain = client.request(method, "/")
        assert (plain.status_code, plain.text) == (200, "llmux is running\n" if method == "GET" else "")
        assert plain.headers["content-type"].startswith("text/plain")
        browser = client.request(method, "/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert (browser.status_code, browser.headers["location"]) == (307, "ui/")
        assert plain.headers["vary"] == browser.headers["vary"] == "Accept"
        found = client.request(method, "/", headers={"Accept": "text/html"}, follow_redirects=True)
        assert (found.status_code, found.url.path) == (200, "/ui/")
