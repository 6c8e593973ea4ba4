"""The configuration a data directory begins with (CL-15): the members of a new cluster, or of the one it joins.

Owns: DATA/founding.
Never: changed after it was made. Later configurations are entries of the log (QUO-1), and a checkpoint carries its
own. A new cluster's is what the log's index 0 means. A directory that joins holds the configuration that made it a
member, with the index of its entry: older ones in the log would name peers and incarnations that are gone.
Invariants: the file appears whole or not at all; every founding member's directory holds the same members; the last
line is the CRC-32C of all before it. Format 1 is a new cluster's; format 2 has the index, and learners that ask for
promotion.
"""

from __future__ import annotations

import os
import re
from typing import Final

from google_crc32c import value as crc32c

from hypercluster.errors import REJOIN, DamagedError, WrongDirectoryError
from hypercluster.storage.disk import Disk
from hypercluster.values import NO_INDEX, Incarnation, Index, Member, Membership, NodeId, Suffrage

FOUNDING_NAME: Final = "founding"
FOUNDING_BYTES_MAX: Final = 16_384
_TEMPORARY_NAME: Final = "founding.tmp"
_FIRST_LINES: Final = ("hypercluster founding members, format: 1", "hypercluster founding members, format: 2")
_INDEX: Final = re.compile(r"index: ([1-9][0-9]{0,18})")
_MEMBER: Final = re.compile(r"member: (\S+) ([0-9a-f]{32}) (\S+) (voter|learner)(,promote)?")


def create_founding(disk: Disk, directory: str, membership: Membership) -> None:
    """Beside an identity just made. Raises WrongDirectoryError when there is one already."""
    path = os.path.join(directory, FOUNDING_NAME)
    if disk.exists(path):
        raise WrongDirectoryError(f"{directory} is founded already: start the node with it")
    temporary = os.path.join(directory, _TEMPORARY_NAME)
    if disk.exists(temporary):
        disk.unlink(temporary)
    file = disk.open(temporary, create=True)
    try:
        file.pwrite(render(membership), 0)
        file.fsync()
    finally:
        file.close()
    disk.rename(temporary, path)
    disk.fsync_dir(directory)


def load_founding(disk: Disk, directory: str) -> Membership:
    """Raises WrongDirectoryError when `init` did not get this far, DamagedError when it does not verify."""
    path = os.path.join(directory, FOUNDING_NAME)
    if not disk.exists(path):
        raise WrongDirectoryError(
            f"{directory} has an identity and no founding members: its making was interrupted, or it lost a part. A "
            f"cluster that never ran is made again with `hypercluster cluster init`. {REJOIN}"
        )
    file = disk.open(path)
    try:
        content = file.pread(FOUNDING_BYTES_MAX + 1, 0)
    finally:
        file.close()
    return parse(content, path)


def render(membership: Membership) -> bytes:
    lines = [_FIRST_LINES[membership.index > NO_INDEX], f"voters: {membership.configured_voters}"]
    if membership.index > NO_INDEX:
        lines += [f"index: {membership.index}"]
    for member in membership.members:
        suffrage = member.suffrage.name.lower() + (",promote" if member.promote else "")
        lines.append(f"member: {member.node_id} {member.incarnation.hex()} {member.address} {suffrage}")
    body = ("\n".join(lines) + "\n").encode("ascii")
    return body + f"crc32c: {crc32c(body):08x}\n".encode("ascii")


def parse(content: bytes, path: str) -> Membership:
    """`path` is for messages."""
    damaged = DamagedError(
        f"{path} is damaged. It is the same on every founding member of the cluster that never rejoined, so it can be "
        f"copied from there. {REJOIN}"
    )
    try:
        lines = content.decode("ascii").splitlines()
        if lines[0] not in _FIRST_LINES or len(content) > FOUNDING_BYTES_MAX:
            raise damaged
        voters = int(lines[1].removeprefix("voters: "))
        joined = lines[0] == _FIRST_LINES[1]
        found = _INDEX.fullmatch(lines[2]) if joined else None
        if joined and found is None:
            raise damaged
        index = Index(int(found[1])) if found is not None else NO_INDEX
        members = tuple(_member(line) for line in lines[2 + joined : -1])
    except (ValueError, IndexError) as error:
        raise damaged from error
    membership = Membership(index, voters, members)
    if render(membership) != content:
        raise damaged
    return membership


def _member(line: str) -> Member:
    found = _MEMBER.fullmatch(line)
    if found is None:
        raise ValueError(line)
    suffrage = Suffrage[found[4].upper()]
    return Member(NodeId(found[1]), Incarnation(bytes.fromhex(found[2])), found[3], suffrage, found[5] is not None)
