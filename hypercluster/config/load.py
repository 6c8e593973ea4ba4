"""Reads a configuration and reports every mistake at once (OPS-1).

Owns: the order of sources (later wins: default, TOML file, environment, flags), types, and where a setting stands.
Never: opens a file, decides what a setting does.
Invariants: an unknown section or setting is a mistake; a `Config` that is returned has passed every rule.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypercluster.config.rules import judge
from hypercluster.config.settings import SECTIONS, Config
from hypercluster.errors import HyperClusterError, Outcome

ENVIRONMENT_PREFIX = "HYPERCLUSTER_"


@dataclass(frozen=True, slots=True)
class Mistake:
    """`line` is 0 for what no line of the file says."""

    line: int
    text: str


class ConfigError(HyperClusterError):
    """All mistakes of one configuration."""

    reason = "CONFIG"
    outcome = Outcome.DEFINITELY_NOT

    def __init__(self, source: str, mistakes: list[Mistake]) -> None:
        self.source = source
        self.mistakes = tuple(sorted(mistakes, key=lambda m: (m.line == 0, m.line, m.text)))
        count = len(self.mistakes)
        lines = [f"{source}: {count} mistake{'s' if count != 1 else ''}"]
        labels = [f"line {m.line}" if m.line else "not in it" for m in self.mistakes]
        width = max(len(label) for label in labels)
        lines += [f"  {label.ljust(width)}  {m.text}" for label, m in zip(labels, self.mistakes, strict=True)]
        super().__init__("\n".join(lines))


def load(text: str, source: str, environment: Mapping[str, str], flags: Mapping[str, str]) -> Config:
    """`text` is the TOML; `flags` maps "section.name" to a value as typed. Raises ConfigError with every mistake."""
    mistakes: list[Mistake] = []
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"line (\d+)", str(error))
        raise ConfigError(source, [Mistake(int(where[1]) if where else 1, f"this is not TOML: {error}")]) from None
    lines = locate(text)
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, dict):
            mistakes.append(Mistake(lines.get(section, 0), _unknown(section, SECTIONS, "section")))
            continue
        for name, value in table.items():
            _take(f"{section}.{name}", value, lines.get(f"{section}.{name}", 0), values, mistakes)
    for name, value in _overrides(environment, flags).items():
        lines[name] = 0
        _take(name, value, 0, values, mistakes)
    config = _build(values)
    wrong_already = {m.line for m in mistakes}
    for name, text_of in judge(config):
        line = lines.get(name, 0)
        if line == 0 or line not in wrong_already:
            mistakes.append(Mistake(line, text_of))
    if mistakes:
        raise ConfigError(source, mistakes)
    return config


def locate(text: str) -> dict[str, int]:
    """Line numbers, from 1, of every `section` and `section.name`; keys written as plain TOML, which is all we use."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if table := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            section = table[1]
            found.setdefault(section, number)
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            name = f"{section}.{key[1]}" if section else key[1]
            found.setdefault(name, number)
            found.setdefault(name.split(".")[0], number)
    return found


def _overrides(environment: Mapping[str, str], flags: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for section, kind in SECTIONS.items():
        for f in dataclasses.fields(kind):
            variable = f"{ENVIRONMENT_PREFIX}{section}_{f.name}".upper()
            if variable in environment:
                found[f"{section}.{f.name}"] = environment[variable]
    return {**found, **flags}


def _take(name: str, value: object, line: int, values: dict[str, Any], mistakes: list[Mistake]) -> None:
    """One setting, from TOML (typed) or from the environment or a flag (text)."""
    section, _, key = name.partition(".")
    kind = SECTIONS.get(section)
    default = next((getattr(kind(), f.name) for f in dataclasses.fields(kind) if f.name == key), None) if kind else None
    if kind is None or default is None:
        known = {f"{s}.{f.name}": 0 for s, k in SECTIONS.items() for f in dataclasses.fields(k)}
        mistakes.append(Mistake(line, _unknown(name, known, "setting")))
        return
    try:
        values[name] = _typed(value, default)
    except ValueError as error:
        shown = f'"{value}"' if isinstance(value, str) else value
        mistakes.append(Mistake(line, f"{name} {shown}: {error}"))


def _typed(value: object, default: object) -> object:
    """`value` as the type of `default`, or ValueError saying what is expected."""
    if isinstance(default, bool):
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        return _expect(value, bool, "true or false")
    if isinstance(default, int):
        if isinstance(value, str) and re.fullmatch(r"-?[0-9][0-9_]*", value):
            return int(value)
        if isinstance(value, bool):
            raise ValueError("expected a whole number")
        return _expect(value, int, "a whole number")
    if isinstance(default, tuple):
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise ValueError('expected a list of texts, like ["alice", "bob"]')
    return _expect(value, str, "a text in quotes")


def _expect(value: object, kind: type, words: str) -> object:
    if not isinstance(value, kind):
        raise ValueError(f"expected {words}")
    return value


def _build(values: Mapping[str, Any]) -> Config:
    made = {}
    for section, kind in SECTIONS.items():
        mine = {name.partition(".")[2]: v for name, v in values.items() if name.startswith(f"{section}.")}
        made[section] = kind(**mine)
    return Config(**made)


def _unknown(name: str, known: Mapping[str, object], what: str) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"{name}: no such {what}" + (f"; did you mean {near[0]}?" if near else "")
