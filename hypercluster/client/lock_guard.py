"""A lock's guard as text, for commands that run under it in processes of their own (WS-42, WS-65).

Owns: the form of the environment variable HYPERCLUSTER_GUARD: "WORKSPACE,inode=HEX or name=NAME,TOKEN,HISTORY".
Never: says that the lock is still held; the cluster judges the token with each command.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypercluster.errors import MalformedError
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb

GUARD_VARIABLE = "HYPERCLUSTER_GUARD"
TOKEN_VARIABLE = "HYPERCLUSTER_TOKEN"
LOCK_ID_VARIABLE = "HYPERCLUSTER_LOCK_ID"


@dataclass(frozen=True, slots=True)
class LockGuard:
    """`inode_id` is empty for a lock on a name."""

    workspace_id: bytes
    inode_id: bytes
    name: str
    token: int
    history_id: bytes

    @staticmethod
    def of(workspace_id: bytes, guard: lock_pb.Guard) -> LockGuard:
        return LockGuard(workspace_id, guard.target.inode_id, guard.target.name, guard.token, guard.history_id)

    def message(self) -> lock_pb.Guard:
        if self.name:
            target = lock_pb.LockTarget(name=self.name)
        else:
            target = lock_pb.LockTarget(inode_id=self.inode_id)
        return lock_pb.Guard(target=target, token=self.token, history_id=self.history_id)

    def text(self) -> str:
        target = f"name={self.name}" if self.name else f"inode={self.inode_id.hex()}"
        return f"{self.workspace_id.hex()},{target},{self.token},{self.history_id.hex()}"

    @staticmethod
    def parse(text: str) -> LockGuard | None:
        """None for an empty text. Raises MalformedError: a guard that can not be read must not be left out."""
        if not text:
            return None
        try:
            workspace, target, token, history = text.split(",")
            kind, _, value = target.partition("=")
            if kind not in ("inode", "name") or not value:
                raise ValueError(target)
            inode_id = bytes.fromhex(value) if kind == "inode" else b""
            found = LockGuard(
                bytes.fromhex(workspace),
                inode_id,
                value if kind == "name" else "",
                int(token),
                bytes.fromhex(history),
            )
            sizes = (len(found.workspace_id), len(inode_id), len(found.history_id))
            if sizes not in ((16, 16, 16), (16, 16, 0), (16, 0, 16), (16, 0, 0)) or not 0 < found.token < 1 << 64:
                raise ValueError(text)
        except ValueError as error:
            raise MalformedError(f"{GUARD_VARIABLE}: not a guard as `lock run` writes it: {error}") from error
        return found
