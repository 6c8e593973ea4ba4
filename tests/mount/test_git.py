"""git on a mount: lock files, renames, mappings, packs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.mounts import NEEDS, within

pytestmark = NEEDS

IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
}  # fmt: skip


def git(place: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=place, env={**os.environ, **IDENTITY}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@pytest.mark.req("WS-22", "WS-62")
def test_a_session_of_git(places: tuple[Path, Path]) -> None:
    a, b = places
    git(a, "init", "-q", "-b", "main")
    for number in range(6):
        (a / f"f{number}").write_text(f"{number}\n" * 100)
    git(a, "add", ".")
    git(a, "commit", "-qm", "one")
    git(a, "checkout", "-qb", "side")
    (a / "f1").write_text("changed\n")
    git(a, "commit", "-qam", "two")
    git(a, "checkout", "-q", "main")
    assert (a / "f1").read_text().startswith("1\n")
    git(a, "merge", "-q", "side")
    git(a, "gc", "-q")
    assert git(a, "status", "--porcelain") == "" and git(a, "fsck", "--strict") == ""
    head = git(a, "rev-parse", "HEAD")
    within(lambda: git(b, "rev-parse", "HEAD") == head, "the other host has the commit")
    assert git(b, "fsck", "--strict") == "" and git(b, "log", "--format=%s").split() == ["two", "one"]
    (b / "f2").write_text("from the other host\n")
    git(b, "commit", "-qam", "three")
    within(lambda: git(a, "log", "-1", "--format=%s").strip() == "three", "and back")
    assert git(a, "status", "--porcelain") == ""
