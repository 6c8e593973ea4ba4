"""What this host says and does about mounts: what is missing for one, what is mounted where, aborting, unmounting.

Owns: the probe that says what to install, the reading of mountinfo, the kernel's abort switch, unmounting as root or
through fusermount3, and the floor under a mount.
Never: touches a file below a mount point, for that may wait for a worker that does not answer; imports libfuse.
Invariant: a directory is named by its real path, found from its parent: looking at the directory itself would be a
question to the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypercluster.errors import TurnedAwayError

DEVICE: Final = Path("/dev/fuse")
CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
FILESYSTEM: Final = "hypercluster"
KINDS: Final = (f"fuse.{FILESYSTEM}", "fuse")  # the second where fusermount3 did without the subtype
SOURCE: Final = f"{FILESYSTEM}:"  # before the workspace's name
FLOOR: Final = "hypercluster-floor"
MNT_DETACH: Final = 2
MS_FLOOR: Final = 1 | 2 | 4 | 8  # read-only, no set-id, no devices, no programs
UNMOUNT_S: Final = 10.0
TREE: Final = "tree"  # in the state directory of a mount, what its live tree keeps
LOCAL: Final = "local"  # and what stays on this host (WS-56)
LOCAL_PATTERNS: Final = "local-patterns"


@dataclass(frozen=True, slots=True)
class Mounted:
    """`connection` is the number under /sys/fs/fuse/connections."""

    directory: str
    source: str
    connection: int


def missing() -> list[str]:
    """What this host lacks for a mount, each with what to do; empty when it has everything."""
    if sys.platform != "linux":
        return ["mounting needs Linux"]
    words: list[str] = []
    if not DEVICE.exists():
        words.append(f"{DEVICE} is missing: load the kernel's module with `modprobe fuse`")
    elif problem := _why_not_opened():
        words.append(
            f"{DEVICE} can not be opened by uid {os.geteuid()} ({problem}): users need `chmod 666 {DEVICE}`, "
            "a container needs the device and CAP_SYS_ADMIN"
        )
    if ctypes.util.find_library("fuse3") is None:
        words.append("libfuse 3 is missing: `apt-get install libfuse3-3` (Debian, Ubuntu), `dnf install fuse3-libs`")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        words.append("fusermount3 is missing, which mounts for users: `apt-get install fuse3`")
    if importlib.util.find_spec("mfusepy") is None:
        words.append("the Python package mfusepy is missing: `pip install mfusepy`")
    return words


def _why_not_opened() -> str:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def real_directory(directory: Path) -> str:
    return os.path.join(os.path.realpath(directory.absolute().parent), directory.absolute().name)


def parse_mountinfo(text: str, kinds: tuple[str, ...] = KINDS, source: str = SOURCE) -> list[Mounted]:
    """Mounts of this product, floors left out, in the order in which they were made. proc(5) has the format."""
    found: list[Mounted] = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind_and_source = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(kind_and_source) < 2 or kind_and_source[0] not in kinds:
            continue
        if not _plain(kind_and_source[1]).startswith(source):
            continue
        found.append(Mounted(_plain(fields[4]), _plain(kind_and_source[1]), int(fields[2].partition(":")[2])))
    return found


def _plain(field: str) -> str:
    """Undoes the octal escapes of mountinfo."""
    raw, at = bytearray(), 0
    encoded = os.fsencode(field)
    while at < len(encoded):
        if encoded[at : at + 1] == b"\\" and encoded[at + 1 : at + 4].isdigit():
            raw.append(int(encoded[at + 1 : at + 4], 8))
            at += 4
        else:
            raw.append(encoded[at])
            at += 1
    return os.fsdecode(bytes(raw))


def find(directory: str) -> Mounted | None:
    """The mount of ours that lies uppermost on `directory`, a real path."""
    return next((m for m in reversed(parse_mountinfo(_mountinfo())) if m.directory == directory), None)


def _mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


def check_free(directory: Path) -> str:
    """The real path of a directory that can be mounted on. Raises TurnedAwayError."""
    real = real_directory(directory)
    there = find(real)
    if there is not None:
        if _answers(real):
            raise TurnedAwayError(f"{directory} is mounted already ({there.source}): hypercluster unmount {directory}")
        detach(real)  # what a worker left behind that was killed together with its watchdog
    remove_floor(real)
    if not os.path.isdir(real):
        raise TurnedAwayError(f"{directory} is not a directory: make it with `mkdir -p {directory}`")
    if os.listdir(real):
        raise TurnedAwayError(f"{directory} is not empty: a mount would hide what is in it")
    return real


def _answers(real: str) -> bool:
    """Whether somebody still serves the mount. Only a connection without a server fails at once."""
    try:
        os.stat(real)
    except OSError as error:
        return error.errno not in {errno.ENOTCONN, errno.ECONNABORTED}
    return True


# --- under the mount ------------------------------------------------------------------------------


def lay_floor(real: str) -> bool:
    """An empty read-only file system under the mount: while a killed worker is being replaced nobody can write into the
    directory beneath, where it would be hidden a moment later. Root's alone; False where it can not be had."""
    if os.geteuid() != 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    answer: int = libc.mount(FLOOR.encode(), os.fsencode(real), b"tmpfs", MS_FLOOR, b"size=4k,mode=555")
    return answer == 0


def remove_floor(real: str) -> None:
    for mounted in parse_mountinfo(_mountinfo(), ("tmpfs",), FLOOR):
        if mounted.directory == real:
            detach(real)


# --- ending a mount -------------------------------------------------------------------------------


def show_connections() -> None:
    """Mounts the kernel's control file system where it is not, so that a connection can be aborted. Root's alone."""
    if os.geteuid() == 0 and CONNECTIONS.is_dir() and not os.path.ismount(CONNECTIONS):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mount(b"fusectl", os.fsencode(CONNECTIONS), b"fusectl", 0, None)


def abort(connection: int) -> bool:
    """Whoever waits for the connection gets an error at once. False where the kernel does not let us; then it is
    aborted when the last process that serves it is gone."""
    try:
        (CONNECTIONS / str(connection) / "abort").write_text("1")
    except OSError:
        return False
    return True


def detach(real: str) -> None:
    """Takes the mount out of sight, whoever uses it. Nothing happens if there is none."""
    with contextlib.suppress(OSError, TurnedAwayError):
        _unmount(real, lazily=True)


def unmount(real: str) -> None:
    """Raises TurnedAwayError if somebody uses it."""
    _unmount(real, lazily=False)


def _unmount(real: str, *, lazily: bool) -> None:
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(real), MNT_DETACH if lazily else 0) != 0:
            number = ctypes.get_errno()
            if number == errno.EBUSY:
                raise TurnedAwayError(f"{real} is in use: leave it, or take it away with --force")
            raise OSError(number, os.strerror(number), real)
        return
    command = ["fusermount3", "-u", *(["-z"] if lazily else []), "--", real]
    done = subprocess.run(command, capture_output=True, timeout=UNMOUNT_S, check=False, text=True)
    if done.returncode != 0:
        raise TurnedAwayError(f"{real} is not unmounted: {done.stderr.strip()}")
