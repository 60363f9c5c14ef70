"""The documents, taken apart: code blocks, tables, links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_DOCUMENTS = [
    *DOCUMENTS,
    *(ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "THREAT_MODEL.md")),
]

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_NAME = re.compile(r"<!-- example: (\S+) -->\s*")


@dataclass(frozen=True)
class Block:
    """A block of code. `name` is that of the comment ``<!-- example: NAME -->`` above it."""

    document: Path
    line: int
    language: str
    text: str
    name: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def tokens(document: Path) -> list[Token]:
    return _MARKDOWN.parse(document.read_text())


def blocks(document: Path, *languages: str) -> list[Block]:
    """The code blocks in any of `languages` (all, if none is given), in their order."""
    found = []
    name = ""
    for token in tokens(document):
        if token.type in ("fence", "code_block"):
            line = token.map[0] + 1 if token.map else 0
            found.append(Block(document, line, token.info, token.content, name or f"block-{line}"))
        match = _NAME.fullmatch(token.content) if token.type == "html_block" else None
        name = match[1] if match is not None else ""
    return [block for block in found if not languages or block.language in languages]


def all_blocks(*languages: str) -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks(document, *languages)]


def write_examples(document: Path, folder: Path) -> None:
    """Write all named examples of a document into a folder, as its reader would."""
    for block in blocks(document):
        if not block.name.startswith("block-"):
            path = folder / block.name
            path.write_text(block.text)
            if block.text.startswith("#!"):
                path.chmod(0o755)


def rows(document: Path, *header: str) -> list[list[str]]:
    """The rows of the table with this header; cells as they are written, but without the escape of ``|``."""
    table: list[list[str]] = []
    for token in tokens(document):
        if token.type == "table_open":
            table = []
        elif token.type == "tr_open":
            table.append([])
        elif token.type == "inline" and table and len(table[-1]) < len(header):
            table[-1].append(token.content.replace("\\|", "|"))
        elif token.type == "table_close":
            if table[0] == list(header):
                return table[1:]
            table = []
    raise AssertionError(f"{document.name} has no table with the header {header}")


def code(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def inline_code(document: Path) -> Iterator[str]:
    for token in tokens(document):
        for child in token.children or []:
            if child.type == "code_inline":
                yield child.content


def links(document: Path) -> Iterator[str]:
    for token in tokens(document):
        for child in token.children or []:
            target = child.attrGet("href" if child.type == "link_open" else "src")
            if child.type in ("link_open", "image") and isinstance(target, str):
                yield target


def anchors(document: Path) -> set[str]:
    """What the headings of a document are called in links, as GitHub makes them."""
    found = set()
    parsed = tokens(document)
    for heading, content in pairwise(parsed):
        if heading.type == "heading_open":
            text = re.sub(r"[^\w\- ]", "", content.content.lower())
            found.add(text.replace(" ", "-"))
    return found
