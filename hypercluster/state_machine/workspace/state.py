"""Workspaces that are open in an overlay: header and Merkle tree as objects, written back once an entry.

Owns: `OpenWorkspace` and the set of them that hangs on the overlay. Commands of one entry share them, so that header
and Merkle records are encoded once an entry however many commands it holds.
Invariants: what is written by `flush_workspaces` is a function of the state before the entry and of its commands; an
object can be dropped between entries and made again from the store with nothing but time lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercluster.limits import OPEN_WORKSPACES_MAX
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.chunks import ChunkLedger, OrganisationAccount
from hypercluster.state_machine.workspace.merkle import MerkleTree
from hypercluster.state_machine.workspace.records import Header, decode_header, header_key

if TYPE_CHECKING:
    from hypercluster.state_machine.coordination.reservations import Claims
    from hypercluster.state_machine.workspace.hazards import HazardWindow

_DERIVED = "workspace"
_ACCOUNTS = "workspace accounts"


class OpenWorkspace:
    """One workspace while its commands are judged."""

    __slots__ = ("changed", "claims", "header", "ledger", "tree", "window")

    def __init__(self, overlay: Overlay, header: Header) -> None:
        self.header = header
        self.tree = MerkleTree(overlay, header.workspace_id, header.leaf_count, header.root)
        self.ledger = ChunkLedger(overlay, header, _account_of(overlay, header.org))
        self.changed = False
        self.claims: Claims | None = None  # read when an operation first asks
        self.window: HazardWindow | None = None  # read from the op log when an operation needs it


def _accounts(overlay: Overlay) -> dict[str, OrganisationAccount]:
    found = overlay.derived.get(_ACCOUNTS)
    if found is None:
        overlay.derived[_ACCOUNTS] = found = {}
    return found  # type: ignore[return-value]


def _account_of(overlay: Overlay, org: str) -> OrganisationAccount:
    accounts = _accounts(overlay)
    if org not in accounts:
        accounts[org] = OrganisationAccount(overlay, org)
    return accounts[org]


def _open_workspaces(overlay: Overlay) -> dict[bytes, OpenWorkspace]:
    found = overlay.derived.get(_DERIVED)
    if found is None:
        overlay.derived[_DERIVED] = found = {}
    return found  # type: ignore[return-value]


def open_workspace(overlay: Overlay, workspace_id: bytes) -> OpenWorkspace | None:
    """The workspace with this id, None if there is none."""
    opened = _open_workspaces(overlay)
    found = opened.get(workspace_id)
    if found is None:
        record = overlay.get(Family.TREE, header_key(workspace_id)) if len(workspace_id) == 16 else None
        if record is None:
            return None
        found = opened[workspace_id] = OpenWorkspace(overlay, decode_header(workspace_id, record))
    return found


def add_workspace(overlay: Overlay, header: Header) -> OpenWorkspace:
    """A workspace that this command makes."""
    made = _open_workspaces(overlay)[header.workspace_id] = OpenWorkspace(overlay, header)
    made.changed = True
    return made


def flush_workspaces(overlay: Overlay) -> dict[bytes, OpenWorkspace]:
    """Puts what changed in this entry into the overlay: headers, Merkle buckets and pages, in order of the workspaces'
    ids. Answers those that are open."""
    opened = _open_workspaces(overlay)
    for workspace_id in sorted(opened):
        workspace = opened[workspace_id]
        if workspace.changed:
            workspace.changed = False
            header = workspace.header
            header.root, header.leaf_count = workspace.tree.root_hash, workspace.tree.size
            overlay.put(Family.TREE, header_key(workspace_id), header.encode())
            workspace.tree.flush(overlay)
            workspace.tree.trim()
    accounts = _accounts(overlay)
    for org in sorted(accounts):
        accounts[org].flush(overlay)
    present = dict(opened)
    while len(opened) > OPEN_WORKSPACES_MAX:
        # The longest open goes; what it held was just written.
        del opened[next(iter(opened))]
    return present
