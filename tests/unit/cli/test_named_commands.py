"""Every command that a message, a help text or a page names exists (CL-3, CL-15, CL-16)."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import click
import pytest

from hypercluster.cli.main import cli

ROOT = pathlib.Path(__file__).resolve().parents[3]
NAMED = re.compile(r"`hypercluster ([a-z][^`]*)`")


def sentences() -> Iterator[tuple[str, str]]:
    """(where, text) of every string of the package, f-strings with their holes filled, and of every page."""
    for file in sorted((ROOT / "hypercluster").rglob("*.py")):
        if "pb" in file.relative_to(ROOT).parts:
            continue
        where = str(file.relative_to(ROOT))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield where, node.value
            elif isinstance(node, ast.JoinedStr):
                yield where, "".join(v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield page.name, page.read_text(encoding="utf-8")


def missing(words: list[str]) -> str:
    """'' when the first words name a command; otherwise which one is not there."""
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            return ""
        context = click.Context(command)
        found = command.get_command(context, word)
        if found is None:
            return word if re.fullmatch(r"[a-z][a-z-]*", word) else ""
        command = found
    return ""


@pytest.mark.req("CL-3", "CL-15", "CL-16")
def test_every_command_that_is_named_exists() -> None:
    found = {(where, match[1]) for where, text in sentences() for match in NAMED.finditer(text)}
    wrong = sorted((where, named) for where, named in found if missing(named.split()))
    assert not wrong
    named = {name for _, name in found}
    assert any(name.startswith("wal inspect") for name in named)
    assert any(name.startswith("wal quarantine") for name in named)
    assert any(name.startswith("node rejoin") for name in named)
    assert len(named) > 8


def test_a_command_that_is_not_there_is_noticed() -> None:
    assert missing(["join"]) == "join"
    assert missing(["node", "leave"]) == "leave"
    assert missing(["wal", "inspect", "DATA_DIR"]) == ""


def test_every_command_of_the_list_loads_and_says_what_it_does() -> None:
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None and command.help, name
