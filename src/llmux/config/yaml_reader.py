"""YAML text to a tree with lines.

Pure. Scalars mean what YAML 1.2 says (the core schema), as they did to 2.4.0: ``yes``, ``on`` and ``12:30`` are text,
``0o17`` is a number, ``010`` is text. PyYAML, which follows YAML 1.1 there, only parses. Anchors, aliases and merge
keys (``<<``) work; what they expand to is capped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from llmux.config.tree import MAX_NODES, Location, Node, UnreadableError

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"


class _Composer(yaml.SafeLoader):
    """Parses and composes; nothing is constructed. Pure Python, so that deep nesting cannot overflow the C stack."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own way; the stubs declare it without ClassVar
        None: [
            (_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
            (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
            (_TAG + "int", re.compile(r"(?:[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+)\Z")),
            (
                _TAG + "float",
                re.compile(
                    r"(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
                    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
                ),
            ),
            (_MERGE, re.compile(r"<<\Z")),
        ]
    }


def read_yaml(text: str) -> tuple[Node | None, list[tuple[Location, int, str]]]:
    """The tree (None for an empty document) and the faults that do not keep it from being a tree.

    Raises:
        UnreadableError: a syntax error, or more of it than a configuration can have.
    """
    try:
        loader = _Composer(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
        if root is None:
            return None, []
        builder = _Builder()
        return builder.build(root, (), root.start_mark.line + 1), builder.faults
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ": ".join(part for part in (error.context, error.problem) if part)
        raise UnreadableError(mark.line + 1 if mark else None, f"not valid YAML: {reason}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnreadableError(line, f"not valid YAML: the character {chr(error.character)!a} is not allowed") from None
    except RecursionError:
        raise UnreadableError(None, "nested too deeply") from None


class _Builder:
    def __init__(self) -> None:
        self.faults: list[tuple[Location, int, str]] = []
        self._count = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, place: Location, line: int) -> Node:
        self._enter(node, line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place, line)
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, "map", place, line)
            built = Node(dict(self._members(node, place)), line)
        else:
            self._check_tag(node, "seq", place, line)
            items = enumerate(node.value)
            built = Node([self.build(item, (*place, i), item.start_mark.line + 1) for i, item in items], line)
        self._open.discard(id(node))
        return built

    def _enter(self, node: yaml.Node, line: int) -> None:
        """Count a visit; refuse what would never end (an alias inside its own anchor) or nearly never."""
        self._count += 1
        if self._count > MAX_NODES:
            raise UnreadableError(line, f"its aliases expand to more than {MAX_NODES} values")
        if not isinstance(node, yaml.ScalarNode):
            if id(node) in self._open:
                raise UnreadableError(line, "an alias stands inside of what it stands for")
            self._open.add(id(node))

    def _members(self, node: yaml.MappingNode, place: Location) -> Iterator[tuple[str, Node]]:
        for key, (line, value) in self._pairs(node, place).items():
            yield key, self.build(value, (*place, key), line)

    def _pairs(self, node: yaml.MappingNode, place: Location) -> dict[str, tuple[int, yaml.Node]]:
        """The members of a mapping, those that it merges included; its own come first and win."""
        pairs: dict[str, tuple[int, yaml.Node]] = {}
        merged: list[tuple[int, yaml.Node]] = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                merged += [(line, item) for item in (value.value if isinstance(value, yaml.SequenceNode) else [value])]
            elif not isinstance(key, yaml.ScalarNode):
                self.faults.append((place, line, "a key must be text"))
            elif key.value in pairs:
                first = pairs[key.value][0]
                self.faults.append(((*place, key.value), line, f"given twice; the first is on line {first}"))
            else:
                pairs[key.value] = (line, value)
        for line, item in merged:
            if not isinstance(item, yaml.MappingNode):
                self.faults.append((place, line, "only a mapping, or a list of them, can be merged with <<"))
                continue
            self._enter(item, line)
            for name, pair in self._pairs(item, place).items():
                pairs.setdefault(name, pair)
            self._open.discard(id(item))
        return pairs

    def _scalar(self, node: yaml.ScalarNode, place: Location, line: int) -> Node:
        text = node.value
        plain = text if node.style is None else None
        tag = node.tag.removeprefix(_TAG)
        try:
            match tag:
                case "null" if not text or text.lower() in ("~", "null"):
                    return Node(None, line, plain)
                case "bool" if text.lower() in ("true", "false"):
                    return Node(text.lower() == "true", line, plain)
                case "int":
                    return Node(int(text, 0), line, plain)
                case "float":
                    return Node(float(re.sub(r"\.(?=inf|nan)", "", text.lower())), line, plain)
                case "str" | "merge":
                    return Node(text, line, plain)
        except ValueError:
            pass  # a tag that does not fit, or more digits than Python reads
        shown = text if len(text) <= 40 else text[:40] + "…"
        self.faults.append((place, line, f"{shown!r} cannot be read as {_shown(node.tag)}"))
        return Node(None, line, plain)

    def _check_tag(self, node: yaml.Node, kind: str, place: Location, line: int) -> None:
        if node.tag != _TAG + kind:
            self.faults.append((place, line, f"the tag {_shown(node.tag)} is not supported here"))


def _shown(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
