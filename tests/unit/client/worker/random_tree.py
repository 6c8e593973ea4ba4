"""Random operations on a workspace, for the mirror's tests: drawn from what is there, so that most are accepted."""

from __future__ import annotations

import random

from blake3 import blake3

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch, LogRecord
from hypercluster.state_machine.workspace.queries import list_directory
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_FILE
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

NAMES = [b"a", b"b", b"c", b"index", b"index.lock", b"\xff\xfe", b"x y", b"d"]


class RandomTree:
    def __init__(self, seed: int, file_modes: tuple[int, ...] = (0o644, 0o400, 0o4755, 0o000)) -> None:
        self.file_modes = file_modes
        self.draw = random.Random(seed)
        self.site = Site(seed=seed)
        self.site.found()

    def records(self) -> list[LogRecord]:
        return [r for batch in self.site.batches for r in LogBatch.FromString(batch).records]

    def spots(self) -> tuple[list[bytes], list[tuple[bytes, bytes, bytes, int]]]:
        """(directories, every (directory, name, inode, kind))."""
        site = self.site
        site.overlay.take_changes()
        directories, entries, pending = [ops.ROOT], [], [ops.ROOT]
        while pending:
            directory = pending.pop()
            listing = list_directory(site.store, site.workspace_id, directory, b"", 1000)
            for name, inode in listing.entries:
                entries.append((directory, name, inode.inode_id, inode.kind))
                if inode.kind == KIND_DIRECTORY:
                    directories.append(inode.inode_id)
                    pending.append(inode.inode_id)
        return directories, entries

    def step(self) -> None:
        """One entry of one to four commands."""
        directories, entries = self.spots()
        commands = [self.command(directories, entries) for _ in range(self.draw.randrange(1, 5))]
        self.site.entry(*[c for group in commands for c in group])

    def command(self, directories: list[bytes], entries: list[tuple[bytes, bytes, bytes, int]]) -> list[Command]:
        draw = self.draw
        directory, name = draw.choice(directories), draw.choice(NAMES)
        files = [e for e in entries if e[3] == KIND_FILE]
        some = draw.choice(entries) if entries else None
        a_file = draw.choice(files)[2] if files else None
        choice = draw.randrange(100)
        if choice < 18 or some is None:
            return [ops.create(directory, name, draw.choice(self.file_modes), exclusive=False)]
        if choice < 28:
            return [ops.mkdir(directory, name, draw.choice((0o755, 0o555, 0o700, 0o500)))]
        if choice < 33:
            return [ops.symlink(directory, name, draw.choice((b"a", b"../b", b"/nowhere", b"\xff")))]
        if choice < 53:
            return [ops.rename(some[0], some[1], directory, name)]
        if choice < 61:
            return [ops.rmdir(*some[:2]) if some[3] == KIND_DIRECTORY else ops.unlink(*some[:2])]
        if choice < 64:
            return [ops.chmod(some[2], draw.choice((0o755, 0o500, 0o711)))]
        if choice < 67:
            return [ops.utimens(some[2], draw.randrange(1 << 60))]
        if a_file is None:
            return []
        return self.file_command(choice, a_file, directory, name)

    def file_command(self, choice: int, a_file: bytes, directory: bytes, name: bytes) -> list[Command]:
        draw = self.draw
        if choice < 73:
            return [ops.link(a_file, directory, name)]
        if choice < 82:
            return [ops.write(a_file, draw.randrange(3000), draw.randbytes(draw.randrange(1, 2000)))]
        if choice < 87:
            return [ops.append(a_file, draw.randbytes(draw.randrange(1, 200)))]
        if choice < 92:
            content = draw.randbytes(draw.randrange(9000, 20000))
            chunk = blake3(content).digest()
            cut = draw.randrange(1, 4000)
            pieces = [(chunk, cut, len(content) - cut), (chunk, 0, cut)]
            return [ops.chunk_put(content), ops.write_pieces(a_file, draw.randrange(30000), pieces)]
        if choice < 96:
            return [ops.truncate(a_file, draw.choice((0, 10, 1500, 40000)))]
        if choice < 98:
            return [ops.set_xattr(a_file, draw.choice((b"user.a", b"user.b")), draw.randbytes(5))]
        return [ops.remove_xattr(a_file, draw.choice((b"user.a", b"user.b")))]
