"""Which workspaces a caller may name (D-20).

Owns: the one check that every request on a workspace passes.
Never: says of a workspace in another scope that it exists.
"""

from __future__ import annotations

from hypercluster.errors import WrongWorkspaceError
from hypercluster.rpc.calls import Call
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.records import Header


def workspace_of(reader: Reader, workspace_id: bytes, call: Call) -> Header:
    """Raises WrongWorkspaceError."""
    header = queries.read_header(reader, workspace_id)
    scope = call.caller.scope
    if header is None or (header.org, header.project) != (scope.org, scope.project):
        raise WrongWorkspaceError(f"there is no workspace {workspace_id.hex()[:40]} here")
    return header
