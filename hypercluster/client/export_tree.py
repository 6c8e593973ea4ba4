"""Export of a workspace into a new directory, as it was at one log index (WS-61).

Owns: the export. It is a mirror built from a snapshot and then left alone: same code, same checks of root and hashes.
Never: writes into a directory that holds something.
Invariants: what lies in the directory when it returns is the tree at one log index, synced; a failed export leaves the
directory incomplete and says so by raising.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hypercluster.client.worker.applying import Applier
from hypercluster.client.worker.mirror import Mirror
from hypercluster.client.worker.rebuild import Rebuild
from hypercluster.client.worker.snapshots import live_tree
from hypercluster.client.worker.thread import MirrorThread
from hypercluster.client.workspace import Workspace
from hypercluster.errors import MalformedError, NoQuorumError, check


@dataclass(frozen=True, slots=True)
class ExportReport:
    log_index: int
    root: bytes
    entries: int
    bytes_total: int
    problems: dict[str, str]  # path -> what could not be set there


async def export_tree(workspace: Workspace, directory: str | Path) -> ExportReport:
    """Raises MalformedError if the directory is not empty."""
    top, state = _directories(Path(directory))
    # The snapshot comes from the leader after a confirmed read, so it holds every write acknowledged before this call.
    barrier = await workspace.barrier()
    leader = workspace.client.nodes.leader
    in_thread = MirrorThread("export")
    try:
        mirror = await in_thread(lambda: Mirror(str(top), str(state), workspace.workspace_id))
        try:
            log_index, root = await _build(workspace, mirror, leader, in_thread)
            check(log_index >= barrier.workspace.log_index, "the snapshot is no older than the read before it")
            header = await in_thread(mirror.view.header)
            check(header is not None, "a tree that was built has a header")
            assert header is not None
            problems = dict(mirror.problems)
        finally:
            await in_thread(mirror.close)
    finally:
        in_thread.close()
    shutil.rmtree(os.fsencode(state))
    return ExportReport(log_index, root, header.inode_count - 1, header.mapped_bytes, problems)


def _directories(directory: Path) -> tuple[Path, Path]:
    """The directory itself, and one beside it for what the export needs on the way."""
    top = directory.absolute()
    if top.exists() and (not top.is_dir() or any(top.iterdir())):
        raise MalformedError(f"{top} is not an empty directory: export into a new one")
    state = top.parent / f".{top.name}.export"
    if state.exists():
        shutil.rmtree(state)  # of an export that did not end
    return top, state


async def _build(workspace: Workspace, mirror: Mirror, address: str, in_thread: MirrorThread) -> tuple[int, bytes]:
    nodes = workspace.client.nodes
    rebuild = Rebuild(mirror)
    log_index, root = 0, b""
    begun = False
    async for piece in live_tree(nodes, address or nodes.settings.nodes[0], workspace.workspace_id):
        if not begun:
            await in_thread(partial(rebuild.begin, piece.history_id))
            begun = True
        await in_thread(partial(rebuild.add, [(r.family, r.key, r.value) for r in piece.records]))
        log_index, root = piece.log_index, piece.root
    if not begun:
        raise NoQuorumError(f"{address} sent no snapshot of {workspace.name}")
    await in_thread(partial(rebuild.check, log_index, root))
    await Applier(mirror, workspace.ops.chunks.fetch, in_thread).build(rebuild)
    return log_index, root
