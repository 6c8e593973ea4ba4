"""Patterns of reservations, by examples and against a matcher that tries everything (WS-45)."""

from __future__ import annotations

import os
import random
import time

import pytest

from hypercluster.limits import DIRECTORY_DEPTH_MAX, PATTERN_WILDCARDS_MAX, RESERVATION_PATTERN_BYTES_MAX
from hypercluster.state_machine.coordination.patterns import Pattern, pattern_fault

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(4)

COVERED = [
    (b"src/main.py", b"src/main.py"),
    (b"src/*.py", b"src/main.py"),
    (b"src/*", b"src/.hidden"),
    (b"src/**", b"src"),
    (b"src/**", b"src/a/b/c"),
    (b"**", b"anything/at/all"),
    (b"**/*.rs", b"main.rs"),
    (b"**/*.rs", b"a/b/main.rs"),
    (b"a/**/z/**/end", b"a/z/z/x/end"),
    (b"m??n.*", b"main."),
    (b"*a*b*", b"xaybz"),
    (b"a**b", b"a-b"),
    (b"[a]\\*", b"[a]\\x"),
    (b"\xff?", b"\xff\xfe"),
]
NOT_COVERED = [
    (b"src/main.py", b"src/main.pyc"),
    (b"src/*.py", b"src/a/main.py"),
    (b"src/*", b"src"),
    (b"src/**", b"srcs/a"),
    (b"src/**/x", b"src/a/y"),
    (b"*ab*ba*", b"aba"),
    (b"a?", b"a"),
    (b"[a]", b"a"),
    (b"A", b"a"),
]


@pytest.mark.req("WS-45")
@pytest.mark.parametrize(("pattern", "path"), COVERED)
def test_a_pattern_covers(pattern: bytes, path: bytes) -> None:
    assert not pattern_fault(pattern)
    assert Pattern(pattern).covers(path.split(b"/"))


@pytest.mark.req("WS-45")
@pytest.mark.parametrize(("pattern", "path"), NOT_COVERED)
def test_a_pattern_does_not_cover(pattern: bytes, path: bytes) -> None:
    assert not Pattern(pattern).covers(path.split(b"/"))


def test_the_root_is_covered_by_any_names_only() -> None:
    assert Pattern(b"**").covers([])
    assert not Pattern(b"*").covers([])


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (b"", "RESERVATION_PATTERN_BYTES_MAX"),
        (b"x" * (RESERVATION_PATTERN_BYTES_MAX + 1), "RESERVATION_PATTERN_BYTES_MAX"),
        (b"/src", "empty name"),
        (b"src/", "empty name"),
        (b"a//b", "empty name"),
        (b"a/../b", "'..'"),
        (b"a\0b", "NUL"),
        (b"?" * (PATTERN_WILDCARDS_MAX + 1), "PATTERN_WILDCARDS_MAX"),
        (b"/".join([b"**"] * (PATTERN_WILDCARDS_MAX + 1)), "PATTERN_WILDCARDS_MAX"),
    ],
)
def test_what_is_no_pattern_is_named(pattern: bytes, words: str) -> None:
    assert words in pattern_fault(pattern)


def covers(pattern: list[bytes], names: list[bytes]) -> bool:
    """By trying everything."""
    if not pattern:
        return not names
    if pattern[0] == b"**":
        return any(covers(pattern[1:], names[skipped:]) for skipped in range(len(names) + 1))
    return bool(names) and fits(pattern[0], names[0]) and covers(pattern[1:], names[1:])


def fits(pattern: bytes, name: bytes) -> bool:
    if not pattern:
        return not name
    if pattern[:1] == b"*":
        return any(fits(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and (pattern[:1] in {b"?", name[:1]}) and fits(pattern[1:], name[1:])


@pytest.mark.req("WS-45")
@pytest.mark.parametrize("seed", SEEDS)
def test_patterns_cover_what_trying_everything_finds(seed: int) -> None:
    draw = random.Random(seed)
    hits = 0
    for _ in range(6_000):
        pattern = [
            draw.choice([b"**", b"".join(draw.choices([b"a", b"b", b"?", b"*"], k=draw.randint(1, 5)))])
            for _ in range(draw.randint(1, 5))
        ]
        names = [bytes(draw.choices(b"ab", k=draw.randint(1, 5))) for _ in range(draw.randint(0, 6))]
        if pattern_fault(b"/".join(pattern)):
            continue
        expected = covers([b"**" if set(name) == {42} and len(name) == 2 else name for name in pattern], names)
        assert Pattern(b"/".join(pattern)).covers(names) == expected, f"seed {seed}: {pattern} over {names}"
        hits += expected
    assert hits > 500


def test_the_worst_pattern_over_the_longest_path_stays_cheap() -> None:
    """CPU time; a matcher that goes back over its choices would not return."""
    worst = Pattern(b"/".join([b"**", b"*a*?a*?a*b"] * 2 + [b"**", b"x"]))
    names = [b"a" * 255] * (DIRECTORY_DEPTH_MAX // 32) + [b"a" * 7] * (DIRECTORY_DEPTH_MAX - 16)
    begun = time.thread_time_ns()
    assert not worst.covers([*names, b"y"])
    assert not worst.covers([*names, b"x"])
    assert time.thread_time_ns() - begun < 1_000_000_000
