"""What has to happen on disk to bring a mirror from one log index to a later one, as steps that can run twice.

Owns: the steps, and their encoding in the worker's database, where a plan lies from before its first step until after
its last.
Never: touches a disk, decides what the steps are (planning.py does).
Invariants: a plan runs in stages, in this order, and a stage may be run again from its beginning after a crash:
  detach   names that must make room: files and directories that live on go to the stash, others go away
  place    directories and files take their new names, parents first
  link     further names of files
  content  writes into files that were there before
  metadata owner, attributes, mode and time, of everything touched
Detaching again after placing has begun would take away what was placed, so the end of a detach stage that moves
something is recorded durably (`Plan.detached`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Stash:
    """Move `path` to the stash under `inode_id`, where `Place` finds it."""

    path: bytes
    inode_id: bytes


@dataclass(frozen=True, slots=True)
class Discard:
    """Take `path` away. A directory goes with all that is left in it."""

    path: bytes
    inode_id: bytes
    directory: bool


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    path: bytes
    inode_id: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Give what the stash or the build area holds under `inode_id` the name `path`, replacing a file there."""

    path: bytes
    inode_id: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """Make `path` another name of `existing`."""

    path: bytes
    existing: bytes


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Write the ranges (offset, length) of a file that was there before, from the tree, and set its size."""

    path: bytes
    inode_id: bytes
    size: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Dress:
    """Set owner, attributes, mode and time of `path` as the tree has them."""

    path: bytes
    inode_id: bytes


@dataclass(slots=True)
class Plan:
    """`upto` is the log index the mirror has reached when it is done."""

    upto: int
    detached: bool = False
    detach: list[Stash | Discard] = field(default_factory=list)
    place: list[MakeDirectory | Place] = field(default_factory=list)
    link: list[Link] = field(default_factory=list)
    content: list[Rewrite] = field(default_factory=list)
    metadata: list[Dress] = field(default_factory=list)

    @property
    def moves(self) -> bool:
        """Whether running the detach stage a second time, after others, would do harm."""
        return any(isinstance(step, Stash) or step.directory for step in self.detach)

    @property
    def is_empty(self) -> bool:
        return not (self.detach or self.place or self.link or self.content or self.metadata)

    def encode(self) -> bytes:
        steps = {
            "format": FORMAT,
            "upto": self.upto,
            "detached": self.detached,
            "detach": [
                ["s", _t(s.path), s.inode_id.hex()]
                if isinstance(s, Stash)
                else ["d", _t(s.path), s.inode_id.hex(), s.directory]
                for s in self.detach
            ],
            "place": [["m" if isinstance(s, MakeDirectory) else "p", _t(s.path), s.inode_id.hex()] for s in self.place],
            "link": [[_t(s.path), _t(s.existing)] for s in self.link],
            "content": [[_t(s.path), s.inode_id.hex(), s.size, list(s.ranges)] for s in self.content],
            "metadata": [[_t(s.path), s.inode_id.hex()] for s in self.metadata],
        }
        return json.dumps(steps, separators=(",", ":")).encode()


def decode(encoded: bytes) -> Plan:
    steps: dict[str, Any] = json.loads(encoded)
    plan = Plan(steps["upto"], steps["detached"])
    for step in steps["detach"]:
        if step[0] == "s":
            plan.detach.append(Stash(_b(step[1]), bytes.fromhex(step[2])))
        else:
            plan.detach.append(Discard(_b(step[1]), bytes.fromhex(step[2]), step[3]))
    for kind, path, inode_id in steps["place"]:
        make = MakeDirectory if kind == "m" else Place
        plan.place.append(make(_b(path), bytes.fromhex(inode_id)))
    plan.link = [Link(_b(path), _b(existing)) for path, existing in steps["link"]]
    plan.content = [
        Rewrite(_b(path), bytes.fromhex(inode_id), size, tuple((o, n) for o, n in ranges))
        for path, inode_id, size, ranges in steps["content"]
    ]
    plan.metadata = [Dress(_b(path), bytes.fromhex(inode_id)) for path, inode_id in steps["metadata"]]
    return plan


def _t(path: bytes) -> str:
    """Bytes to text and back without loss, whatever the bytes: one character a byte."""
    return path.decode("latin-1")


def _b(path: str) -> bytes:
    return path.encode("latin-1")
