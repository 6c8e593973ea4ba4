"""No stale read: whatever one mount has acknowledged, the other one shows after a barrier, whatever its kernel keeps.

Two mounts take turns. One changes something at random; then the other reads the barrier and must show exactly that
tree: by name, by descriptors that were opened before, through a mapping, and what is gone as gone (WS-2, WS-62).
"""

from __future__ import annotations

import mmap
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mount.calls import refusal
from tests.mount.mounts import NEEDS, Mount

pytestmark = NEEDS

BARRIER = "user.hypercluster.barrier"
STEPS = 90
NAMES = [f"n{number}" for number in range(5)]
SIZE_MAX = 3 * mmap.PAGESIZE


@dataclass
class File:
    """As it should be. `held`: a descriptor for each mount, from when it was made until the end."""

    content: bytearray
    mode: int = 0o644
    names: set[str] = field(default_factory=set)
    held: list[int] = field(default_factory=list)


class Tree:
    """The files that should be there, changed through one mount and looked at through both."""

    def __init__(self, rng: random.Random, places: tuple[Path, Path], mounts: tuple[Mount, Mount]) -> None:
        self.rng = rng
        self.places = places
        self.mounts = mounts
        self.files: list[File] = []

    def named(self) -> dict[str, File]:
        return {name: file for file in self.files for name in file.names}

    def change(self, place: Path) -> str:
        """Answers what was done."""
        rng, named = self.rng, self.named()
        name, other = rng.sample(NAMES, 2)
        file = named.get(name)
        if file is None:
            made = File(bytearray(rng.randbytes(rng.randrange(1, SIZE_MAX))), names={name})
            (place / name).write_bytes(made.content)
            self.files.append(made)
            return f"make {name}"
        match rng.randrange(7):
            case 0:
                at, piece = rng.randrange(len(file.content) + 1), rng.randbytes(rng.randrange(1, 500))
                with open(place / name, "r+b", buffering=0) as raw:
                    os.pwrite(raw.fileno(), piece, at)
                file.content[at : at + len(piece)] = piece
                return f"write {name} at {at}"
            case 1:
                size = rng.randrange(SIZE_MAX)
                os.truncate(place / name, size)
                file.content = file.content[:size].ljust(size, b"\0")
                return f"truncate {name} to {size}"
            case 2:
                file.mode = rng.choice([0o600, 0o644, 0o755])
                os.chmod(place / name, file.mode)
                return f"chmod {name}"
            case 3:
                os.unlink(place / name)
                file.names.discard(name)
                return f"unlink {name}"
            case 4 if other not in named:
                os.link(place / name, place / other)
                file.names.add(other)
                return f"link {name} {other}"
            case 5:
                before = os.stat(place / name)  # a change that times and size do not give away
                at = rng.randrange(len(file.content)) if file.content else 0
                with open(place / name, "r+b", buffering=0) as raw:
                    os.pwrite(raw.fileno(), b"!", at)
                file.content[at : at + 1] = b"!"
                os.utime(place / name, ns=(before.st_mtime_ns, before.st_mtime_ns))
                return f"write {name} at {at}, keep its time"
            case _:
                os.rename(place / name, place / other)
                if named.get(other) is not file:
                    if other in named:
                        named[other].names.discard(other)
                    file.names = file.names - {name} | {other}
                return f"rename {name} {other}"

    def hold(self) -> None:
        """Open what is new on both mounts, so that there are pages and attributes to become stale."""
        for file in self.files:
            while file.names and len(file.held) < 2:
                place = self.places[len(file.held)]
                file.held.append(os.open(place / min(file.names), os.O_RDONLY))

    def check(self, number: int) -> None:
        place = self.places[number]
        os.getxattr(self.mounts[number].path, BARRIER)
        named = self.named()
        for name in NAMES:  # before the listing, which would look each of them up anew
            if name not in named:
                assert refusal(os.lstat, place / name) == "ENOENT", name
                continue
            status, file = os.lstat(place / name), named[name]
            found = (status.st_size, status.st_mode & 0o777, status.st_nlink)
            assert found == (len(file.content), file.mode, len(file.names)), name
        assert sorted(os.listdir(place)) == sorted(named)
        for file in self.files:
            if len(file.held) == 2:
                self._check_held(file, file.held[number])

    def _check_held(self, file: File, descriptor: int) -> None:
        status = os.fstat(descriptor)
        assert (status.st_size, status.st_nlink) == (len(file.content), len(file.names))
        assert os.pread(descriptor, SIZE_MAX * 2, 0) == file.content
        if file.content:
            with mmap.mmap(descriptor, len(file.content), mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
                assert mapped[:] == file.content

    def close(self) -> None:
        for file in self.files:
            for descriptor in file.held:
                os.close(descriptor)


@pytest.mark.req("WS-2", "WS-62")
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_nothing_is_stale_behind_a_barrier(seed: int, places: tuple[Path, Path], mounts: tuple[Mount, Mount]) -> None:
    print(f"seed {seed}")
    tree = Tree(random.Random(seed), places, mounts)
    steps: list[str] = []
    try:
        for step in range(STEPS):
            steps.append(f"{step % 2}: {tree.change(places[step % 2])}")
            tree.check(step % 2)
            tree.check(1 - step % 2)
            os.getxattr(mounts[0].path, BARRIER)
            tree.hold()
            if len(tree.files) > 12:
                gone = next(file for file in tree.files if not file.names)
                for descriptor in gone.held:
                    os.close(descriptor)
                tree.files.remove(gone)
    except AssertionError:
        print("\n".join(steps))
        raise
    finally:
        tree.close()
