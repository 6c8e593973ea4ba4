"""Content pages nothing refers to any more, emptied a few at a time by later commands (D-4).

A truncation or an overwrite cuts off whole subtrees of pages without visiting them: their tops are put into this
queue. Every accepted operation of the workspace takes PAGES_A_COMMAND pages from its front, and a reap of orphans
(reaping.py) some more: a page of extents ends
the references of its chunks, an inner page puts its children at the end of the queue; the page is then deleted.
Records: (workspace, R, number) -> inode id, page, extents below it. The header holds both ends of the queue.
Invariants: a page in the queue is referred to by nothing; its chunks count as referenced until it is emptied; how far
the queue has come is a function of the operations alone, and never part of the root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from hypercluster.errors import check
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.content import (
    Dropped,
    is_inner,
    page_children,
    page_extents,
    page_key,
)
from hypercluster.state_machine.workspace.records import RECLAIM, Header, body_of, numbered_key

PAGES_A_COMMAND: Final = 2

_WAITING: Final = Struct(">16sQQ")


def queue_pages(overlay: Overlay, header: Header, inode_id: bytes, dropped: Iterable[Dropped]) -> None:
    for page, count in dropped:
        key = numbered_key(header.workspace_id, RECLAIM, header.reclaim_next)
        overlay.put(Family.TREE, key, _WAITING.pack(inode_id, page, count))
        header.reclaim_next += 1


def reclaim_pages(
    overlay: Overlay,
    header: Header,
    chunk_delta: Callable[[bytes, int], None],
    remove: Callable[[bytes], None],
    pages_max: int = PAGES_A_COMMAND,
) -> None:
    """Empties the pages at the front of the queue."""
    for _ in range(min(pages_max, header.reclaim_next - header.reclaim_first)):
        place = numbered_key(header.workspace_id, RECLAIM, header.reclaim_first)
        waiting = overlay.get(Family.TREE, place)
        check(waiting is not None, "the reclaim queue has no gaps")
        inode_id, page, count = _WAITING.unpack(waiting or b"")
        key = page_key(header.workspace_id, inode_id, page)
        record = overlay.get(Family.TREE, key)
        check(record is not None, "a page that waits to be reclaimed exists")
        body = body_of(record or b"")
        if is_inner(count):
            queue_pages(overlay, header, inode_id, page_children(body))
        else:
            for extent in page_extents(body):
                chunk_delta(extent.chunk_hash, -1)
        remove(key)
        overlay.delete(Family.TREE, place)
        header.reclaim_first += 1
