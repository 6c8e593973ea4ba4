"""A disk whose power can be cut: an ext4 image on a loop device, and the shutdown call of the file system.

Owns: `PowerDisk`, `cut_all` and `why_not`.
Never: anything outside the directory it is given; root is needed, and `why_not` says so.
Invariants: after `cut_all` nothing more reaches the image, whatever is still in memory: what comes back on the next
mount is what was synced, and perhaps what the kernel had written on its own account.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# linux/fs/ext4: EXT4_IOC_SHUTDOWN; with this flag the journal is not written out either.
EXT4_IOC_SHUTDOWN = 0x8004587D
GOING_FLAGS_NOLOGFLUSH = 2
UNMOUNT_S = 20.0


class PowerDisk:
    def __init__(self, image: Path, place: Path, size_bytes: int) -> None:
        """Becomes a file system at `place`, with what is in that directory now."""
        self.image = image
        self.place = place
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-d", str(place), str(image))

    def mount(self) -> None:
        """Replays the file system's own journal."""
        _run("mount", "-o", "loop", str(self.image), str(self.place))

    def unmount(self) -> None:
        """Nothing may be open on it any more; the processes that are dying need a moment."""
        end = time.monotonic() + UNMOUNT_S
        while os.path.ismount(self.place):
            try:
                _run("umount", str(self.place))
            except AssertionError:
                if time.monotonic() > end:
                    raise

    def remove(self) -> None:
        """Also when something still has it open."""
        if os.path.ismount(self.place):
            _run("umount", "-l", str(self.place))
        self.image.unlink(missing_ok=True)


def cut_all(disks: Sequence[PowerDisk]) -> None:
    """The power of all of them goes within microseconds."""
    with contextlib.ExitStack() as opened:
        descriptors = []
        for disk in disks:
            descriptors.append(os.open(disk.place, os.O_RDONLY | os.O_DIRECTORY))
            opened.callback(os.close, descriptors[-1])
        for descriptor in descriptors:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", GOING_FLAGS_NOLOGFLUSH))


def why_not() -> str:
    """'' if this machine can do it, otherwise the reason for a skip. Tried once, on a disk of its own."""
    needed = "not run: needs root and loop devices"
    if os.geteuid() != 0:
        return needed
    if shutil.which("mkfs.ext4") is None:
        return f"{needed} (there is no mkfs.ext4)"
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "disk"
        place.mkdir()
        try:
            disk = PowerDisk(Path(directory) / "image", place, 8 << 20)
            disk.mount()
        except AssertionError as error:
            return f"{needed} ({error})"
        try:
            cut_all([disk])
        except OSError as error:
            return f"{needed} (the file system can not be shut down: {error})"
        finally:
            disk.unmount()
    return ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr.strip()}"
