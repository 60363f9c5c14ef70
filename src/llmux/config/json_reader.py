"""JSON text to a tree with lines (RFC 8259).

Pure. The json module says whether it is JSON; what is left to do here is to walk from member to member.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import NoReturn

from llmux.config.tree import Location, Node, UnreadableError

_SPACE = re.compile(r"[ \t\r\n]*")


def read_json(text: str) -> tuple[Node | None, list[tuple[Location, int, str]]]:
    """The tree (None for an empty text) and the faults that do not keep it from being a tree.

    Raises:
        UnreadableError: a syntax error.
    """
    if not text.strip():
        return None, []
    try:
        json.loads(text, parse_constant=_refuse)
        walker = _Walker(text)
        root, _ = walker.value(walker.skip(0), (), walker.line(walker.skip(0)))
    except json.JSONDecodeError as error:
        raise UnreadableError(error.lineno, f"not valid JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise UnreadableError(None, f"not valid JSON: {error}") from None
    except RecursionError:
        raise UnreadableError(None, "nested too deeply") from None
    return root, walker.faults


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


class _Walker:
    """Walks a text that is known to be valid JSON. Methods take the offset of a token and return the one after it."""

    def __init__(self, text: str) -> None:
        self.faults: list[tuple[Location, int, str]] = []
        self._text = text
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._decode = json.JSONDecoder().raw_decode

    def line(self, at: int) -> int:
        return bisect_right(self._line_ends, at - 1) + 1

    def skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at

    def value(self, at: int, place: Location, line: int) -> tuple[Node, int]:
        if self._text[at] == "{":
            return self._object(at, place, line)
        if self._text[at] == "[":
            return self._array(at, place, line)
        value, end = self._decode(self._text, at)
        return Node(value, line), end

    def _object(self, at: int, place: Location, line: int) -> tuple[Node, int]:
        members: dict[str, Node] = {}
        at = self.skip(at + 1)
        while self._text[at] != "}":
            key_line = self.line(at)
            key, at = self._decode(self._text, at)
            at = self.skip(self.skip(at) + 1)
            node, at = self.value(at, (*place, key), key_line)
            if key in members:
                self.faults.append(((*place, key), key_line, f"given twice; the first is on line {members[key].line}"))
            else:
                members[key] = node
            at = self._next(at)
        return Node(members, line), at + 1

    def _array(self, at: int, place: Location, line: int) -> tuple[Node, int]:
        items: list[Node] = []
        at = self.skip(at + 1)
        while self._text[at] != "]":
            node, at = self.value(at, (*place, len(items)), self.line(at))
            items.append(node)
            at = self._next(at)
        return Node(items, line), at + 1

    def _next(self, at: int) -> int:
        """Past the comma, if there is one."""
        at = self.skip(at)
        return self.skip(at + 1) if self._text[at] == "," else at
