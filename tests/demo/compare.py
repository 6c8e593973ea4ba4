"""Are two directories equal? By diff, and by a list of what diff does not look at."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path


def diff(left: Path, right: Path, exclude: str = "") -> list[str]:
    """The lines of `diff -r --no-dereference`."""
    command = ["diff", "-r", "--no-dereference", *([f"--exclude={exclude}"] if exclude else []), str(left), str(right)]
    done = subprocess.run(command, capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    return lines or ([] if done.returncode == 0 else [f"diff exited with {done.returncode}"])


def listing(top: Path, exclude: str = "") -> dict[bytes, tuple[object, ...]]:
    """Path -> kind, mode, size, link target, attributes, mtime, and which names are one file. The top itself is left
    out of it when something is excluded from it, because that moves its time."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    base = os.fsencode(top)
    pending = [b""]
    while pending:
        above = pending.pop()
        for name in sorted(os.listdir(base + above)):
            if not above and exclude and name.startswith(os.fsencode(exclude.rstrip("*"))):
                continue
            path = above + b"/" + name
            status = os.lstat(base + path)
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
            link = os.readlink(base + path) if stat.S_ISLNK(status.st_mode) else b""
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            one = b"" if stat.S_ISDIR(status.st_mode) else first.setdefault(status.st_ino, path)
            found[path] = (oct(status.st_mode), size, link, _attributes(base + path), status.st_mtime_ns, one)
    return found


def _attributes(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((n, os.getxattr(path, n, follow_symlinks=False)) for n in names if n.startswith("user."))


def listing_differences(left: Path, right: Path, exclude: str = "") -> list[str]:
    mine, theirs = listing(left, exclude), listing(right, exclude)
    return [
        f"{os.fsdecode(path)}: {mine.get(path)} and {theirs.get(path)}"
        for path in sorted(mine.keys() | theirs.keys())
        if mine.get(path) != theirs.get(path)
    ]
