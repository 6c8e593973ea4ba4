"""Which paths of a workspace stay on their host: gitignore syntax, matched on the bytes of paths (WS-56).

Owns: `LocalPatterns`, compiled from a workspace's setting, and the patterns of `--local-defaults`.
Never: I/O. The same text gives the same answers on every host: no locale, no Unicode tables, no case folding.
Invariants: the rules are git's (gitignore(5) and its wildmatch), byte for byte: the last pattern that matches wins, and
nothing below a directory that is local is replicated. One answer costs at most names times pattern parts; a line that
can not be meant (an open bracket, two slashes together) matches nothing and is named in `mistakes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

DIRECTORIES_KEPT_MAX: Final = 4_096  # answers remembered for directories

DEFAULTS: Final = b"""\
# Dependencies
node_modules/
.venv/
venv/
vendor/bundle/
.tox/
.nox/
# Build output
/build/
/dist/
/out/
/target/
__pycache__/
*.py[co]
*.egg-info/
*.o
*.a
*.so
*.class
.next/
.nuxt/
.gradle/
# Caches
.cache/
.mypy_cache/
.pytest_cache/
.ruff_cache/
.hypothesis/
.parcel-cache/
.turbo/
.terraform/
# Belongs to one host
.DS_Store
Thumbs.db
*.swp
"""

_CLASSES: Final = {
    b"alnum": b"[0-9A-Za-z]",
    b"alpha": b"[A-Za-z]",
    b"blank": b"[ \\t]",
    b"cntrl": b"[\\x00-\\x1f\\x7f]",
    b"digit": b"[0-9]",
    b"graph": b"[!-~]",
    b"lower": b"[a-z]",
    b"print": b"[ -~]",
    b"punct": b"[!-/:-@\\[-`{-~]",
    b"space": b"[ \\t\\n\\v\\f\\r]",
    b"upper": b"[A-Z]",
    b"xdigit": b"[0-9A-Fa-f]",
}
_BYTES: Final = [bytes([value]) for value in range(256)]
_SLASH: Final = ord("/")


class _MistakeError(ValueError):
    """A line that can match nothing."""


class Mistake(NamedTuple):
    """A line (from 1) that is no pattern, and why."""

    line: int
    words: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """`parts`: one for each name of the path, None for `**`; a rule without a slash has one and looks at the last."""

    keeps: bool  # '!': what matches is replicated after all
    directories_only: bool
    anchored: bool
    parts: tuple[re.Pattern[bytes] | None, ...]

    def matches(self, names: list[bytes], is_directory: bool) -> bool:
        if self.directories_only and not is_directory:
            return False
        if not self.anchored:
            only = self.parts[0]
            return only is None or only.fullmatch(names[-1]) is not None
        return _match(self.parts, names)


class LocalPatterns:
    """See the module. An empty text makes nothing local."""

    def __init__(self, text: bytes = b"") -> None:
        self.text = text
        self.mistakes: list[Mistake] = []
        self._rules: list[_Rule] = []  # the last one first
        self._directories: dict[bytes, bool] = {}
        for number, line in enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            try:
                rule = _compile(line)
            except _MistakeError as error:
                self.mistakes.append(Mistake(number, str(error)))
                continue
            if rule is not None:
                self._rules.insert(0, rule)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def is_local(self, path: bytes, is_directory: bool) -> bool:
        """`path` is relative to the root, without a slash at either end; the root itself is never local."""
        if not path or not self._rules:
            return False
        above, _, _ = path.rpartition(b"/")
        return self._directory_is_local(above) or self._judge(path, is_directory)

    def _directory_is_local(self, path: bytes) -> bool:
        if not path:
            return False
        found = self._directories.get(path)
        if found is None:
            above, _, _ = path.rpartition(b"/")
            found = self._directory_is_local(above) or self._judge(path, True)
            if len(self._directories) >= DIRECTORIES_KEPT_MAX:
                del self._directories[next(iter(self._directories))]
            self._directories[path] = found
        return found

    def _judge(self, path: bytes, is_directory: bool) -> bool:
        names = path.split(b"/")
        for rule in self._rules:
            if rule.matches(names, is_directory):
                return not rule.keeps
        return False


def _match(parts: tuple[re.Pattern[bytes] | None, ...], names: list[bytes]) -> bool:
    """`**` takes any number of names, but at the end at least one. Only the last `**` is ever tried again."""
    part = name = 0
    again = -1
    mark = 0
    while name < len(names):
        here = parts[part] if part < len(parts) else _NOTHING
        if here is None:
            if part == len(parts) - 1:
                return True
            again, mark = part, name
            part += 1
        elif here.fullmatch(names[name]):
            part += 1
            name += 1
        elif again >= 0:
            mark += 1
            part, name = again + 1, mark
        else:
            return False
    return part == len(parts)


def _compile(line: bytes) -> _Rule | None:
    """None for an empty line or a comment."""
    if line.startswith(b"#"):
        return None
    line = _without_trailing_spaces(line.removesuffix(b"\r"))
    if not line:
        return None
    if b"\0" in line:
        raise _MistakeError("it holds a NUL")
    keeps = line.startswith(b"!")
    pattern = line[1:] if keeps else line
    directories_only = pattern.endswith(b"/")
    pattern = pattern.removesuffix(b"/")
    if not pattern:
        raise _MistakeError("there is no pattern")
    anchored = b"/" in pattern
    parts = _parts(pattern.removeprefix(b"/") if anchored else pattern)
    if anchored:
        compiled = tuple(None if part == ["**"] else _part(part) for part in parts)
    else:
        compiled = tuple(_part(part) for part in parts)
    return _Rule(keeps, directories_only, anchored, compiled)


def _without_trailing_spaces(line: bytes) -> bytes:
    end, at = 0, 0
    while at < len(line):
        if line[at : at + 1] == b"\\":
            if at + 1 == len(line):
                return line
            at += 1
            end = at + 1
        elif line[at : at + 1] != b" ":
            end = at + 1
        at += 1
    return line[:end]


_Part = list[bytes | str]  # regular expressions of one byte each, "*" and "**"


def _parts(pattern: bytes) -> list[_Part]:
    """The pattern cut at its slashes. A slash in brackets matches nothing, and cuts nothing."""
    parts: list[_Part] = [[]]
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            stars = len(pattern) - at - len(pattern[at:].lstrip(b"*"))
            parts[-1].append("*" if stars == 1 else "**")
            at += stars
            continue
        if char == b"[":
            regex, at = _bracket(pattern, at)
            parts[-1].append(regex)
            continue
        if char == b"\\":
            at += 1
            char = pattern[at : at + 1]
            if not char:
                raise _MistakeError("it ends with a lone backslash")
            if char != b"/":
                parts[-1].append(re.escape(char))
            else:
                if parts[-1] == ["**"]:  # git lets it take no name only before a plain slash
                    parts.insert(-1, ["*"])
                parts.append([])
        elif char == b"/":
            parts.append([])
        else:
            parts[-1].append(b"." if char == b"?" else re.escape(char))
        at += 1
    if not all(parts):
        raise _MistakeError("two slashes stand together")
    return parts


def _part(part: _Part) -> re.Pattern[bytes]:
    """One name. What stands between two stars is taken where it first occurs, and never again elsewhere: that is always
    right, and keeps a match from taking for ever."""
    pieces: list[bytes] = [b""]
    for token in part:
        if isinstance(token, str):
            pieces.append(b"")
        else:
            pieces[-1] += token
    regex = pieces[0]
    for piece in pieces[1:-1]:
        regex += b"(?>.*?" + piece + b")"
    if len(pieces) > 1:
        regex += b".*" + pieces[-1]
    return re.compile(regex, re.DOTALL)


def _bracket(pattern: bytes, start: int) -> tuple[bytes, int]:
    """The bracket expression at `start` as a regular expression, and where the pattern goes on."""
    at = start + 1
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    chosen: set[int] = set()
    previous: int | None = None
    first = True
    while True:
        char = pattern[at : at + 1]
        if not char:
            raise _MistakeError("a bracket is not closed")
        if char == b"]" and not first:
            break
        first = False
        if char == b"-" and previous is not None and pattern[at + 1 : at + 2] not in (b"", b"]"):
            at, high = _literal(pattern, at + 1)
            chosen.update(range(previous, high + 1))
            previous = None
        elif char == b"[" and pattern[at + 1 : at + 2] == b":" and _class_end(pattern, at) is not None:
            end = _class_end(pattern, at) or 0
            name = pattern[at + 2 : end - 1]
            if name not in _CLASSES:
                raise _MistakeError(f"[:{name.decode('ascii', 'backslashreplace')}:] is no class")
            chosen.update(value for value in range(256) if re.match(_CLASSES[name], _BYTES[value]))
            at, previous = end + 1, None
        else:
            at, previous = _literal(pattern, at)
            chosen.add(previous)
    if negated:
        chosen = set(range(256)) - chosen
    chosen.discard(_SLASH)
    regex = b"[" + b"".join(b"\\x%02x" % value for value in sorted(chosen)) + b"]" if chosen else b"(?!)"
    return regex, at + 1


def _literal(pattern: bytes, at: int) -> tuple[int, int]:
    """(where it goes on, the byte), after a backslash the one behind it."""
    if pattern[at : at + 1] == b"\\":
        at += 1
    if at >= len(pattern):
        raise _MistakeError("a bracket is not closed")
    return at + 1, pattern[at]


def _class_end(pattern: bytes, at: int) -> int | None:
    """Where the ']' of a [:class:] stands; None if what begins there is none."""
    end = pattern.find(b"]", at + 2)
    if end < 0:
        raise _MistakeError("a bracket is not closed")
    return end if end > at + 2 and pattern[end - 1 : end] == b":" else None


_NOTHING: Final = re.compile(b"(?!)")
