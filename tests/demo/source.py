"""The tree the demo imports: this project with its git history, libraries it stands on, and a few difficult files.

Everything is copied first, so that nothing changes while it is imported and compared.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BYTES_MAX = 150 << 20
FILE_BYTES_MAX = 8 << 20


def make_source(target: Path, files_max: int) -> int:
    """Fills `target`; returns the number of files."""
    if (ROOT / ".git").exists():
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(target)], check=True)
    else:
        target.mkdir()
        subprocess.run(["git", "init", "--quiet", str(target)], check=True)
    _difficult(target / "difficult")
    return _libraries(target / "libraries", files_max)


def _libraries(target: Path, files_max: int) -> int:
    """Packages by name until the numbers are reached; compiled caches stay behind."""
    packages = Path(sysconfig.get_paths()["purelib"])
    count, size = _measure(target.parent)
    target.mkdir()
    for package in sorted(packages.iterdir()):
        if package.name == "__pycache__":
            continue
        more, more_bytes = _measure(package)
        if count + more > files_max or size + more_bytes > BYTES_MAX:
            continue
        ignore = shutil.ignore_patterns("__pycache__")
        if package.is_dir():
            shutil.copytree(package, target / package.name, symlinks=True, ignore=ignore)
        else:
            shutil.copy2(package, target / package.name)
        count, size = count + more, size + more_bytes
    return _measure(target.parent)[0]


def _measure(top: Path) -> tuple[int, int]:
    if top.is_file():
        return 1, top.stat().st_size
    files = [Path(base) / name for base, _, names in os.walk(top) if "__pycache__" not in base for name in names]
    return len(files), sum(path.lstat().st_size for path in files)


def _difficult(top: Path) -> None:
    top.mkdir()
    (top / "empty").touch()
    (top / "holes").write_bytes(bytes(200_000) + b"end")
    (top / "large").write_bytes(os.urandom(3_000_001))
    (top / "name with spaces and ü").write_text("ü")
    with open(os.fsencode(top) + b"/\xff\xfe not UTF-8", "wb") as file:
        file.write(b"bytes")
    (top / "secret").write_text("mode 0400")
    (top / "secret").chmod(0o400)
    (top / "tool").write_text("#!/bin/sh\n")
    (top / "tool").chmod(0o755)
    (top / "old").write_text("from the past")
    os.utime(top / "old", ns=(1, 123_456_789_012_345_678))
    os.link(top / "tool", top / "the same tool")
    (top / "pointer").symlink_to("tool")
    (top / "dangling").symlink_to("/nowhere/at/all")
    (top / "marked").write_text("has attributes")
    os.setxattr(top / "marked", "user.colour", b"blue")
    os.setxattr(top / "marked", "user.bytes", b"\x00\xff")
    (top / "closed").mkdir()
    (top / "closed" / "inside").write_text("in a directory nobody may write")
    (top / "closed").chmod(0o555)
