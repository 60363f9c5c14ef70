"""A configuration file as a tree that still knows on which line each part stands.

Pure. The YAML and the JSON reader make it; the loader turns it into data, and places in that data back into lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Location = tuple[str | int, ...]

MAX_NODES = 50_000


class UnreadableError(Exception):
    """The text is not YAML or not JSON at all: there is no tree. `line` is 1-based."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(slots=True)
class Node:
    """A value and where it stands: for a member of a mapping, the line of its key.

    `text` is how a plain YAML scalar was written (``true``, ``1e3``, empty); None for everything else.
    """

    value: str | int | float | bool | dict[str, Node] | list[Node] | None
    line: int
    text: str | None = None

    def data(self) -> Any:
        """The value without the lines."""
        if isinstance(self.value, dict):
            return {key: node.data() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.data() for node in self.value]
        return self.value

    def find(self, place: Iterable[str | int]) -> Node:
        """The node at `place`, or the last one on the way there."""
        node = self
        for part in place:
            child = node._child(part)
            if child is None:
                break
            node = child
        return node

    def _child(self, part: str | int) -> Node | None:
        if isinstance(self.value, dict) and isinstance(part, str):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None


def dotted(place: Location) -> str:
    """A place as people read it: ``models.llama.aliases[0]``; names with dots or odd characters are in quotes."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            plain = part.isprintable() and part and not set(part) & set("." + '"[] ')
            name = part if plain else json.dumps(part, ensure_ascii=not part.isprintable())
            path += f".{name}" if path else name
    return path
