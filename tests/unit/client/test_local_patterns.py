"""Local patterns against git itself, and against their own words (WS-56).

HYPERCLUSTER_SEED=n replays one seed.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from hypercluster.client.local_patterns import DEFAULTS, DIRECTORIES_KEPT_MAX, LocalPatterns
from hypercluster.limits import LOCAL_PATTERNS_BYTES_MAX

SEED = int(os.environ.get("HYPERCLUSTER_SEED", "5"))
ROUNDS = 24
TOKENS = [
    *[b"a", b"b", b"c", b"ab", b".o", b"*", b"**", b"?", b"/", b"/", b"!", b"#", b" ", b"\\ ", b"\\*", b"\\", b"\\/"],
    *[b"[ab]", b"[!a]", b"[^b]", b"[a-c]", b"[]a]", b"[a\\]b]", b"[[:alpha:]]", b"[a-]", b"[", b"[a/b]", b"-", b"]"],
    *[b"\xc3\xa9", b"\xff", b"[\xc0-\xff]", b"\r", b"[[:x:]]", b"[[:]a]", b"**/", b"/**"],
]
NAMES = [b"a", b"b", b"c", b"*", b".o", b" ", b"#", b"!", b"]", b"-", b"[", b"\\", b"\xc3\xa9", b"\xff"]


def by_git(site: Path, patterns: bytes, paths: list[bytes]) -> set[bytes]:
    """Git takes a path for a directory if one is there."""
    (site / ".gitignore").write_bytes(patterns)
    done = subprocess.run(
        ["git", "-c", "core.ignoreCase=false", "check-ignore", "--no-index", "-z", "--stdin"],
        cwd=site,
        input=b"\0".join(paths) + b"\0",
        capture_output=True,
        check=False,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
    )
    assert done.returncode in (0, 1), done.stderr
    return set(done.stdout.split(b"\0")) - {b""}


@pytest.mark.req("WS-56")
@pytest.mark.skipif(shutil.which("git") is None, reason="git is the other opinion")
def test_the_rules_are_those_of_git(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    sites = {is_directory: tmp_path / str(is_directory) for is_directory in (False, True)}
    for site in sites.values():
        subprocess.run(["git", "init", "-q", str(site)], check=True)
    matched = 0
    for round_number in range(ROUNDS):
        lines = [b"".join(draw.choices(TOKENS, k=draw.randint(1, 5))) for _ in range(draw.randint(1, 5))]
        # Two slashes together are a mistake to us; what git makes of them depends on what stands before.
        lines = [line for line in lines if b"//" not in line.replace(b"\\/", b"/")]
        text = b"\n".join(lines)
        paths = [
            b"/".join(b"".join(draw.choices(NAMES, k=draw.randint(1, 2))) for _ in range(draw.randint(1, 4)))
            for _ in range(60)
        ]
        patterns = LocalPatterns(text)
        for is_directory in (False, True):
            if is_directory:
                for path in paths:
                    os.makedirs(os.path.join(os.fsencode(sites[True]), path), exist_ok=True)
            theirs = by_git(sites[is_directory], text, paths)
            ours = {path for path in paths if patterns.is_local(path, is_directory)}
            assert ours == theirs, f"seed {SEED}, round {round_number}: {text!r} {ours ^ theirs!r}"
            matched += len(ours)
    assert matched > ROUNDS * 4


@pytest.mark.req("WS-56")
@pytest.mark.parametrize(
    ("text", "local", "replicated"),
    [
        (b"build/", [b"build/", b"build/x", b"a/build/", b"a/build/x/y"], [b"build", b"builds/"]),
        (b"/build", [b"build", b"build/", b"build/x"], [b"a/build"]),
        (b"*.o\n!keep.o", [b"x.o", b"d/x.o"], [b"keep.o", b"d/keep.o", b"x.oo"]),
        (b"d/\n!d/keep", [b"d/keep", b"d/"], [b"d"]),
        (b"d/*\n!d/keep", [b"d/x", b"d/x/keep"], [b"d/keep", b"d/", b"d/keep/x"]),
        (b"*.o\n!/src", [b"src/x.o"], [b"src/"]),
        (b"a/**/z", [b"a/z", b"a/b/z", b"a/b/c/z"], [b"z", b"a/b"]),
        (b"a/**", [b"a/b", b"a/b/c"], [b"a/"]),
        (b"caf\xc3\xa9\n\xff?", [b"caf\xc3\xa9", b"\xffx"], [b"\xff", b"\xff\xc3\xa9", b"cafe"]),
        (b"# a\n\n\\#a\n\\!b\nx \ny\\ ", [b"#a", b"!b", b"x", b"y "], [b"a", b"b", b"y"]),
        (b"", [], [b"a", b""]),
        (b"*", [b"a", b"a/b"], [b""]),
    ],
)
def test_what_is_local(text: bytes, local: list[bytes], replicated: list[bytes]) -> None:
    patterns = LocalPatterns(text)
    for path in local:
        assert patterns.is_local(path.removesuffix(b"/"), path.endswith(b"/")), path
    for path in replicated:
        assert not patterns.is_local(path.removesuffix(b"/"), path.endswith(b"/")), path


@pytest.mark.req("WS-56")
def test_a_line_that_can_match_nothing_is_named() -> None:
    text = b"good\n[a\n!\n/\nx\\\na//b\n[[:nothing:]]\nnul\0\n# comment\n"
    patterns = LocalPatterns(text)
    assert [mistake.line for mistake in patterns.mistakes] == [2, 3, 4, 5, 6, 7, 8]
    assert all(mistake.words for mistake in patterns.mistakes)
    assert patterns.is_local(b"good", False) and not LocalPatterns(b"").mistakes


@pytest.mark.req("WS-56")
def test_the_defaults_name_what_a_build_leaves() -> None:
    patterns = LocalPatterns(DEFAULTS)
    assert not patterns.mistakes and len(DEFAULTS) < LOCAL_PATTERNS_BYTES_MAX
    for path in (b"node_modules", b"a/node_modules", b".venv", b"target", b"x/__pycache__", b".mypy_cache"):
        assert patterns.is_local(path, True), path
    for path in (b"a/x.pyc", b"lib/x.so"):
        assert patterns.is_local(path, False), path
    for path in (b"src", b"src/build", b"docs", b".git", b"src/target"):
        assert not patterns.is_local(path, True), path


@pytest.mark.req("WS-56")
def test_no_pattern_takes_for_ever_and_what_is_remembered_is_bounded() -> None:
    hard = LocalPatterns(b"*a" * 40 + b"b\n" + b"**/*a*a*a*a/" * 40 + b"b")
    began_s = time.monotonic()
    assert not hard.is_local(b"/".join([b"a" * 250] * 16), False)
    assert time.monotonic() - began_s < 2.0
    patterns = LocalPatterns(b"x/")
    for number in range(DIRECTORIES_KEPT_MAX + 50):
        assert not patterns.is_local(b"%d/y" % number, False)
    assert len(patterns._directories) == DIRECTORIES_KEPT_MAX
    assert patterns.is_local(b"x/y", False)
