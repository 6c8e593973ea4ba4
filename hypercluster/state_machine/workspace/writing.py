"""Operations on the bytes of a file: write, append and truncate (WS-13, WS-20 to WS-22, WS-32).

Owns: their verdicts, where an append goes, how a range of extents is replaced, and the coalescing of small appends.
Invariants: content is changed only through ContentEdit; an operation that refers to chunks which are not present for
its sender is refused with exactly the missing ones; extents never reach beyond the size; writing to an orphan leaves
nothing behind but in the orphan, so that a replica which has let it go may pass over the operation (replaying.py).
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from hypercluster.limits import (
    CHUNK_BYTES_MAX,
    COALESCE_EXTENT_BYTES_MAX,
    COALESCE_EXTENTS,
    COALESCE_ROUNDS_MAX,
    COALESCE_TOTAL_BYTES_MAX,
    FILE_SIZE_MAX,
    INLINE_BYTES_MAX,
    WRITE_BYTES_MAX,
    WRITE_EXTENTS_MAX,
)
from hypercluster.pb.v1.workspace_command_pb2 import Truncate, Write
from hypercluster.state_machine.outcome import CHUNKS_MISSING, LIMIT, FileOutcome
from hypercluster.state_machine.workspace.chunks import HASH_BYTES, Presence, visible_presence
from hypercluster.state_machine.workspace.content import ContentEdit
from hypercluster.state_machine.workspace.errnos import (
    EDQUOT,
    EFBIG,
    EINVAL,
    EISDIR,
    ENOENT,
    refused,
)
from hypercluster.state_machine.workspace.extents import Extent, merged
from hypercluster.state_machine.workspace.recent import keep_recent, recent_bytes
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_FILE, Inode
from hypercluster.state_machine.workspace.turn import Turn

NO_END: Final = FILE_SIZE_MAX + 1  # a truncation cuts whatever stood behind its size

_TOO_LARGE = FileOutcome(reason=LIMIT)


def write(turn: Turn, op: Write) -> FileOutcome | None:
    inode = _file(turn, op.inode_id)
    if isinstance(inode, FileOutcome):
        return inode
    pieces, inline = op.pieces, op.inline
    if inline and pieces:
        return refused(EINVAL)
    length = len(inline)
    if length > INLINE_BYTES_MAX or len(pieces) > WRITE_EXTENTS_MAX:
        return _TOO_LARGE
    if pieces:
        for piece in pieces:
            if len(piece.hash) != HASH_BYTES or not piece.length:
                return refused(EINVAL)
            if piece.chunk_offset + piece.length > CHUNK_BYTES_MAX:
                return refused(EINVAL)
            length += piece.length
        if length > WRITE_BYTES_MAX:
            return _TOO_LARGE
    offset = inode.size if op.append else op.offset
    if offset + length > FILE_SIZE_MAX:
        return refused(EFBIG)
    new: list[Extent] = []
    if pieces:
        refusal = _judge_pieces(turn, op)
        if refusal is not None:
            return refusal
        at = offset
        for piece in pieces:
            new.append(Extent(at, piece.length, piece.chunk_offset, piece.hash))
            at += piece.length
        new = list(merged(new))
    elif length:
        chunk_hash = blake3(inline).digest()
        if not turn.replaying and turn.workspace.ledger.exceeds(length, 0) and turn.presence(chunk_hash) is None:
            return refused(EDQUOT)
        turn.add_chunk(chunk_hash, inline)
        if inode.nlink and offset + length >= inode.size and length < COALESCE_EXTENT_BYTES_MAX:
            keep_recent(turn.overlay, turn.header, chunk_hash, inline)
        new.append(Extent(offset, length, 0, chunk_hash))
    turn.subject, turn.applied_offset = inode, offset
    if length:
        turn.span = offset, offset + length
        _put_extents(turn, inode, offset, new)
    return None


def truncate(turn: Turn, op: Truncate) -> FileOutcome | None:
    inode = _file(turn, op.inode_id)
    if isinstance(inode, FileOutcome):
        return inode
    if op.size > FILE_SIZE_MAX:
        return refused(EFBIG)
    mapped = inode.mapped_bytes
    edit = turn.edit_content(inode)
    if op.size < inode.size:
        edit.splice(op.size, inode.size, [])
    edit.resize(op.size)
    turn.end_content(edit)
    _content_changed(turn, inode, mapped)
    turn.subject = inode
    turn.span = op.size, NO_END
    return None


def _file(turn: Turn, inode_id: bytes) -> Inode | FileOutcome:
    inode = turn.inode(inode_id)
    if inode is None:
        return refused(ENOENT)
    if inode.kind == KIND_FILE:
        return inode
    return refused(EISDIR if inode.kind == KIND_DIRECTORY else EINVAL)


def _judge_pieces(turn: Turn, op: Write) -> FileOutcome | None:
    """Every chunk must be there for this sender, and long enough. A replay knows that it was."""
    if turn.replaying:
        return None
    sender = turn.sender()
    missing: list[bytes] = []
    found: dict[bytes, Presence | None] = {}
    for piece in op.pieces:
        if piece.hash not in found:
            found[piece.hash] = visible_presence(turn.overlay, turn.header.workspace_id, piece.hash, sender)
            if found[piece.hash] is None:
                missing.append(piece.hash)
    if missing:
        return FileOutcome(reason=CHUNKS_MISSING, missing=tuple(missing))
    for piece in op.pieces:
        presence = found[piece.hash]
        if presence is not None and piece.chunk_offset + piece.length > presence.length:
            return refused(EINVAL)
    return None


def _put_extents(turn: Turn, inode: Inode, offset: int, new: list[Extent]) -> None:
    mapped, end = inode.mapped_bytes, new[-1].end
    at_end = end >= inode.size
    edit = turn.edit_content(inode)
    if end > inode.size:
        edit.resize(end)
    edit.splice(offset, end, new)
    if inode.nlink and at_end and new[-1].length < COALESCE_EXTENT_BYTES_MAX:
        _coalesce(turn, edit)
    turn.end_content(edit)
    _content_changed(turn, inode, mapped)


def _content_changed(turn: Turn, inode: Inode, mapped_before: int) -> None:
    inode.mtime_ns = inode.ctime_ns = turn.stamp_ns
    turn.content_before = inode.content_index
    inode.content_index = turn.log_index
    if inode.nlink:
        turn.header.mapped_bytes += inode.mapped_bytes - mapped_before
    turn.touch(inode)


def _coalesce(turn: Turn, edit: ContentEdit) -> None:
    """WS-13: the last 16 extents become one chunk when they are contiguous, small and together at most 64 KiB.

    Again while that holds, but not without end: extents may have come to meet these conditions by the hundred (D-4)."""
    for _ in range(COALESCE_ROUNDS_MAX):
        if edit.inode.extent_count < COALESCE_EXTENTS:
            return
        run: list[Extent] = []
        total = 0
        for extent in edit.backwards():
            total += extent.length
            if extent.length >= COALESCE_EXTENT_BYTES_MAX or total > COALESCE_TOTAL_BYTES_MAX:
                return
            if run and extent.end != run[-1].offset:
                return
            run.append(extent)
            if len(run) == COALESCE_EXTENTS:
                break
        else:
            return
        parts: list[bytes] = []
        for extent in reversed(run):
            chunk = recent_bytes(turn.overlay, turn.header.workspace_id, extent.chunk_hash)
            if chunk is None:
                return
            parts.append(chunk[extent.chunk_offset : extent.chunk_offset + extent.length])
        content = b"".join(parts)
        chunk_hash = blake3(content).digest()
        turn.add_chunk(chunk_hash, content)
        if len(content) < COALESCE_EXTENT_BYTES_MAX:
            keep_recent(turn.overlay, turn.header, chunk_hash, content)
        first = run[-1].offset
        edit.replace(first, run[0].end, [Extent(first, len(content), 0, chunk_hash)])
