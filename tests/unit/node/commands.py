"""Messages for tests of the shell: hub commands, chunk puts and fsyncs of a lane."""

from __future__ import annotations

from blake3 import blake3

from hypercluster.node.words import Caller
from hypercluster.pb.v1.command_pb2 import Command, Submit
from hypercluster.pb.v1.hub_command_pb2 import HUB_OP_TYPE_SET, HubCommand
from hypercluster.pb.v1.workspace_command_pb2 import ChunkPut, FileCommand, Sync
from hypercluster.values import Scope

SCOPE = Scope("default", "default")
CALLER = Caller("client:alice", SCOPE, "alice")


def client(number: int) -> bytes:
    return number.to_bytes(16, "big")


def hub_set(key: str, value: str = '"x"') -> Command:
    return Command(
        hub=HubCommand(namespace="metadata", key=key.encode(), op_type=HUB_OP_TYPE_SET, payload=value.encode())
    )


def chunk(content: bytes) -> Command:
    return Command(chunk_put=ChunkPut(hash=blake3(content).digest(), content=content))


def fsync() -> Command:
    return Command(file=FileCommand(sync=Sync(inode_id=bytes(16))))


def submit(client_id: bytes, first_seq: int, *commands: Command, workspace_id: bytes = b"") -> bytes:
    raws = [command.SerializeToString() for command in commands]
    message = Submit(client_id=client_id, first_seq=first_seq, commands=raws, workspace_id=workspace_id)
    return message.SerializeToString()
