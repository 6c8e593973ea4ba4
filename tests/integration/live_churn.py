"""A process with a live tree that changes things at random until it is killed: `python -m tests.integration.live_churn
CONFIG WORKSPACE STATE SEED`.

It holds files open, writes to them after their names are gone, and reads back what it wrote. Every line it prints says
that so many operations were acknowledged and nothing it looked at was wrong.
"""

from __future__ import annotations

import asyncio
import errno
import random
import sys
from dataclasses import replace
from pathlib import Path

from hypercluster.client.client import Client
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.client.live.live_tree import LiveWorkspace
from hypercluster.client.live.ports import KIND_FILE, ROOT_ID, Process
from hypercluster.client.settings import read_settings
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1.workspace_command_pb2 import FileCommand

NAMES = [b"a", b"b", b"c.lock", b"d", b"\xff", b"e"]
WORKERS = 4
EXPECTED = {errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL, errno.EPERM}


class Churn:
    """One process of several within the worker: its own lane, its own draw."""

    def __init__(self, tree: LiveWorkspace, seed: str, number: int) -> None:
        self.tree = tree
        self.draw = random.Random(f"{seed}.{number}")
        self.process = Process(number, 1)
        self.done = 0
        self.held: list[bytes] = []

    def directory(self) -> bytes:
        found = [node.inode_id for _, node in self.tree.view.list(ROOT_ID) if node.kind != KIND_FILE]
        return self.draw.choice([ROOT_ID, *found])

    def place(self) -> file_pb.Place:
        return file_pb.Place(directory=self.directory(), name=self.draw.choice(NAMES))

    async def change(self, content: bytes | None = None, **op: object) -> file_pb.FileAck | None:
        try:
            ack = await self.tree.mutate(self.process, FileCommand(**op), content)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno not in EXPECTED:
                raise
            return None
        self.done += 1
        return ack

    async def step(self) -> None:
        draw = self.draw
        match draw.randrange(10):
            case 0:
                await self.change(mkdir=file_pb.Mkdir(place=self.place(), mode=0o755))
            case 1 | 2 | 3:
                await self.write_one()
            case 4:
                await self.change(rename=file_pb.Rename(source=self.place(), target=self.place()))
            case 5 | 6:
                await self.change(unlink=file_pb.Unlink(place=self.place()))
            case 7:
                await self.change(rmdir=file_pb.Rmdir(place=self.place()))
            case 8 if self.held:
                inode_id = draw.choice(self.held)
                append = file_pb.Write(inode_id=inode_id, append=True)
                await self.change(draw.randbytes(draw.choice((20, 9_000))), write=append)
            case _ if self.held:
                self.tree.drop(self.held.pop(draw.randrange(len(self.held))))

    async def write_one(self) -> None:
        """A file of this draw's own: what it wrote is what it reads, named or not."""
        place = file_pb.Place(directory=ROOT_ID, name=b"own-%d-%d" % (self.process.pid, self.draw.getrandbits(60)))
        made = await self.change(create=file_pb.Create(place=place, mode=0o644, exclusive=True))
        assert made is not None
        self.tree.hold(made.inode_id)
        self.held.append(made.inode_id)
        target = file_pb.Place(directory=self.directory(), name=self.draw.choice(NAMES))
        await self.change(rename=file_pb.Rename(source=place, target=target))
        content = self.draw.randbytes(self.draw.choice((1, 5_000, 70_000, 200_000)))
        await self.change(content, write=file_pb.Write(inode_id=made.inode_id))
        found = await asyncio.to_thread(self.tree.view.read, made.inode_id, 0, len(content))
        assert found == content, f"wrote {len(content)} bytes to {made.inode_id.hex()}, read others"


async def main(config: str, name: str, state: str, seed: str) -> None:
    patient = LaneSettings(no_leader_ns=30 * S_NS, deadline_ns=90 * S_NS)
    settings = replace(read_settings(Path(config)), lane=patient)
    async with Client(settings, name=Path(state).name) as client:
        workspace = await client.open_workspace(name)
        async with LiveWorkspace(client, workspace.workspace_id, name, Path(state).name, Path(state)) as tree:
            churns = [Churn(tree, seed, number) for number in range(1, WORKERS + 1)]

            async def work(churn: Churn) -> None:
                while True:
                    await churn.step()
                    print(sum(found.done for found in churns), flush=True)

            await asyncio.gather(*(work(churn) for churn in churns))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
