"""Every command shows how it is called, and what it shows can be typed (OPS-2)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hypercluster.cli.examples import EXAMPLES
from hypercluster.cli.main import cli
from tests.unit.cli.test_named_commands import complaint


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, f"{path}{name} ")
        else:
            yield path + name, found


def test_every_command_shows_examples_that_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("src", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    there = dict(commands(cli))
    assert set(there) == set(EXAMPLES)
    for path, command in there.items():
        shown = command.get_help(click.Context(command))
        for words in EXAMPLES[path]:
            assert words.startswith(path), words
            assert f"  hypercluster {words}" in shown, path
            assert complaint(shlex.split(words.partition(" < ")[0])) == "", words
    assert complaint(["workspace", "put", "demo"])


def test_every_command_that_answers_does_so_in_json() -> None:
    """But those that run until they are told to end, write a file for machines, or pass a command's own words on."""
    without = {
        path for path, command in commands(cli) if not any(parameter.name == "as_json" for parameter in command.params)
    }
    runs = {"dev", "serve", "worker run"}
    machines = {"workspace proof", "node archive cat", "cluster init"}
    assert without == runs | machines | {"workspace lock run"}
