"""What simulated clients ask for: hub writes with compare-and-set, and file operations in one shared workspace.

Owns: the mix, drawn per seed. Every command carries a token that no other command has, so that the op log alone
tells whether it was applied, and how often.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypercluster.client.lane_types import Settled, Verdict
from hypercluster.pb.v1 import command_pb2 as pb
from hypercluster.pb.v1 import hub_command_pb2 as hub_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb

HUB_SPACE = b"hub"
ROOT = bytes(16)


@dataclass(slots=True)
class Shared:
    """What all clients of a run know."""

    workspace_id: bytes = b""
    files: list[bytes] = field(default_factory=list)  # inode ids of files, newest last


class Tokens:
    """Unique text per command."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = 0

    def next(self) -> str:
        self._last += 1
        return f"{self._name}-{self._last}"


class HubWorkload:
    """Sets, compare-and-sets and deletes over a few keys of `metadata` and `settings`."""

    def __init__(self, name: str, rng: random.Random, keys: int) -> None:
        self._tokens = Tokens(name)
        self._rng = rng
        self._keys = keys
        self._versions: dict[tuple[str, bytes], int] = {}

    def next_command(self) -> tuple[bytes, bytes, bytes] | None:
        rng = self._rng
        namespace = "settings" if rng.random() < 0.3 else "metadata"
        key = b"k%d" % rng.randrange(self._keys)
        hub = hub_pb.HubCommand(namespace=namespace, key=key, op_type=hub_pb.HUB_OP_TYPE_SET)
        hub.payload = f'"{self._tokens.next()}"'.encode()
        if namespace == "settings" or rng.random() < 0.2:
            hub.expected_version = self._versions.get((namespace, key), 0)
        return pb.Command(hub=hub).SerializeToString(), b"", HUB_SPACE

    def settled(self, command: bytes, settled: Settled) -> None:
        hub = pb.Command.FromString(command).hub
        if settled.verdict in (Verdict.OK, Verdict.REFUSED):
            self._versions[(hub.namespace, hub.key)] = settled.version


class FileWorkload:
    """Creates (O_EXCL races), appends, writes, renames, unlinks and directories in one workspace."""

    def __init__(self, name: str, rng: random.Random, shared: Shared, *, creates_workspace: bool) -> None:
        self._tokens = Tokens(name)
        self._rng = rng
        self._shared = shared
        self._create = creates_workspace

    def next_command(self) -> tuple[bytes, bytes, bytes] | None:
        if not self._shared.workspace_id:
            if not self._create:
                return None
            self._create = False
            made = file_pb.WorkspaceCreate(name="sim", uid=1000, gid=1000, mode=0o755)
            return pb.Command(workspace_create=made).SerializeToString(), b"", b""
        command = pb.Command(file=self._operation())
        return command.SerializeToString(), self._shared.workspace_id, self._shared.workspace_id

    def _operation(self) -> file_pb.FileCommand:
        rng, token = self._rng, self._tokens.next().encode()
        # The uid field carries nothing; the token travels as the name or the content of each operation.
        choice = rng.random()
        files = self._shared.files
        if choice < 0.15 or not files:
            return file_pb.FileCommand(create=file_pb.Create(place=_place(b"f-" + token), mode=0o644, exclusive=True))
        target = rng.choice(files[-12:])
        if choice < 0.55:
            text = token + b"\n"
            return file_pb.FileCommand(write=file_pb.Write(inode_id=target, append=True, inline=text))
        if choice < 0.75:
            text = token * rng.randint(1, 20)
            return file_pb.FileCommand(write=file_pb.Write(inode_id=target, offset=rng.randrange(4096), inline=text))
        if choice < 0.85:
            return file_pb.FileCommand(set_xattr=file_pb.SetXattr(inode_id=target, name=b"user.t", value=token))
        if choice < 0.92:
            return file_pb.FileCommand(mkdir=file_pb.Mkdir(place=_place(b"d-" + token), mode=0o755))
        return file_pb.FileCommand(symlink=file_pb.Symlink(place=_place(b"l-" + token), target=b"to-" + token))

    def settled(self, command: bytes, settled: Settled) -> None:
        parsed = pb.Command.FromString(command)
        if parsed.HasField("workspace_create"):
            if settled.verdict is Verdict.OK and settled.file is not None:
                self._shared.workspace_id = settled.file.inode_id
            else:
                self._create = True
        elif settled.verdict is Verdict.OK and settled.file is not None and parsed.file.HasField("create"):
            self._shared.files.append(settled.file.inode_id)


def _place(name: bytes) -> file_pb.Place:
    return file_pb.Place(directory=ROOT, name=name)
