"""Patterns of paths, as reservations have them (WS-45): bytes, from the root, total and bounded.

Owns: what a pattern may look like and which paths it covers. '/' separates names; '*' stands for any bytes within a
name, '?' for one; a name that is '**' stands for any number of names, none included. Everything else is itself.
Never: normalisation, case, escapes, or a library's idea of a pattern: the answer is replicated.
Invariants: between two '**' the names are matched at the first place where they fit, and within a name the parts
between two '*' likewise; that is exact, because a later place never lets more of the rest fit. So the work is bounded
by the product of a pattern's wildcards (PATTERN_WILDCARDS_MAX), the path's names and their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypercluster.limits import PATTERN_WILDCARDS_MAX, RESERVATION_PATTERN_BYTES_MAX

_ANY_NAMES: Final = b"**"
_Name = bytes | tuple[bytes, ...]  # a name as it is, or the parts between its '*'


def pattern_fault(pattern: bytes) -> str:
    """Why these bytes are no pattern, or ''."""
    if not 1 <= len(pattern) <= RESERVATION_PATTERN_BYTES_MAX:
        return f"is {len(pattern)} bytes, limit RESERVATION_PATTERN_BYTES_MAX is 1 to {RESERVATION_PATTERN_BYTES_MAX}"
    if b"\0" in pattern:
        return "holds NUL, which no name has"
    names = pattern.split(b"/")
    if any(name in {b"", b".", b".."} for name in names):
        return "begins or ends with '/', or holds an empty name, '.' or '..': it is a path from the root"
    wildcards = sum(1 if name == _ANY_NAMES else name.count(b"*") + name.count(b"?") for name in names)
    if wildcards > PATTERN_WILDCARDS_MAX:
        return f"holds {wildcards} wildcards, limit PATTERN_WILDCARDS_MAX is {PATTERN_WILDCARDS_MAX}"
    return ""


class Pattern:
    """A pattern without a fault, taken apart."""

    __slots__ = ("_runs",)

    def __init__(self, pattern: bytes) -> None:
        runs: list[list[_Name]] = [[]]  # the names between two '**'
        for name in pattern.split(b"/"):
            if name == _ANY_NAMES:
                runs.append([])
            else:
                runs[-1].append(tuple(name.split(b"*")) if b"*" in name or b"?" in name else name)
        self._runs = runs

    def covers(self, names: Sequence[bytes]) -> bool:
        """Whether the path with these names from the root matches."""
        runs = self._runs
        first, last = runs[0], runs[-1]
        if len(runs) == 1:
            return len(names) == len(first) and _fits(first, names, 0)
        at, end = len(first), len(names) - len(last)
        if at > end or not _fits(first, names, 0) or not _fits(last, names, end):
            return False
        for run in runs[1:-1]:
            while not (at + len(run) <= end and _fits(run, names, at)):
                at += 1
                if at + len(run) > end:
                    return False
            at += len(run)
        return True


def _fits(run: Sequence[_Name], names: Sequence[bytes], at: int) -> bool:
    for position, wanted in enumerate(run, at):
        name = names[position]
        if name != wanted if isinstance(wanted, bytes) else not _name_fits(wanted, name):
            return False
    return True


def _name_fits(parts: tuple[bytes, ...], name: bytes) -> bool:
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return len(name) == len(first) and _part_at(first, name, 0)
    at, end = len(first), len(name) - len(last)
    if at > end or not _part_at(first, name, 0) or not _part_at(last, name, end):
        return False
    for part in parts[1:-1]:
        at = _find_part(part, name, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def _part_at(part: bytes, name: bytes, at: int) -> bool:
    if b"?" not in part:
        return name.startswith(part, at)
    # The literal stretches between the '?' must stand at their places.
    for stretch in part.split(b"?"):
        if not name.startswith(stretch, at):
            return False
        at += len(stretch) + 1
    return True


def _find_part(part: bytes, name: bytes, at: int, end: int) -> int:
    """The first place from `at` on where the part fits and ends at or before `end`; -1 for none."""
    if b"?" not in part:
        return name.find(part, at, end)
    for place in range(at, end - len(part) + 1):
        if _part_at(part, name, place):
            return place
    return -1
