"""What reservations mean for a file operation: whether it is denied, and whether it is reserved (WS-45).

Owns: the claims of an open workspace, read when one is first asked for; which paths an operation is about.
Never: a verdict on reservations themselves: those are claiming.py's.
Invariants: a workspace without live reservations pays one comparison an operation. An operation on an inode is about
every path of it that is known (paths.py), one on a name about the place; nothing covers a path that is not known.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from hypercluster.limits import RESERVATION_IDS_MAX
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.pb.v1.workspace_command_pb2 import FileCommand
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination.reservations import Claims, Owner, owner_of
from hypercluster.state_machine.coordination.settings import stored_settings
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.workspace.paths import known_paths, place_names
from hypercluster.state_machine.workspace.state import OpenWorkspace

_CHANGES_NOTHING: Final = "sync"


def open_claims(overlay: Overlay, workspace: OpenWorkspace) -> Claims:
    claims = workspace.claims
    if claims is None:
        workspace_id = workspace.header.workspace_id
        enforced = stored_settings(overlay, workspace_id).enforce_reservations
        claims = workspace.claims = Claims(overlay, workspace_id, enforced)
    return claims


def command_owner(ctx: OpContext) -> Owner:
    """Whose the command is, for reservations."""
    return owner_of(ctx.worker, ctx.principal, Origin.FromString(ctx.origin).agent)


class Coverage(Enum):
    """What reservations say of an operation."""

    NONE = "none"
    RESERVED = "reserved"  # by one of the writer's own that he named
    DENIED = "denied"  # by another's exclusive one, where reservations are enforced


def judge_claims(ctx: OpContext, claims: Claims, workspace_id: bytes, command: FileCommand) -> Coverage:
    name = command.WhichOneof("op")
    named = command.reservation_ids[:RESERVATION_IDS_MAX]
    if name is None or name == _CHANGES_NOTHING or not (claims.enforced or named):
        return Coverage.NONE
    owner, stamp_ns = command_owner(ctx), int(ctx.stamp_ns)
    paths = _paths(ctx.overlay, workspace_id, getattr(command, name), name)
    if claims.enforced and claims.denies(owner, paths, stamp_ns):
        return Coverage.DENIED
    return Coverage.RESERVED if claims.reserves(owner, named, paths, stamp_ns) else Coverage.NONE


def _paths(overlay: Overlay, workspace_id: bytes, op: Any, name: str) -> list[list[bytes]]:
    if name == "rename":
        places = [op.source, op.target]
    elif name in {"create", "mkdir", "symlink", "link", "unlink", "rmdir"}:
        places = [op.place]
    else:
        return known_paths(overlay, workspace_id, op.inode_id)
    found = [place_names(overlay, workspace_id, place.directory, place.name) for place in places]
    return [names for names in found if names is not None]
