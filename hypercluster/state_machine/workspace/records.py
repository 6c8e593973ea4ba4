"""Records and keys of a workspace in Family.TREE.

Owns: how an inode and a workspace header are laid out in bytes, and every key of a workspace.
Invariants: each key of a workspace begins with its 16-byte id, so one scan reads all of it; the first
`HASHED_BYTES` of an inode's body are exactly what its Merkle leaf covers (WS-35), so the body is encoded once;
names stand last in their key, so byte order of keys is byte order of names (WS-16).
Every inode, entry, content page and xattr record is the place of its version (D-18) and then its body.
Never: protocol buffers, whose encoding is not ours to freeze (D-12).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from hypercluster.errors import check
from hypercluster.state_machine import versions
from hypercluster.state_machine.store import Family

ROOT_ID: Final = bytes(16)  # the InodeId of a workspace's root directory
ZERO_HASH: Final = bytes(32)

KIND_FILE: Final = 1
KIND_DIRECTORY: Final = 2
KIND_SYMLINK: Final = 3

PERMISSION_BITS: Final = 0o7777

# Kinds of records, the byte after the workspace id.
HEADER: Final = b"W"
INODE: Final = b"I"
ENTRY: Final = b"E"
XATTR_TABLE: Final = b"A"
XATTR_VALUE: Final = b"V"
PAGE: Final = b"X"  # content pages (content.py)
ORPHAN: Final = b"O"
RECLAIM: Final = b"R"
RECENT: Final = b"B"  # recent.py
RECENT_QUEUE: Final = b"Q"

# Names of workspaces stand under an id no workspace can have.
ALL_NAMES: Final = bytes(16) + b"N"

_U64: Final = Struct(">Q")
_HASHED: Final = Struct(">BHIIIQQqq32s32s")
HASHED_BYTES: Final = _HASHED.size
_UNCHANGING: Final = Struct(">BHIIIQ")  # the hashed part as far as the InodeNo
_COMMON: Final = Struct(">BHIIIQQqq32s32sQQQI")  # the hashed part, then indexes, orphan stamp, xattr bytes
_FILE_TAIL: Final = Struct(">QQQQ")
_DIRECTORY_TAIL: Final = Struct(">16sQ")


# A record that has versions begins with the place of its last one (versions.py); all zero where none are kept.
PLACE_BYTES: Final = versions.PLACE.size
NO_PLACE: Final = versions.NO_PLACE
check(versions.PLACE_AT[Family.TREE] == 0, "versions are found through the places in these records")


def body_of(record: bytes) -> bytes:
    return record[PLACE_BYTES:]


@dataclass(slots=True)
class Inode:
    """A file, directory or symlink. Mutable only inside the turn that loaded it."""

    inode_id: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    nlink: int
    inode_no: int
    size: int
    mtime_ns: int
    ctime_ns: int
    content_digest: bytes = ZERO_HASH
    xattr_digest: bytes = ZERO_HASH
    content_index: int = 0
    metadata_index: int = 0
    orphaned_ns: int = 0  # the stamp that took its last name away; 0 while it has one
    xattr_bytes: int = 0
    # Files: how many extents, how many bytes they map, where their pages begin (0: they stand in `extents`).
    extent_count: int = 0
    mapped_bytes: int = 0
    root_page: int = 0
    next_page: int = 1
    extents: bytes = b""
    # Directories.
    parent: bytes = ROOT_ID
    entry_count: int = 0
    # Symlinks.
    target: bytes = b""
    # The place of its last version; not part of the body. An id is given once, so a new inode has none before it.
    place: bytes = NO_PLACE

    def encode(self) -> bytes:
        common = _COMMON.pack(
            self.kind,
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.inode_no,
            self.size,
            self.mtime_ns,
            self.ctime_ns,
            self.content_digest,
            self.xattr_digest,
            self.content_index,
            self.metadata_index,
            self.orphaned_ns,
            self.xattr_bytes,
        )
        if self.kind == KIND_FILE:
            tail = _FILE_TAIL.pack(self.extent_count, self.mapped_bytes, self.root_page, self.next_page)
            return common + tail + self.extents
        if self.kind == KIND_DIRECTORY:
            return common + _DIRECTORY_TAIL.pack(self.parent, self.entry_count)
        return common + self.target


def decode_inode(inode_id: bytes, record: bytes) -> Inode:
    """From the record, place included."""
    inode = decode_inode_body(inode_id, record[PLACE_BYTES:])
    inode.place = record[:PLACE_BYTES]
    return inode


def decode_inode_body(inode_id: bytes, record: bytes) -> Inode:
    inode = Inode(inode_id, *_COMMON.unpack_from(record))
    at = _COMMON.size
    if inode.kind == KIND_FILE:
        inode.extent_count, inode.mapped_bytes, inode.root_page, inode.next_page = _FILE_TAIL.unpack_from(record, at)
        inode.extents = record[at + _FILE_TAIL.size :]
    elif inode.kind == KIND_DIRECTORY:
        inode.parent, inode.entry_count = _DIRECTORY_TAIL.unpack_from(record, at)
    else:
        check(inode.kind == KIND_SYMLINK, "an inode record has an unknown kind")
        inode.target = record[at:]
    return inode


def kind_and_number(record: bytes) -> tuple[int, int]:
    """The kind and InodeNo of an inode's record, place included: what never changes of it."""
    kind, _, _, _, _, number = _UNCHANGING.unpack_from(record, PLACE_BYTES)
    return kind, number


def decode_hashed(inode_id: bytes, hashed: bytes) -> Inode:
    """An inode of which only the covered part is known (proofs.py)."""
    return Inode(inode_id, *_HASHED.unpack(hashed))


def inode_key(workspace_id: bytes, inode_id: bytes) -> bytes:
    return workspace_id + INODE + inode_id


def entry_key(workspace_id: bytes, directory: bytes, name: bytes) -> bytes:
    return workspace_id + ENTRY + directory + name


def numbered_key(workspace_id: bytes, kind: bytes, number: int) -> bytes:
    return workspace_id + kind + _U64.pack(number)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys that begin with `prefix`, which is not all 0xff."""
    stripped = prefix.rstrip(b"\xff")
    check(bool(stripped), "a key prefix must have an end")
    return stripped[:-1] + bytes([stripped[-1] + 1])


# --- workspace header -----------------------------------------------------------------------------

_HEADER: Final = Struct(">B32sQQQQIIQQQQQQQQQQQQ")
_HEADER_VERSION: Final = 1


@dataclass(slots=True)
class Header:
    """What a workspace is as a whole. Written once an entry; mutable inside the state machine."""

    workspace_id: bytes
    name: str
    org: str
    project: str
    uid: int
    gid: int
    root: bytes = ZERO_HASH
    log_index: int = 0
    raft_index: int = 0
    created_ns: int = 0
    inode_count: int = 0  # with a name, the root directory included
    mapped_bytes: int = 0  # content of those
    orphan_count: int = 0
    chunk_count: int = 0  # present, referenced or not (WS-29)
    chunk_bytes: int = 0
    quota_bytes: int = 0  # 0: none
    quota_nodes: int = 0
    reclaim_first: int = 0
    reclaim_next: int = 0
    recent_first: int = 0
    recent_next: int = 0
    recent_bytes: int = 0
    leaf_count: int = 0  # of the Merkle tree

    def encode(self) -> bytes:
        fixed = _HEADER.pack(
            _HEADER_VERSION,
            self.root,
            self.log_index,
            self.raft_index,
            self.created_ns,
            self.inode_count,
            self.uid,
            self.gid,
            self.mapped_bytes,
            self.orphan_count,
            self.chunk_count,
            self.chunk_bytes,
            self.quota_bytes,
            self.quota_nodes,
            self.reclaim_first,
            self.reclaim_next,
            self.recent_first,
            self.recent_next,
            self.recent_bytes,
            self.leaf_count,
        )
        return fixed + b"".join(_prefixed(text.encode()) for text in (self.org, self.project, self.name))


def decode_header(workspace_id: bytes, record: bytes) -> Header:
    version, root, log_index, raft_index, created_ns, inode_count, uid, gid, *counters = _HEADER.unpack_from(record)
    check(version == _HEADER_VERSION, "a workspace header has an unknown version")
    at, texts = _HEADER.size, []
    for _ in range(3):
        length = record[at]
        texts.append(record[at + 1 : at + 1 + length].decode())
        at += 1 + length
    org, project, name = texts
    return Header(
        workspace_id, name, org, project, uid, gid, root, log_index, raft_index, created_ns, inode_count, *counters
    )


def header_key(workspace_id: bytes) -> bytes:
    return workspace_id + HEADER


def names_prefix(org: str, project: str) -> bytes:
    return ALL_NAMES + _prefixed(org.encode()) + _prefixed(project.encode())


def name_key(org: str, project: str, name: str) -> bytes:
    return names_prefix(org, project) + name.encode()


def _prefixed(text: bytes) -> bytes:
    return bytes([len(text)]) + text
