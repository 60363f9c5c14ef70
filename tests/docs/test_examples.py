"""What the documents show is run: Python, configurations, commands, links."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from typer.models import TyperInfo
from typer.testing import CliRunner

from llmux.cli.commands import app
from llmux.config import Config
from llmux.core import Core, CoreSettings, ModelSpec
from llmux.messages import Grant, Start
from llmux.policy import FifoPolicy, SwitchPolicy
from llmux.testing import CorePlayer
from tests.docs.documents import (
    ALL_DOCUMENTS,
    DOCUMENTS,
    ROOT,
    Block,
    all_blocks,
    anchors,
    blocks,
    inline_code,
    links,
    write_examples,
)
from tests.e2e.conftest import llmux_process

PYTHON = ROOT / "docs" / "python.md"
SHELL = ("", "sh", "ini")


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    write_examples(block.document, tmp_path)
    (tmp_path / "example.py").write_text(block.text)
    run = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert not run.stderr


@pytest.mark.parametrize("block", all_blocks("yaml", "json"), ids=str)
def test_configurations_load(block: Block, tmp_path: Path) -> None:
    write_examples(block.document, tmp_path)
    file = tmp_path / f"example.{block.language}"
    file.write_text(block.text)
    config = Config.from_file(file)
    assert list(config.models) == list(yaml.safe_load(block.text)["models"])
    assert not config.warnings


def test_there_are_examples() -> None:
    assert len(all_blocks("python")) >= 4
    assert len(all_blocks("yaml")) >= 5
    for document in DOCUMENTS:
        names = [block.name for block in blocks(document)]
        assert len(names) == len(set(names)), f"two examples of one name in {document.name}"


# --- commands -----------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """Every command line of llmux in the documents, and where it is."""
    for document in ALL_DOCUMENTS:
        shown = [(text, document.name) for text in inline_code(document)]
        shown += [
            (line, str(block))
            for block in blocks(document, *SHELL)
            for line in block.text.replace("\\\n", " ").splitlines()
        ]
        for text, where in shown:
            match = re.fullmatch(r"(?:\S*[=/])?llmux((?:\s.*)?)", text.strip())
            if match is not None:
                yield match[1], where


def names() -> set[tuple[str, ...]]:
    """All commands, those of groups with the name of their group."""
    groups = [((), app), *(((str(group.name or ""),), group.typer_instance) for group in registered_groups())]
    return {
        (*prefix, command.name or str(getattr(command.callback, "__name__", "")))
        for prefix, group in groups
        if group is not None
        for command in group.registered_commands
    }


def registered_groups() -> Iterator[TyperInfo]:
    for group in app.registered_groups:
        assert group.typer_instance is not None
        group.name = group.name or group.typer_instance.info.name
        yield group


def command_of(words: list[str]) -> tuple[str, ...]:
    """The command that a line names."""
    known = names()
    return next((tuple(words[:size]) for size in (2, 1) if tuple(words[:size]) in known), ())


def usage(*command: str) -> str:
    """What ``--help`` says."""
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, command
    return result.output


def has_option(text: str, word: str) -> bool:
    option = re.split(r"[ =/]", word)[0]
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


@pytest.mark.parametrize(("arguments", "where"), list(dict.fromkeys(commands())))
def test_commands_exist(arguments: str, where: str) -> None:
    words = shlex.split(arguments, comments=True)
    text = usage(*command_of([word for word in words if not word.startswith("-")]))
    for word in words:
        assert not word.startswith("-") or has_option(text, word), f"{where}: {word}"


def test_options_exist() -> None:
    """Those that are named without their command."""
    text = "".join([usage(), *(usage(*command) for command in names())])
    options = [text for document in ALL_DOCUMENTS for text in inline_code(document) if re.match(r"--?[a-z]", text)]
    assert "--log-format" in options
    for option in options:
        assert has_option(text, option), option


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = [
        match[1]
        for document in ALL_DOCUMENTS
        for text in [*inline_code(document), *(block.text for block in blocks(document, ""))]
        if (match := re.fullmatch(r"make ([\w-]+)", text.strip())) is not None
    ]
    assert {"demo", "test"} <= set(shown) <= targets


# --- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", ALL_DOCUMENTS, ids=lambda document: document.name)
def test_links_resolve(document: Path) -> None:
    for link in links(document):
        if not re.match(r"https?://", link):
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


# --- the policy -----------------------------------------------------------------------------------------------------


def order(policy: SwitchPolicy) -> list[str]:
    """The models in the order of their grants: b is asked for first, c by more."""
    settings = CoreSettings(models=tuple(map(ModelSpec, "abc")), min_active=10.0)
    player = CorePlayer(Core(settings, policy))
    player.send(Start())
    for at, model in enumerate("abcc", start=1):
        player.arrive(model, at=float(at))
    player.run(60.0)
    return [grant.model for _, grant in player.said(Grant)]


def test_the_policy_decides(tmp_path: Path) -> None:
    write_examples(PYTHON, tmp_path)
    spec = spec_from_file_location("longest_queue", tmp_path / "longest_queue.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert order(FifoPolicy()) == ["a", "b", "c", "c"]
    assert order(module.LongestQueue()) == ["a", "c", "c", "b"]
    assert order(module.LongestQueue(max_wait_secs=5.0)) == ["a", "b", "c", "c"]


@pytest.mark.anyio
async def test_the_policy_is_found_by_its_class(tmp_path: Path) -> None:
    write_examples(PYTHON, tmp_path)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    async with llmux_process("-c", str(tmp_path / "policy.yaml"), "-p", "0", PYTHONPATH=path) as server:
        assert await server.stop() == 0
    assert not server.events("policy_fault")
