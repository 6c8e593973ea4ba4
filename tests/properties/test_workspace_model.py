"""Random file operations against a second, deliberately simple model: errno, attributes, content, indexes, roots.

Each walk runs three sites: one that keeps its caches, one that loses them at random moments, and a worker that replays
the op log from an export taken midway. HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import os
import random

import pytest
from blake3 import blake3

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.state_machine.outcome import CHUNKS_MISSING, ERRNO, OK, PRECONDITION_FAILED
from hypercluster.state_machine.store import Family, MemoryStore
from hypercluster.state_machine.workspace.chunks import read_presence
from hypercluster.state_machine.workspace.content import ContentReader
from hypercluster.state_machine.workspace.queries import list_directory, read_xattrs
from hypercluster.state_machine.workspace.records import KIND_FILE, PAGE, RECLAIM, decode_inode, prefix_end
from hypercluster.state_machine.workspace.transfer import verify_tree
from tests.unit.workspace import ops
from tests.unit.workspace.posix_model import DIRECTORY, FILE, LINK, ROOT, ModelTree
from tests.unit.workspace.site import Mirror, Site, content_of, first_difference

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(16)
ENTRIES = 220
NAMES = [b"a", b"b", b"c", b"B", b"a.lock", b"\xff", b"z" * 255]
STRANGE_NAMES = [b"", b".", b"..", b"a/b", b"nul\0", b"x" * 256]


class Walk:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.warm, self.cold = Site(seed=seed), Site(seed=seed)
        for site in (self.warm, self.cold):
            site.found()
        self.model = ModelTree(1000, 1000, 0o755, self.warm.stamp_ns)
        self.mirror: Mirror | None = None
        self.sent: set[bytes] = set()
        self.missing_hash = blake3(b"never sent").digest()

    def say(self, what: str) -> str:
        return f"seed {self.seed}, entry {self.warm.index}: {what}"

    # --- drawing commands -------------------------------------------------------------------------

    def inode(self, *kinds: int) -> bytes:
        draw = self.draw
        if draw.random() < 0.03:
            return draw.randbytes(16)
        # Mostly of the kind asked for, orphans included, now and then of any.
        fitting = [key for key, node in self.model.nodes.items() if node.kind in kinds or draw.random() < 0.05]
        return draw.choice(fitting or [ROOT])

    def name(self) -> bytes:
        return self.draw.choice(NAMES) if self.draw.random() < 0.97 else self.draw.choice(STRANGE_NAMES)

    def place(self) -> tuple[bytes, bytes]:
        return self.inode(DIRECTORY), self.name()

    def there(self) -> tuple[bytes, bytes]:
        """Mostly a place where something stands."""
        directory = self.inode(DIRECTORY)
        node = self.model.nodes.get(directory)
        if node and node.names and self.draw.random() < 0.85:
            return directory, self.draw.choice(sorted(node.names))
        return directory, self.name()

    def content(self) -> bytes:
        return self.draw.randbytes(self.draw.choice([0, 1, 3, 40, 200, 900, 5_000, 8_191, 8_192]))

    def offset(self, inode_id: bytes) -> int:
        node = self.model.nodes.get(inode_id)
        size = len(node.data) if node else 0
        return self.draw.choice([0, size, self.draw.randint(0, size), size + self.draw.randint(0, 70_000)])

    def command(self) -> Command:
        draw = self.draw
        kind = draw.choices(
            ["create", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "write", "append", "pieces",
             "truncate", "chmod", "chown", "utimens", "xattr", "unxattr", "sync"],
            [8, 5, 2, 4, 6, 4, 10, 12, 14, 6, 6, 2, 1, 2, 4, 2, 2],
        )[0]  # fmt: skip
        extra = {"uid": draw.choice([1000, 1000, 7])} if draw.random() < 0.05 else {}
        match kind:
            case "create":
                return ops.create(*self.place(), draw.choice([0o644, 0o7777]), draw.random() < 0.6, **extra)
            case "mkdir":
                return ops.mkdir(*self.place(), **extra)
            case "symlink":
                return ops.symlink(*self.place(), draw.choice([b"/abs", b"../up", b"", b"t" * 4095, b"t" * 4096]))
            case "link":
                return ops.link(self.inode(FILE, LINK), *self.place(), **extra)
            case "unlink":
                return ops.unlink(*self.there(), **extra)
            case "rmdir":
                return ops.rmdir(*self.there(), **extra)
            case "rename":
                target = self.there() if draw.random() < 0.6 else self.place()
                return ops.rename(*self.there(), *target, no_replace=draw.random() < 0.2, **extra)
            case "write":
                inode_id = self.inode(FILE)
                return ops.write(inode_id, self.offset(inode_id), self.content(), **extra)
            case "append":
                return ops.append(self.inode(FILE), self.content(), **extra)
            case "pieces":
                return self.pieces_write()
            case "truncate":
                inode_id = self.inode(FILE)
                return ops.truncate(inode_id, self.offset(inode_id), **extra)
            case "chmod":
                return ops.chmod(self.inode(FILE, DIRECTORY), draw.randrange(0o10000), **extra)
            case "chown":
                return ops.chown(self.inode(FILE), draw.choice([1000, 1000, 0]), 1000)
            case "utimens":
                return ops.utimens(self.inode(FILE, DIRECTORY, LINK), draw.choice([None, 0, -5, 1 << 62]), **extra)
            case "xattr":
                value = bytes(draw.choice([0, 10, 30_000, 65_536, 65_537]))
                return ops.set_xattr(self.inode(FILE, DIRECTORY), self.xattr(), value, draw.randrange(3), **extra)
            case "unxattr":
                return ops.remove_xattr(self.inode(FILE, DIRECTORY), self.xattr(), **extra)
            case _:
                return ops.sync(self.inode(FILE, DIRECTORY), **extra)

    def xattr(self) -> bytes:
        return self.draw.choice([b"user.a", b"user.b", b"user.c", b"user.b", b"", b"n" * 255, b"n" * 256])

    def pieces_write(self) -> Command:
        draw = self.draw
        inode_id = self.inode(FILE)
        chunks = sorted(self.warm.chunks)
        if not chunks or draw.random() < 0.5:
            content = draw.randbytes(draw.choice([1, 4_096, 30_000, 65_536]))
            for site in (self.warm, self.cold):
                site.done(ops.chunk_put(content))
            chunks = [blake3(content).digest()]
            self.sent.update(chunks)
        pieces = []
        for _ in range(draw.randint(1, 4)):
            found = draw.choice(chunks)
            start = draw.randrange(len(self.warm.chunks[found]))
            pieces.append((found, start, draw.randint(1, len(self.warm.chunks[found]) - start)))
        if draw.random() < 0.05:
            pieces.append((self.missing_hash, 0, 1))
        return ops.write_pieces(inode_id, self.offset(inode_id), pieces, at_end=draw.random() < 0.5)

    # --- running and comparing --------------------------------------------------------------------

    def step(self) -> None:
        draw = self.draw
        commands = [self.command() for _ in range(draw.choice([1, 1, 2, 8]))]
        stamp_ns = self.warm.stamp_ns
        outcomes = self.warm.entry(*commands)
        if draw.random() < 0.3:
            self.cold.restart()
        assert self.cold.entry(*commands) == outcomes, self.say("a restart changed a verdict")
        for command, outcome in zip(commands, outcomes, strict=True):
            stamp_ns += 1
            if outcome.reason == CHUNKS_MISSING:
                named = list(dict.fromkeys(piece.hash for piece in command.file.write.pieces))
                assert outcome.missing and list(outcome.missing) == [h for h in named if h in outcome.missing]
                assert not self.sent.intersection(outcome.missing), self.say("a chunk that was sent is missing")
                continue
            if command.file.HasField("write"):
                assert all(piece.hash != self.missing_hash for piece in command.file.write.pieces) or outcome.errno
            expected = self.model.judge(command.file, stamp_ns, outcome.inode_id, self.warm.chunks)
            assert outcome.reason == (ERRNO if expected[0] else OK), self.say(f"{command} {outcome} {expected}")
            got = (outcome.errno, outcome.inode_id, outcome.applied_offset)
            assert got == expected, self.say(f"{command} {outcome}")
            if not expected[0]:
                assert outcome.log_index == self.model.log_index, self.say("log_index")
                assert outcome.stamp_ns == stamp_ns

    def compare(self) -> None:
        """Everything the model knows, and nothing else, is in the tree."""
        site = self.warm
        for inode_id, node in self.model.nodes.items():
            inode = site.inode(inode_id)
            size = {FILE: len(node.data), LINK: len(node.target), DIRECTORY: 0}[node.kind]
            got = (inode.kind, inode.mode, inode.inode_no, inode.mtime_ns, inode.ctime_ns, inode.nlink, inode.size)
            assert got == (node.kind, node.mode, node.number, node.mtime, node.ctime, node.nlink, size), self.say(
                f"{inode} {node.nlink}"
            )
            indexes = (inode.content_index, inode.metadata_index)
            assert indexes == (node.content_index, node.metadata_index), self.say("WS-28 indexes")
            assert read_xattrs(site.store, site.workspace_id, inode_id) == sorted(node.xattrs.items())
            if node.kind == DIRECTORY:
                listing = list_directory(site.store, site.workspace_id, inode_id, b"", 1000)
                assert [(name, found.inode_id) for name, found in listing.entries] == sorted(node.names.items())
                assert inode.entry_count == len(node.names)
            elif node.kind == FILE:
                assert first_difference(site.content(inode_id), node.data) is None, self.say("content")
            else:
                assert inode.target == node.target
        checked = verify_tree(site.store, site.workspace_id)
        assert checked is not None and checked.sound, self.say(f"{checked}")
        assert site.header.orphan_count == sum(node.nlink == 0 for node in self.model.nodes.values())
        check_references(site)

    def follow(self) -> None:
        if self.mirror is None:
            if self.draw.random() < 0.05:
                self.mirror = Mirror(self.warm)
            return
        self.mirror.follow(self.warm, restart=self.draw.random() < 0.3)


def check_references(site: Site) -> None:
    """The reference count of every chunk is the number of extents, waiting pages included, that name it."""
    counted: dict[bytes, int] = {}
    workspace_id = site.workspace_id
    pages = 0
    prefix = workspace_id + b"I"
    for key, record in site.store.scan(Family.TREE, prefix, prefix_end(prefix)):
        inode = decode_inode(key[len(prefix) :], record)
        if inode.kind == KIND_FILE:
            extents = list(ContentReader(site.store, workspace_id, inode).extents())
            assert len(extents) == inode.extent_count
            assert sum(extent.length for extent in extents) == inode.mapped_bytes
            for extent in extents:
                counted[extent.chunk_hash] = counted.get(extent.chunk_hash, 0) + 1
            pages += count_pages(site, inode.root_page, inode.extent_count, inode.inode_id)
    waiting = list(site.store.scan(Family.TREE, workspace_id + RECLAIM, prefix_end(workspace_id + RECLAIM)))
    if not waiting:
        stored = site.store.scan(Family.TREE, workspace_id + PAGE, prefix_end(workspace_id + PAGE))
        assert len(list(stored)) == pages
        for chunk_hash in site.chunks:
            presence = read_presence(site.store, workspace_id, chunk_hash)
            assert presence is not None
            assert presence.references == counted.get(chunk_hash, 0)


def count_pages(site: Site, page: int, extent_count: int, inode_id: bytes) -> int:
    from hypercluster.state_machine.workspace.content import PAGE_EXTENTS, page_key, page_slots
    from hypercluster.state_machine.workspace.records import body_of

    if not page:
        return 0
    if extent_count <= PAGE_EXTENTS:
        return 1
    record = site.store.get(Family.TREE, page_key(site.workspace_id, inode_id, page))
    assert record is not None
    return 1 + sum(count_pages(site, slot.page, slot.extent_count, inode_id) for slot in page_slots(body_of(record)))


def dump(site: Site) -> list[object]:
    assert isinstance(site.store, MemoryStore)
    return list(site.store.items())


def walk_through(seed: int, entries: int = ENTRIES) -> Walk:
    walk = Walk(seed)
    for number in range(entries):
        walk.step()
        walk.follow()
        if number % 40 == 39:
            walk.compare()
    walk.compare()
    assert first_difference(dump(walk.warm), dump(walk.cold)) is None, walk.say("a restart changed the state")
    if walk.mirror is not None:
        mirror = walk.mirror
        mirror.follow(walk.warm)
        for inode_id, node in walk.model.nodes.items():
            if node.kind == FILE:
                found = content_of(mirror.store, mirror.workspace_id, inode_id, mirror.chunks)
                assert first_difference(found, node.data) is None, walk.say("content of the worker")
        checked = verify_tree(mirror.store, mirror.workspace_id)
        assert checked is not None and checked.sound
    return walk


@pytest.mark.req("WS-10", "WS-11", "WS-13", "WS-15", "WS-16", "WS-17", "WS-20", "WS-21", "WS-22", "WS-35", "D-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_random_operations_agree_with_the_model(seed: int) -> None:
    walk_through(seed)


@pytest.mark.req("WS-28")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_base_index_is_refused_exactly_when_the_node_changed_since(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(40):
        walk.step()
    for inode_id, node in sorted(walk.model.nodes.items()):
        if node.kind == FILE:
            for base in {0, node.content_index - 1, node.content_index, walk.model.log_index}:
                outcome = walk.warm.one(ops.truncate(inode_id, len(node.data), base_index=max(0, base)))
                if base < node.content_index:
                    assert (outcome.reason, outcome.present_index) == (PRECONDITION_FAILED, node.content_index)
                    assert outcome.log_index == 0
                else:
                    assert outcome.reason == OK
                    walk.model.log_index += 1
                    node.content_index = walk.model.log_index
        outcome = walk.warm.one(ops.utimens(inode_id, None, base_index=node.metadata_index))
        assert outcome.reason == OK
        walk.model.log_index += 1
        stale = walk.warm.one(ops.utimens(inode_id, None, base_index=node.metadata_index))
        assert (stale.reason, stale.present_index) == (PRECONDITION_FAILED, outcome.log_index)
