"""Every command that a message, a help text or a page names exists (CL-3, CL-15, CL-16)."""

from __future__ import annotations

import ast
import pathlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hypercluster.cli.main import cli

ROOT = pathlib.Path(__file__).resolve().parents[3]
SHOWN = re.compile(r"^ {4}(?:\$ .*?)(?:\.venv/bin/)?hypercluster (.*)$", re.M)
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


def typed(page: str) -> Iterator[list[str]]:
    """The arguments of each line of a page that shows a call."""
    for match in SHOWN.finditer(page):
        arguments = shlex.split(match[1], comments=True)
        yield arguments[:-1] if arguments[-1:] == ["&"] else arguments


def complaint(arguments: list[str]) -> str:
    """What the parser says of a whole call; '' when it would run."""
    command: click.Command = cli
    context = click.Context(command)
    try:
        while isinstance(command, click.Group):
            name, found, arguments = command.resolve_command(context, arguments)
            assert found is not None
            command, context = found, click.Context(found, parent=context, info_name=name)
        command.make_context(command.name, list(arguments))
    except click.UsageError as error:
        return error.format_message()
    return ""


def test_every_call_that_a_page_shows_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    pages = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    shown = [arguments for page in pages for arguments in typed(page.read_text(encoding="utf-8"))]
    assert len(shown) > 6
    wrong = {" ".join(arguments): complaint(arguments) for arguments in shown if complaint(arguments)}
    assert not wrong
    assert complaint(["hub", "get", "metadata", "greeting"]) and complaint(["workspace", "log", "demo", "--tail", "3"])


def test_a_command_that_is_not_there_is_noticed() -> None:
    assert missing(["join"]) == "join"
    assert missing(["node", "leave"]) == "leave"
    assert missing(["wal", "inspect", "DATA_DIR"]) == ""


def test_every_command_of_the_list_loads_and_says_what_it_does() -> None:
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None and command.help, name
