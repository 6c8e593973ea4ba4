"""Orphans of a replica: inodes without a name that a worker keeps while somebody there holds them open (WS-44).

Owns: which orphans a replica has, and how it lets one go. The cluster ends its own by a logged reap (WS-27), of which
the op log says nothing: orphans are not in the root, and nothing of the tree depends on them.
Never: lets go of what has a name.
Invariants: what is let go leaves no record but the content pages it queued, which later operations empty as they do
after a truncation; the root and the counts of the tree stay as they are.
"""

from __future__ import annotations

from hypercluster.errors import check
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.attributes import read_table, table_key, value_key
from hypercluster.state_machine.workspace.records import KIND_FILE, ORPHAN, inode_key, numbered_key, prefix_end
from hypercluster.state_machine.workspace.state import open_workspace
from hypercluster.state_machine.workspace.turn import Turn

_STAMP_BYTES = 8


def list_orphans(reader: Reader, workspace_id: bytes) -> list[bytes]:
    """Their ids, the longest without a name first."""
    prefix = workspace_id + ORPHAN
    return [key[len(prefix) + _STAMP_BYTES :] for key, _ in reader.scan(Family.TREE, prefix, prefix_end(prefix))]


def let_go(overlay: Overlay, workspace_id: bytes, inode_id: bytes) -> bool:
    """Removes an orphan from a replica. False if there is none of this id any more."""
    workspace = open_workspace(overlay, workspace_id)
    check(workspace is not None, "an orphan is let go of in a workspace that is there")
    assert workspace is not None
    turn = Turn(overlay, workspace, 0, None, {}, context=None)
    inode = turn.inode(inode_id)
    if inode is None:
        return False
    check(not inode.nlink, "what has a name is not let go")
    if inode.kind == KIND_FILE:
        edit = turn.edit_content(inode)
        edit.splice(0, inode.size, [])
        turn.end_content(edit)
    for row in read_table(overlay, workspace_id, inode_id):
        overlay.delete(Family.TREE, value_key(workspace_id, inode_id, row.name))
    overlay.delete(Family.TREE, table_key(workspace_id, inode_id))
    overlay.delete(Family.TREE, inode_key(workspace_id, inode_id))
    overlay.delete(Family.TREE, numbered_key(workspace_id, ORPHAN, inode.orphaned_ns) + inode_id)
    workspace.header.orphan_count -= 1
    workspace.changed = True
    return True
