"""Which chunks a workspace and its organisation have, and who may refer to them (WS-14, WS-29, WS-32, WS-33).

Owns: the records of Family.CHUNKS, their counts, and the verdict "this chunk is present for this sender".
Records: per (workspace, chunk) how many extents refer to it, its length, the stamp it was last sent or written at
(a chunk without references stays for 60 s after it, and then until collected), and between which log_indexes extents
referred to it; per (workspace, chunk, sender) that the sender has sent it; per (organisation, chunk) how many
workspaces have it, as its bytes are stored once.
Invariants: a chunk is present for a sender only if an extent of the same workspace refers to it or this sender has sent
it: to know a hash gives neither its content nor the fact that it exists elsewhere. Each state between `born` and `died`
that holds an extent of the chunk lies in that span; it only ever widens. What is removed is decided by retention.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from struct import Struct
from typing import Final, NamedTuple

from blake3 import blake3

from hypercluster.errors import check
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.records import Header, prefix_end

HASH_BYTES: Final = 32

_CHUNKS: Final = Family.CHUNKS  # a look into an enumeration is to be felt where every operation passes

_OF_WORKSPACE: Final = b"w"
_OF_SENDER: Final = b"s"
_OF_ORGANISATION: Final = b"o"
_ACCOUNT: Final = b"q"

_PRESENCE: Final = Struct(">QIQQQ")
_PRESENCE_WITHOUT_SPAN: Final = Struct(">QIQ")  # as it was written before snapshots
_ORGANISATION_CHUNK: Final = Struct(">QI")
_ORGANISATION: Final = Struct(">QQQQQ")
_STAMP: Final = Struct(">Q")


class Presence(NamedTuple):
    """A chunk of a workspace. `touched_ns`: when it was last sent or written, or lost a reference.

    The trees that hold it are among those after the operations `born` to `died` - 1: `born` is the log_index that
    referred to it first (0: none did yet), `died` the one that ended its last reference (0: while it has some)."""

    references: int
    length: int
    touched_ns: int
    born: int = 0
    died: int = 0


_presence_of = partial(tuple.__new__, Presence)  # without a call of Python code


def decode_presence(record: bytes) -> Presence:
    if len(record) == _PRESENCE.size:
        return _presence_of(_PRESENCE.unpack(record))
    references, length, touched_ns = _PRESENCE_WITHOUT_SPAN.unpack(record)
    return Presence(references, length, touched_ns, 1, 0 if references else 1)


class Account(NamedTuple):
    """What an organisation holds, over all its workspaces, and what it may hold (0: no quota)."""

    chunk_count: int = 0
    chunk_bytes: int = 0
    inode_count: int = 0
    quota_bytes: int = 0
    quota_nodes: int = 0


def presence_key(workspace_id: bytes, chunk_hash: bytes) -> bytes:
    return _OF_WORKSPACE + workspace_id + chunk_hash


def sender_prefix(workspace_id: bytes, chunk_hash: bytes) -> bytes:
    """Keys of Family.CHUNKS that begin so say who has sent the chunk."""
    return _OF_SENDER + workspace_id + chunk_hash


def present_chunks(reader: Reader, workspace_id: bytes, after: bytes = b"") -> Iterator[tuple[bytes, Presence]]:
    """Chunks of the workspace in order of their hashes, from the one after `after`."""
    prefix = _OF_WORKSPACE + workspace_id
    for key, record in reader.scan(_CHUNKS, prefix + after + (b"\0" if after else b""), prefix_end(prefix)):
        yield key[len(prefix) :], decode_presence(record)


def organisation_id(org: str) -> bytes:
    return blake3(org.encode()).digest()[:16]


def sender_id(worker: str, principal: str) -> bytes:
    """Who sent a chunk: the worker that vouches, or the principal where there is none (D-19)."""
    text = b"w" + worker.encode() if worker else b"p" + principal.encode()
    return blake3(text).digest()[:16]


def read_presence(reader: Reader, workspace_id: bytes, chunk_hash: bytes) -> Presence | None:
    record = reader.get(_CHUNKS, _OF_WORKSPACE + workspace_id + chunk_hash)
    return None if record is None else decode_presence(record)


def read_account(reader: Reader, org: str) -> Account:
    record = reader.get(_CHUNKS, _ACCOUNT + organisation_id(org))
    return Account() if record is None else Account._make(_ORGANISATION.unpack(record))


def account_change(org: str, account: Account) -> tuple[bytes, bytes]:
    """Key and record of an organisation's account in Family.CHUNKS."""
    return _ACCOUNT + organisation_id(org), _ORGANISATION.pack(*account)


def read_workspaces_with(reader: Reader, org: str, chunk_hash: bytes) -> int:
    """In how many workspaces of the organisation the chunk is present."""
    record = reader.get(_CHUNKS, _OF_ORGANISATION + organisation_id(org) + chunk_hash)
    return 0 if record is None else int(_ORGANISATION_CHUNK.unpack(record)[0])


def organisations(reader: Reader) -> list[bytes]:
    """The ids of all organisations that ever had a chunk."""
    return [key[len(_ACCOUNT) :] for key, _ in reader.scan(_CHUNKS, _ACCOUNT, prefix_end(_ACCOUNT))]


def is_held(reader: Reader, owners: Iterable[bytes], chunk_hash: bytes) -> bool:
    """Whether any workspace of these organisations has the chunk, so that its bytes are needed (CL-8)."""
    return any(reader.get(_CHUNKS, _OF_ORGANISATION + owner + chunk_hash) is not None for owner in owners)


def visible_presence(reader: Reader, workspace_id: bytes, chunk_hash: bytes, sender: bytes) -> Presence | None:
    """The chunk as far as `sender` may know of it (WS-14)."""
    presence = read_presence(reader, workspace_id, chunk_hash)
    if presence is None or presence.references > 0:
        return presence
    sent = reader.get(_CHUNKS, _OF_SENDER + workspace_id + chunk_hash + sender)
    return None if sent is None else presence


class OrganisationAccount:
    """The account of one organisation while an entry is judged; its workspaces share it."""

    __slots__ = ("account", "changed", "org")

    def __init__(self, reader: Reader, org: str) -> None:
        self.org = org
        self.account = read_account(reader, org)
        self.changed = False

    def charge(self, chunks: int, length: int, inodes: int) -> None:
        count, size, nodes, quota_bytes, quota_nodes = self.account
        self.account = Account(count + chunks, size + length, nodes + inodes, quota_bytes, quota_nodes)
        self.changed = True

    def flush(self, overlay: Overlay) -> None:
        if self.changed:
            self.changed = False
            overlay.put(_CHUNKS, *account_change(self.org, self.account))


class ChunkLedger:
    """Chunk records of one workspace, changed through the overlay; counts are kept in its header."""

    __slots__ = ("_header", "_organisation", "_overlay", "_prefix", "account")

    def __init__(self, overlay: Overlay, header: Header, account: OrganisationAccount) -> None:
        self._overlay = overlay
        self._header = header
        self._prefix = _OF_WORKSPACE + header.workspace_id
        self._organisation = _OF_ORGANISATION + organisation_id(header.org)
        self.account = account

    def presence(self, chunk_hash: bytes) -> Presence | None:
        record = self._overlay.get(_CHUNKS, self._prefix + chunk_hash)
        return None if record is None else decode_presence(record)

    def send(self, chunk_hash: bytes, length: int, stamp_ns: int, sender: bytes) -> bool:
        """A chunk that `sender` has sent ahead of the operation that needs it. True if it is new here."""
        key = _OF_SENDER + self._header.workspace_id + chunk_hash + sender
        self._overlay.put(_CHUNKS, key, _STAMP.pack(stamp_ns))
        presence = self.presence(chunk_hash)
        self.settle(chunk_hash, presence, 0, length, stamp_ns, 0)
        return presence is None

    def settle(
        self, chunk_hash: bytes, presence: Presence | None, change: int, length: int, stamp_ns: int, log_index: int
    ) -> None:
        """References made and ended by the command that is `log_index`, which brought the chunk along if it was not
        present."""
        references, born, died = change, 0, 0
        if presence is not None:
            references += presence.references
            length, born, died = presence.length, presence.born, presence.died
        check(references >= 0 and length > 0, "chunk references must add up")
        if references:
            born, died = born or log_index, 0
        elif change:
            died = log_index
        record = _PRESENCE.pack(references, length, stamp_ns, born, died)
        self._overlay.put(_CHUNKS, self._prefix + chunk_hash, record)
        if presence is None:
            self._enter(chunk_hash, length)

    def remove(self, chunk_hash: bytes, length: int, senders: Iterable[bytes]) -> None:
        """The chunk is absent from here on: presence, who sent it, and its place in the organisation's account.
        `senders` are the keys of its sender records."""
        self._overlay.delete(_CHUNKS, self._prefix + chunk_hash)
        for key in senders:
            self._overlay.delete(_CHUNKS, key)
        self._header.chunk_count -= 1
        self._header.chunk_bytes -= length
        key = self._organisation + chunk_hash
        record = self._overlay.get(_CHUNKS, key)
        workspaces = _ORGANISATION_CHUNK.unpack(record)[0] if record else 0
        check(workspaces > 0, "a chunk of a workspace is one of its organisation")
        if workspaces > 1:
            self._overlay.put(_CHUNKS, key, _ORGANISATION_CHUNK.pack(workspaces - 1, length))
        else:
            self._overlay.delete(_CHUNKS, key)
            self.account.charge(-1, -length, 0)

    def _enter(self, chunk_hash: bytes, length: int) -> None:
        """The chunk is new in the workspace, and perhaps in its organisation."""
        self._header.chunk_count += 1
        self._header.chunk_bytes += length
        key = self._organisation + chunk_hash
        record = self._overlay.get(_CHUNKS, key)
        workspaces = _ORGANISATION_CHUNK.unpack(record)[0] if record else 0
        self._overlay.put(_CHUNKS, key, _ORGANISATION_CHUNK.pack(workspaces + 1, length))
        if not workspaces:
            self.account.charge(1, length, 0)

    def exceeds(self, new_bytes: int, new_inodes: int) -> bool:
        """Whether so much more would pass a quota of the workspace or its organisation (WS-29)."""
        header, account = self._header, self.account.account
        if header.quota_bytes and new_bytes and header.chunk_bytes + new_bytes > header.quota_bytes:
            return True
        if header.quota_nodes and new_inodes and header.inode_count + new_inodes > header.quota_nodes:
            return True
        if account.quota_bytes and new_bytes and account.chunk_bytes + new_bytes > account.quota_bytes:
            return True
        return bool(account.quota_nodes and new_inodes and account.inode_count + new_inodes > account.quota_nodes)
