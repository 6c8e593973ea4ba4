"""What a lock may be on.

Owns: the reading of a LockTarget: an inode's id, or a name that agents agreed on.
Never: whether the inode exists: that is for who asks for the lock.
Invariants: total; what is no target is None, whatever admission let through.
"""

from __future__ import annotations

from typing import Final

from hypercluster.limits import LOCK_NAME_BYTES_MAX
from hypercluster.pb.v1.coordination_command_pb2 import LockTarget
from hypercluster.state_machine.coordination.records import Target

_INODE_ID_BYTES: Final = 16
_NAME_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/:-")


def read_target(target: LockTarget) -> Target | None:
    """None for what no lock can be on."""
    match target.WhichOneof("what"):
        case "inode_id" if len(target.inode_id) == _INODE_ID_BYTES:
            return Target(target.inode_id, "")
        case "name":
            name = target.name.encode()
            if 1 <= len(name) <= LOCK_NAME_BYTES_MAX and _NAME_BYTES.issuperset(name):
                return Target(b"", target.name)
    return None
