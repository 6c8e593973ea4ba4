"""A disk whose power can be cut: an ext4 image on a loop device, and the shutdown call of the file system.

Owns: `PowerDisk`, `cut_all`, `why_not`, and `sweep`: mounts and loop devices that killed processes left behind.
Never: anything outside the directory it is given; root is needed, and `why_not` says so.
Invariants: after `cut_all` nothing more reaches the image, whatever is still in memory: what comes back on the next
mount is what was synced, and perhaps what the kernel had written on its own account. An image is mounted once at a
time: `unmount` returns when its loop device is free, also where a process has a mount namespace of its own that
still shows the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from chaos.cluster.owners import Owned, without_owner

OWNERS: Final = Path("/run/hypercluster-chaos-disks")  # one locked file a disk that is, or was, mounted
# linux/fs/ext4: EXT4_IOC_SHUTDOWN; with this flag the journal is not written out either.
EXT4_IOC_SHUTDOWN = 0x8004587D
GOING_FLAGS_NOLOGFLUSH = 2
UNMOUNT_S = 20.0
LOOK_S = 0.02
COMMAND_S = 120.0


class DiskError(RuntimeError):
    """A command or a call for the disk failed; says which, and what it said."""


class PowerDisk:
    def __init__(self, image: Path, place: Path, size_bytes: int) -> None:
        """Becomes a file system at `place`, with what is in that directory now."""
        self.image = image
        self.place = place
        self._owned = Owned(OWNERS / secrets.token_hex(6))
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-d", str(place), str(image))

    def mount(self) -> None:
        """Replays the file system's own journal."""
        self._owned.take(json.dumps({"image": str(self.image), "place": str(self.place)}))
        try:
            _run("mount", "-o", "loop", str(self.image), str(self.place))
        except DiskError:
            self._owned.release()
            raise

    def is_mounted(self) -> bool:
        return os.path.ismount(self.place)

    def unmount(self) -> None:
        """Nothing may be open on it any more; the processes that are dying need a moment."""
        end = time.monotonic() + UNMOUNT_S
        while self.is_mounted():
            try:
                _run("umount", str(self.place))
            except DiskError:
                if time.monotonic() > end:
                    raise
                time.sleep(LOOK_S)
        while devices := list(_loop_devices(self.image)):
            _unmount_elsewhere(self.place)
            if time.monotonic() > end:
                raise DiskError(f"{self.image} is still held by {', '.join(devices)}")
            time.sleep(LOOK_S)

    def remove(self) -> None:
        """Also when something still has it open."""
        if self.is_mounted():
            _run("umount", "-l", str(self.place))
        _unmount_elsewhere(self.place)
        self.image.unlink(missing_ok=True)
        self._owned.release()

    def free_bytes(self) -> int:
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int) -> None:
        """Takes room until so much is left; with 0, until the file system says that it is full."""
        with self.ballast.open("ab") as ballast:
            step_bytes = max(0, self.free_bytes() - leave_bytes)
            while step_bytes >= 4096:
                try:
                    os.posix_fallocate(ballast.fileno(), os.fstat(ballast.fileno()).st_size, step_bytes)
                except OSError:
                    step_bytes //= 2
                    continue
                step_bytes = min(step_bytes, max(0, self.free_bytes() - leave_bytes))

    def clear(self) -> None:
        """The room is back."""
        self.ballast.unlink(missing_ok=True)

    @property
    def ballast(self) -> Path:
        return self.place / "ballast"


def _loop_devices(image: Path) -> Iterator[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached since it was listed
            if backing.read_text().strip().removesuffix(" (deleted)") == str(image):
                yield backing.parent.parent.name


def _unmount_elsewhere(place: Path) -> None:
    """In the mount namespaces of processes that began while it was mounted: only this very place."""
    own = os.readlink("/proc/self/ns/mnt")
    seen = {own}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # gone since it was listed
            namespace = os.readlink(process / "ns" / "mnt")
            if namespace not in seen and f" {place} " in (process / "mountinfo").read_text():
                seen.add(namespace)
                enter = ["nsenter", "-t", process.name, "-m", "umount", "-l", str(place)]
                subprocess.run(enter, capture_output=True, check=False, timeout=COMMAND_S)


def sweep() -> list[str]:
    """Unmounts the disks of processes that are gone, and gives back their loop devices; the images stay. What still
    runs on one keeps it until it ends. Answers the places."""
    swept: list[str] = []
    for _, said in without_owner(OWNERS):
        try:
            found = json.loads(said)
            image, place = Path(found["image"]), Path(found["place"])
        except (ValueError, KeyError, TypeError):
            continue  # killed before it had said anything: nothing was mounted yet
        devices = list(_loop_devices(image))
        if devices:
            _unmount_elsewhere(place)
            if _source_of(place) in devices:
                _run("umount", "-l", str(place))
            for device in set(_loop_devices(image)).intersection(devices):  # most go with their mount
                detach = ["losetup", "--detach", f"/dev/{device}"]
                subprocess.run(detach, capture_output=True, check=False, timeout=COMMAND_S)
            swept.append(str(place))
    return swept


def _source_of(place: Path) -> str:
    """The name of the device that is mounted there; '' if none is."""
    name = ""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split(" ")
        if fields[4] == str(place):  # the last one lies on top
            name = Path(fields[fields.index("-") + 2]).name
    return name


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
        except DiskError as error:
            return f"{needed} ({error})"
        try:
            cut_all([disk])
        except OSError as error:
            return f"{needed} (the file system can not be shut down: {error})"
        finally:
            disk.unmount()
            disk.remove()
    return ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    if done.returncode != 0:
        raise DiskError(f"{command[0]}: {done.stderr.strip()}")
