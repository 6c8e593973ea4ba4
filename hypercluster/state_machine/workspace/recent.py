"""Bytes of small chunks written lately, so that apply can coalesce appended ones (WS-13).

Apply may read only state, and the bytes of chunks are not in it (they are in the chunk store). So the bytes of small
inline writes at the end of a file stay in the state for a while: first in, first out, at most RECENT_BYTES_MAX a
workspace, whatever becomes of the file. An extent whose bytes have left is not coalesced any more.
Records: (workspace, B, chunk hash) -> number and bytes; (workspace, Q, number) -> chunk hash and length.
Invariants: what is kept is a function of the file operations of the workspace alone, so every worker that replays them
keeps the same; the header counts the bytes exactly.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from hypercluster.errors import check
from hypercluster.limits import RECENT_BYTES_MAX, RECENT_CHUNKS_MAX
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.records import RECENT, RECENT_QUEUE, Header, numbered_key

_EVICTED_MAX: Final = 16  # entries looked at by one command

_NUMBER: Final = Struct(">Q")
_QUEUED: Final = Struct(">32sH")


def keep_recent(overlay: Overlay, header: Header, chunk_hash: bytes, content: bytes) -> None:
    """Keeps the bytes of a small chunk and lets the oldest go where it is too much."""
    key = header.workspace_id + RECENT + chunk_hash
    number = header.recent_next
    header.recent_next = number + 1
    # A chunk kept twice has two places in the queue and is let go with the later one.
    header.recent_bytes += len(content)
    overlay.put(Family.TREE, key, _NUMBER.pack(number) + content)
    queued = _QUEUED.pack(chunk_hash, len(content))
    overlay.put(Family.TREE, numbered_key(header.workspace_id, RECENT_QUEUE, number), queued)
    for _ in range(_EVICTED_MAX):
        if header.recent_bytes <= RECENT_BYTES_MAX and header.recent_next - header.recent_first <= RECENT_CHUNKS_MAX:
            return
        _let_go(overlay, header)


def _let_go(overlay: Overlay, header: Header) -> None:
    number = header.recent_first
    place = numbered_key(header.workspace_id, RECENT_QUEUE, number)
    queued = overlay.get(Family.TREE, place)
    check(queued is not None, "the queue of recent chunks has no gaps")
    chunk_hash, length = _QUEUED.unpack(queued or b"")
    key = header.workspace_id + RECENT + chunk_hash
    kept = overlay.get(Family.TREE, key)
    if kept is not None and kept.startswith(_NUMBER.pack(number)):
        overlay.delete(Family.TREE, key)
    overlay.delete(Family.TREE, place)
    header.recent_bytes -= length
    header.recent_first = number + 1


def recent_bytes(overlay: Overlay, workspace_id: bytes, chunk_hash: bytes) -> bytes | None:
    """The whole chunk, or None when it has been let go."""
    kept = overlay.get(Family.TREE, workspace_id + RECENT + chunk_hash)
    return None if kept is None else kept[_NUMBER.size :]
