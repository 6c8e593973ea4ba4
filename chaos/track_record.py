"""The track record of README.md, and whether each row can be followed (CH-8).

Owns: reading the table, and what is wrong with it.
Never: runs a command; a test does, each by itself, as part of the ordinary suites.
"""

from __future__ import annotations

import re
from pathlib import Path

COLUMNS = 3  # what, found by, command that reproduces it
COMMAND = re.compile(r"`(pytest [^`]+)`")


def rows(text: str) -> list[list[str]]:
    """The cells of each row, without the head."""
    table = text[text.index("## Track record") :]
    table = table.partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def problems(text: str, root: Path) -> list[str]:
    """What keeps a reader from seeing a defect again: an empty cell, no command, a command that finds no test."""
    wrong: list[str] = []
    for row in rows(text):
        if len(row) != COLUMNS or not all(row):
            wrong.append(f"not three cells: {row}")
            continue
        commands = COMMAND.findall(row[2])
        if not commands:
            wrong.append(f"no command: {row[0][:60]}")
        wrong += [words for command in commands if (words := _finds_nothing(command, root))]
    return wrong


def _finds_nothing(command: str, root: Path) -> str:
    target, _, expression = command.removeprefix("pytest ").partition(" -k ")
    path = root / target
    if not path.exists():
        return f"{command}: there is no {target}"
    files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    names = [name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))]
    if not names:
        return f"{command}: no test is there"
    words = [word for word in re.findall(r"\w+", expression) if word not in {"or", "and", "not"}]
    missing = [word for word in words if word not in path.name and not any(word in name for name in names)]
    return f"{command}: no test is called {', '.join(missing)}" if missing else ""
