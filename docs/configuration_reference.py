"""Writes docs/configuration.md from the JSON schema of the configuration file.

    python docs/configuration_reference.py > docs/configuration.md

A test fails when the file is not what this prints. What a key means is said where the key is defined, in
`llmux.config.toplevel` and the sections that it names; only the introduction and the example are said here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmux.config import config_schema

Schema = Mapping[str, Any]

HEAD = """\
# Configuration

<!-- Made by docs/configuration_reference.py from the JSON schema; do not edit. -->

One file says everything. `llmux -c FILE` reads it (without `-c`: `config.yaml`). Files that end in `.yaml` or `.yml`
are YAML, all others are JSON. Only `models` is required. All faults of a file are reported at once, each with its line,
and llmux ends with status 2 without having run a hook. Unknown and duplicate keys are faults.

`llmux schema` prints the JSON schema from which this page is made. With
`# yaml-language-server: $schema=llmux.schema.json` as first line of the file, and the schema saved under that name
beside it, many editors check and complete it.

## A complete example

<!-- example: config.yaml -->
```yaml
devices: {gpu0: 24GiB, gpu1: 24GiB}

models:
  llama:
    port: 8001
    needs: {gpu0: 20GiB, gpu1: 20GiB}     # so much on each of the two
    aliases: [gpt-4o, default]            # other names that clients may use
    wake: ./llama.sh wake
    sleep: ./llama.sh sleep
    alive: ./llama.sh alive
    hook_timeout_secs: {wake: 1800}       # this one loads slowly
  coder:
    url: http://10.0.0.7:8000             # not on this machine
    needs: 10GiB                          # on any one device; the hooks find its name in LLMUX_DEVICES
    send_model_as: org/coder-7b-instruct  # the name that its backend knows
    drain_timeout_secs: 60
    wake: ./coder.sh wake
    sleep: ./coder.sh sleep
    alive: ./coder.sh alive

policy:
  request_timeout_secs: 300
  min_active_secs: 5

host: 127.0.0.1
port: 3000
max_body_bytes: 50MiB
max_queue: 1000
on_exit: sleep
timeouts_secs: {response: 1800}           # long answers that are not streamed
```

## Values

- **Seconds** are numbers, with or without a fraction; where `null` is allowed it means no limit.
- **Sizes** are a number of bytes, or a number with a unit: `KB`, `MB`, `GB`, `TB` are powers of 1000, `KiB`, `MiB`,
  `GiB`, `TiB` powers of 1024.
- **Scripts** are run as `sh -c <script>` in the folder of the configuration file, so a relative path means that folder.
  [operations.md](operations.md#hooks) says what a hook must do.
- **Text** may be any YAML scalar: `alive: true` runs the command `true`.
"""


@dataclass(frozen=True)
class Section:
    """One part of the file: its heading, and the schema of the object that it is."""

    heading: str
    schema: Schema


def main() -> None:
    schema = config_schema()
    sys.stdout.write(HEAD)
    for section in sections(schema):
        sys.stdout.write("\n" + "\n".join(rendered(section, schema)) + "\n")


def sections(root: Schema) -> Iterator[Section]:
    """The whole, then every object in it, in the order of the file."""
    yield Section("Top level", root)
    yield from _below("", root, root)


def _below(prefix: str, schema: Schema, root: Schema) -> Iterator[Section]:
    for key, value in schema["properties"].items():
        path = prefix + key
        if reference := _reference(value):
            section = root["$defs"][reference]
        elif reference := _reference(value.get("additionalProperties", {})):
            path, section = f"{path}.<name>", root["$defs"][reference]
        else:
            continue
        yield Section(f"`{path}`", section)
        yield from _below(f"{path}.", section, root)


def _reference(value: Any) -> str | None:
    """The name of the definition that a value is, `null` aside."""
    for one in [value, *value.get("anyOf", [])] if isinstance(value, dict) else []:
        if "$ref" in one:
            return str(one["$ref"]).rpartition("/")[2]
    return None


def rendered(section: Section, root: Schema) -> Iterator[str]:
    """The heading and the table of a section."""
    yield f"## {section.heading}"
    yield ""
    if "description" in section.schema and section.schema is not root:
        yield " ".join(section.schema["description"].split())
        yield ""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    required = section.schema.get("required", [])
    for key, value in {**section.schema["properties"], **conditional(section.schema)}.items():
        meaning, default = parted(value.get("description", ""))
        default = "required" if key in required else default or "none"
        yield f"| `{key}` | {kind(value)} | {_cell(default)} | {_cell(meaning)} |"


def conditional(schema: Schema) -> dict[str, Schema]:
    """Keys that a section has only in some cases; their descriptions say in which."""
    found: dict[str, Schema] = {}
    for case in [schema, *schema.get("allOf", [])]:
        found.update(case.get("then", {}).get("properties", {}))
    return found


def parted(description: str) -> tuple[str, str]:
    """A description without its last sentence about the default, and what that says."""
    text = " ".join(description.split())
    match = re.search(r" ?(?:Default: (.+)\.|Required\.)$", text)
    return (text, "") if match is None else (text[: match.start()], match[1] or "required")


def kind(value: Schema) -> str:
    """The type of a value, in words."""
    if alternatives := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(dict.fromkeys(_size(alternatives) or map(kind, alternatives)))
    if "enum" in value:
        return " or ".join(f"`{one}`" for one in value["enum"])
    match value.get("type"):
        case "array":
            return f"list of {kind(value['items'])}"
        case "object":
            inner = value.get("additionalProperties")
            return f"mapping to {kind(inner)}" if isinstance(inner, dict) else "mapping"
        case "string":
            return "text"
        case "boolean":
            return "`true` or `false`"
        case "null":
            return "`null`"
        case "integer" | "number" as name:
            return ("whole number" if name == "integer" else "number") + _bounds(value)
    return "mapping"


def _size(alternatives: list[Schema]) -> list[str] | None:
    types = [one.get("type") for one in alternatives]
    return ["size"] if types == ["integer", "string"] else None


def _bounds(value: Schema) -> str:
    if "maximum" in value:
        return f" from {value['minimum']} to {value['maximum']}"
    if "exclusiveMinimum" in value:
        return f" above {value['exclusiveMinimum']}"
    return f" from {value['minimum']}" if "minimum" in value else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
