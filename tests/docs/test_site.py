"""The site of the documents: it builds without a warning, has every page, and needs nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.documents import ALL_DOCUMENTS, DOCUMENTS, ROOT

SITE_PAGES = {"README.md": "index", "THREAT_MODEL.md": "threat-model"}


def build(tree: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does, with the documents of `tree`."""
    command = re.search(r"\bmkdocs build.*", (ROOT / "Makefile").read_text())
    assert command is not None
    return subprocess.run(
        [sys.executable, "-m", *shlex.split(command[0]), "--site-dir", str(folder)],
        cwd=tree,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    made = build(ROOT, folder)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


class Loads(HTMLParser):
    """What a browser fetches for a page, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a":
            self.links.append(values.get("href") or "")
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.fetched.append(values.get("href") or "")
        elif tag in ("script", "img", "iframe"):
            self.fetched.append(values.get("src") or "")


def loads(page: Path) -> Loads:
    parser = Loads()
    parser.feed(page.read_text())
    return parser


def test_every_document_is_a_page(site: Path) -> None:
    for document in [*DOCUMENTS, ROOT / "THREAT_MODEL.md"]:
        name = SITE_PAGES.get(document.name, document.stem)
        assert (site / f"{name}.html").exists(), document.name


def test_every_page_can_be_reached_from_the_first(site: Path) -> None:
    pages = {page.name for page in site.glob("*.html")} - {"404.html"}
    assert pages <= {link.partition("#")[0] for link in loads(site / "index.html").links} | {"index.html"}


def test_links_between_the_repository_and_the_site_are_those_of_the_site(site: Path) -> None:
    for page in site.glob("*.html"):
        if page.name != "404.html":
            for link in loads(page).links:
                if not re.match(r"https?:|mailto:|#", link):
                    assert (site / link.partition("#")[0]).exists(), f"{page.name}: {link}"


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        assert not [url for url in loads(page).fetched if re.match(r"(https?:)?//", url)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text()), style.name


def test_what_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    """Each is a warning of its own, and --strict fails the build for any."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "docs", tree / "docs")
    for path in [*ALL_DOCUMENTS, ROOT / "mkdocs.yml"]:
        if path.parent == ROOT:
            shutil.copy(path, tree)
    with (tree / "docs" / "quick-start.md").open("a") as page:
        page.write("\n[a page](nowhere.md), [a heading](operations.md#nowhere), ![a picture](nowhere.svg)\n")
    with (tree / "README.md").open("a") as page:
        page.write("\n[a page](docs/gone.md), [a heading](docs/operations.md#gone)\n")
    (tree / "docs" / "forgotten.md").write_text("# In no menu\n")
    made = build(tree, tmp_path / "site")
    assert made.returncode == 1
    for fault in ("'nowhere.md'", "#nowhere'", "'nowhere.svg'", "'gone.md'", "#gone'", "forgotten.md"):
        assert fault in made.stderr, made.stderr
    assert "Aborted with 6 warnings in strict mode" in made.stdout + made.stderr
