"""A live tree over a node that does as it is told: what is visible when, how mutations end, what stops it."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from hypercluster.client import content as content_module
from hypercluster.client.chunking import split
from hypercluster.client.live import chunk_cache, opens, replica
from hypercluster.client.live import following as following_module
from hypercluster.client.live import store as live_store
from hypercluster.client.live.live_tree import LiveSettings
from hypercluster.client.live.ports import ROOT_ID, Applied, Process, Recall
from hypercluster.client.live.shelf import forget_failure
from hypercluster.errors import MalformedError, NoQuorumError
from hypercluster.pb.v1 import command_pb2
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1.workspace_command_pb2 import FileCommand, LogBatch
from hypercluster.state_machine.workspace.queries import read_inode
from hypercluster.state_machine.workspace.records import inode_key
from tests.fakes.site_node import SiteNode
from tests.fakes.waiting import eventually, never
from tests.unit.client.live.trees import (
    HASTY,
    ME,
    append,
    create,
    following,
    founded,
    mkdir,
    place,
    read,
    rename,
    unlink,
    write,
)
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

OTHER = Process(1, 12345)


@pytest.mark.req("WS-2", "WS-32")
async def test_what_was_written_is_there_when_the_call_returns(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        directory = await mkdir(tree, b"d")
        inode_id = await create(tree, b"f", directory)
        big = random.Random(1).randbytes(300_000)
        ack = await write(tree, inode_id, big, 5)
        assert tree.view.applied_index == ack.log_index == node.site.header.log_index
        assert tree.view.root == node.site.header.root
        assert await read(tree, inode_id) == bytes(5) + big
        assert await read(tree, inode_id, 100_000, 70_000) == (bytes(5) + big)[100_000:170_000]
        assert node.fetched == []  # what this worker sent is here
        assert (await append(tree, inode_id, b"end")).applied_offset == 300_005
        assert tree.view.path_of(inode_id) == b"d/f"
        assert tree.view.resolve(b"/d/f") == tree.view.lookup(directory, b"f") == tree.view.node(inode_id)
        assert tree.view.parent_of(directory) == ROOT_ID
        assert tree.view.totals() == (300_003, 3)
        puts = [c for s in node.seen for c in s.commands if command_pb2.Command.FromString(c).HasField("chunk_put")]
        assert len(puts) == 5
        await write(tree, inode_id, big, 5)
        assert len([c for s in node.seen for c in s.commands if c != b"" and c in puts]) == 5  # none was sent again


@pytest.mark.req("WS-1", "WS-2")
async def test_a_mutation_returns_when_what_came_before_it_is_here_too(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        await eventually(lambda: tree.status().state == "live", "it follows")
        node.mute = True
        node.site.file(b"of somebody else")
        creating = asyncio.create_task(create(tree, b"mine"))
        await eventually(lambda: node.site.header.log_index == 2, "it is committed")
        await never(creating.done, "a mutation returned before its prefix was here", 0.1)
        assert tree.view.list(ROOT_ID) == []
        node.mute = False
        await node.tell()
        await asyncio.wait_for(creating, 20)
        assert [name for name, _ in tree.view.list(ROOT_ID)] == [b"mine", b"of somebody else"]


@pytest.mark.req("WS-2")
async def test_a_watched_node_that_falls_silent_does_not_hold_up_a_mutation(tmp_path: Path) -> None:
    site = founded()
    async with SiteNode(site) as leader, SiteNode(site) as other:
        other.leads = False
        async with following(leader, tmp_path / "a", others=(other,)) as tree:
            await create(tree, b"before")
            while True:
                await eventually(lambda: leader.watched + other.watched == 1, "one node is watched")
                if other.watched:
                    break
                tree._follower._watching.cancel()  # type: ignore[union-attr]
                await eventually(lambda: not leader.watched, "it is left")
            await eventually(lambda: tree.status().state == "live", "it follows")
            other.mute = True
            site.file(b"of somebody else")
            await asyncio.wait_for(create(tree, b"mine"), 4)  # it would be left after ten seconds
            assert len(tree.view.list(ROOT_ID)) == 3


@pytest.mark.req("WS-2", "WS-20")
async def test_every_operation_is_applied_from_its_acknowledgement(tmp_path: Path) -> None:
    """The watch says nothing; later it must agree."""
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        await eventually(lambda: tree.status().state == "live", "it follows")
        node.mute = True
        directory, inode_id = await mkdir(tree, b"d"), await create(tree, b"f")
        for number in range(40):  # coalesced on the way
            await append(tree, inode_id, b"%d," % number)
        header = node.site.header
        done = [
            FileCommand(create=file_pb.Create(place=place(b"f"), mode=0o600)),
            FileCommand(symlink=file_pb.Symlink(place=place(b"s", directory), target=b"../f")),
            FileCommand(link=file_pb.Link(inode_id=inode_id, place=place(b"l", directory))),
            FileCommand(rename=file_pb.Rename(source=place(b"l", directory), target=place(b"f"))),
            FileCommand(chmod=file_pb.Chmod(inode_id=inode_id, mode=0o600)),
            FileCommand(chown=file_pb.Chown(inode_id=inode_id, uid=header.uid, gid=header.gid)),
            FileCommand(utimens=file_pb.Utimens(inode_id=inode_id, mtime_ns=5)),
            FileCommand(utimens=file_pb.Utimens(inode_id=directory)),
            FileCommand(set_xattr=file_pb.SetXattr(inode_id=inode_id, name=b"user.b", value=b"2")),
            FileCommand(set_xattr=file_pb.SetXattr(inode_id=inode_id, name=b"user.a", value=b"1")),
            FileCommand(remove_xattr=file_pb.RemoveXattr(inode_id=inode_id, name=b"user.b")),
            FileCommand(truncate=file_pb.Truncate(inode_id=inode_id, size=70)),
            FileCommand(sync=file_pb.Sync(inode_id=inode_id)),
            FileCommand(rename=file_pb.Rename(source=place(b"f"), target=place(b"g"), no_replace=True)),
            FileCommand(mkdir=file_pb.Mkdir(place=place(b"gone"), mode=0o700)),
            FileCommand(rmdir=file_pb.Rmdir(place=place(b"gone"))),
        ]
        for command in done:
            ack = await asyncio.wait_for(tree.mutate(ME, command), 10)
            assert tree.view.root == ack.root
        assert (tree.view.xattrs(inode_id), tree.view.xattr(inode_id, b"user.a")) == ([b"user.a"], b"1")
        assert await read(tree, inode_id) == node.site.content(inode_id)
        link = tree.view.resolve(b"d/s")
        assert (link.symlink_target, link.size, tree.view.path_of(inode_id)) == (b"../f", 4, b"g")
        assert tree.view.node(inode_id).nlink == 2
        assert [name for name, _ in tree.view.list(ROOT_ID)] == [b"d", b"g"]
        node.mute = False
        node.site.file(b"after")
        await node.tell()
        await asyncio.wait_for(tree.barrier(), 20)
        assert tree.view.root == node.site.header.root


@pytest.mark.req("WS-1", "WS-51")
async def test_two_trees_see_the_same_operations_in_order(tmp_path: Path) -> None:
    async with (
        SiteNode(founded()) as node,
        following(node, tmp_path / "a") as a,
        following(node, tmp_path / "b") as b,
    ):
        seen: dict[str, list[int]] = {"a": [], "b": []}
        own: dict[str, int] = {"a": 0, "b": 0}
        for name, tree in (("a", a), ("b", b)):

            def note(applied: Applied, name: str = name) -> None:
                seen[name].append(applied.log_index)
                own[name] += applied.own is not None

            tree.on_applied(note)
        files = [await create(a, b"0"), await create(b, b"1")]
        await asyncio.gather(*(append(tree, files[i % 2], b"%d," % i) for i in range(40) for tree in (a, b)))
        for tree in (a, b):
            assert await tree.barrier() == 82
            assert tree.view.root == node.site.header.root
        assert seen["a"] == seen["b"] == list(range(1, 83))
        assert own == {"a": 41, "b": 41}
        assert await read(a, files[0]) == await read(b, files[0]) == node.site.content(files[0])


@pytest.mark.req("WS-21")
async def test_refusals_are_errnos(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        inode_id = await create(tree, b"f")
        for command, number in (
            (FileCommand(create=file_pb.Create(place=place(b"f"), mode=0o644, exclusive=True)), errno.EEXIST),
            (FileCommand(unlink=file_pb.Unlink(place=place(b"g"))), errno.ENOENT),
            (FileCommand(rmdir=file_pb.Rmdir(place=place(b"f"))), errno.ENOTDIR),
            (FileCommand(truncate=file_pb.Truncate(inode_id=ROOT_ID)), errno.EISDIR),
        ):
            with pytest.raises(OSError) as caught:
                await tree.mutate(ME, command)
            assert caught.value.errno == number
        with pytest.raises(OSError) as caught:
            await write(tree, inode_id, bytes((1 << 20) + 1))
        assert caught.value.errno == errno.EINVAL
        for call in (
            lambda: tree.view.lookup(ROOT_ID, b"g"),
            lambda: tree.view.lookup(inode_id, b"g"),
            lambda: tree.view.list(inode_id),
            lambda: tree.view.xattr(inode_id, b"user.none"),
            lambda: tree.view.read(ROOT_ID, 0, 1),
            lambda: tree.view.node(b"?" * 16),
        ):
            with pytest.raises(OSError):
                call()


@pytest.mark.req("WS-32")
async def test_content_that_is_cached_here_and_gone_there_is_sent_after_all(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        inode_id = await create(tree, b"f")
        content = random.Random(1).randbytes(150_000)
        chunks = {bytes(piece.chunk_hash): piece.content for piece in split(content)}
        tree._cache.put(chunks)
        await write(tree, inode_id, content)
        sent = [command_pb2.Command.FromString(c).chunk_put.hash for s in node.seen for c in s.commands]
        assert [chunk_hash for chunk_hash in sent if chunk_hash] == list(chunks)
        assert await read(tree, inode_id) == node.site.content(inode_id) == content


@pytest.mark.req("WS-29")
async def test_a_quota_is_edquot_also_where_the_content_hits_it(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        inode_id = await create(tree, b"f")
        node.site.done(ops.workspace_set(quota_bytes=50_000, quota_nodes=3))
        await write(tree, inode_id, bytes(40_000))
        for too_much in (
            lambda: write(tree, inode_id, random.Random(1).randbytes(30_000), 40_000),
            lambda: write(tree, inode_id, random.Random(2).randbytes(8_000) + b"!" * 4_000, 40_000),
            lambda: write(tree, inode_id, random.Random(3).randbytes(8_000) * 2, 40_000),
        ):
            with pytest.raises(OSError) as caught:
                await too_much()
            assert caught.value.errno == errno.EDQUOT
        await create(tree, b"g")
        with pytest.raises(OSError) as caught:
            await create(tree, b"h")
        assert caught.value.errno == errno.EDQUOT
        assert tree.view.node(inode_id).size == 40_000


@pytest.mark.req("WS-42")
async def test_a_stale_token_is_estale(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        inode_id = await create(tree, b"f")
        target = lock_pb.LockTarget(inode_id=inode_id)
        acquire = lock_pb.LockAcquire(target=target, kind=lock_pb.LOCK_KIND_EXCLUSIVE, handle_id=1)
        command = command_pb2.Command(coordination=lock_pb.CoordinationCommand(lock_acquire=acquire))
        lock = node.site.done(command).lock
        assert lock is not None
        for token, number in ((lock.token, 0), (lock.token - 1, errno.ESTALE), (lock.token + 1, errno.ESTALE)):
            guarded = FileCommand(truncate=file_pb.Truncate(inode_id=inode_id, size=token))
            guarded.guards.append(lock_pb.Guard(token=token))
            try:
                await tree.mutate(ME, guarded)
                found = 0
            except OSError as error:
                found = error.errno or -1
            assert found == number
        assert tree.view.node(inode_id).size == lock.token
        assert tree.view.root == node.site.header.root


@pytest.mark.req("WS-34")
async def test_rate_limits_do_not_show(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        await create(tree, b"before")
        node.rate_refusals = 3
        await asyncio.gather(*(create(tree, b"%d" % number) for number in range(20)))
        assert node.rate_refusals == 0


# --- no quorum, no answer -----------------------------------------------------------------------------


@pytest.mark.req("WS-3")
async def test_without_a_quorum_changes_are_erofs_and_reads_go_on(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a", HASTY) as tree:
        inode_id = await create(tree, b"f")
        await write(tree, inode_id, b"content")
        sync = FileCommand(sync=file_pb.Sync(inode_id=inode_id))
        node.leads = False
        begun = asyncio.get_running_loop().time()
        for refused in (lambda: create(tree, b"g"), tree.check_writable, lambda: tree.mutate(OTHER, sync)):
            with pytest.raises(OSError) as caught:
                await refused()
            assert caught.value.errno == errno.EROFS
        assert asyncio.get_running_loop().time() - begun >= 0.3
        assert "leader" in tree.view.read_only_reason or "quorum" in tree.view.read_only_reason
        assert tree.status().read_only_reason == tree.view.read_only_reason
        assert await read(tree, inode_id) == b"content"
        node.leads = True
        await eventually(lambda: not tree.view.read_only_reason, "it is seen that there is a leader again")
        await tree.check_writable()
        await create(tree, b"g")


@pytest.mark.req("WS-4")
async def test_an_outcome_that_stays_open_is_eio_and_stops_that_process_alone(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a", HASTY) as tree:
        await create(tree, b"before")
        await create(tree, b"other", process=OTHER)
        node.judges = False
        stuck = asyncio.create_task(create(tree, b"stuck"))
        with pytest.raises(OSError) as caught:
            await stuck
        assert caught.value.errno == errno.EIO
        with pytest.raises(OSError) as caught:
            await create(tree, b"after")
        assert caught.value.errno == errno.EROFS
        assert "no known outcome" in str(caught.value)
        node.judges = True
        await node.tell()
        await create(tree, b"of the other", process=OTHER)

        def abandoned() -> list[tuple[bytes, int]]:
            commands = [command_pb2.Command.FromString(c) for s in node.seen for c in s.commands]
            return [(c.abandon.client_id, c.abandon.through_seq) for c in commands if c.HasField("abandon")]

        await eventually(abandoned, "the intent is abandoned")
        (key,) = set(abandoned())
        assert key in {(s.client_id, s.first_seq) for s in node.seen}
        await eventually(lambda: not tree._lanes.of(ME).blocked, "the process goes on")
        await create(tree, b"after")
        lanes = {s.client_id for s in node.seen}
        assert node.seen[-1].client_id not in {key[0]} and len(lanes) == 4  # two processes, control, the new life


@pytest.mark.req("WS-4")
async def test_what_stands_behind_an_open_outcome_is_not_done(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a", HASTY) as tree:
        node.judges = False
        # A lane the cluster does not know yet has one message out at a time: the second is not sent.
        first = asyncio.create_task(create(tree, b"open", process=OTHER))
        await eventually(lambda: node.seen, "the first is sent")
        ends = await asyncio.gather(first, create(tree, b"behind", process=OTHER), return_exceptions=True)
        assert [end.errno for end in ends if isinstance(end, OSError)] == [errno.EIO, errno.EROFS]
        node.judges = True
        await node.tell()
        await eventually(lambda: not tree._lanes.of(OTHER).blocked, "the process goes on")
        await create(tree, b"after", process=OTHER)
        await tree.barrier()
        assert [name for name, _ in tree.view.list(ROOT_ID)] == [b"after", b"open"]


async def test_a_call_that_is_interrupted_before_it_was_sent_is_not_done(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:

        def mkdir_later(name: bytes, recall: Recall) -> asyncio.Task[file_pb.FileAck]:
            command = FileCommand(mkdir=file_pb.Mkdir(place=place(name), mode=0o755))
            return asyncio.create_task(tree.mutate(ME, command, recall=recall))

        await create(tree, b"before")
        node.leads = False
        recall = Recall()
        unsent = mkdir_later(b"turned away", recall)
        await eventually(lambda: len(node.seen) > 1, "it was turned away")
        await asyncio.to_thread(recall.ask)
        with pytest.raises(OSError) as caught:
            await unsent
        assert caught.value.errno == errno.EINTR
        node.leads, node.judges = True, False
        seen = len(node.seen)
        recall = Recall()
        sent = mkdir_later(b"sent", recall)
        await eventually(lambda: len(node.seen) > seen, "it was sent")
        await asyncio.to_thread(recall.ask)
        node.judges = True
        await node.tell()
        assert (await sent).log_index == 2
        assert [name for name, _ in tree.view.list(ROOT_ID)] == [b"before", b"sent"]


# --- content ------------------------------------------------------------------------------------------


@pytest.mark.req("WS-51")
async def test_an_operation_is_not_visible_before_its_content_is_here(tmp_path: Path) -> None:
    site = founded()
    inode_id = site.file(b"f")
    async with SiteNode(site) as node, following(node, tmp_path / "a") as tree:
        content = b"only in the cluster" * 1_000
        chunk_hash = blake3(content).digest()
        node.spoiled.add(chunk_hash)
        site.done(ops.chunk_put(content))
        site.done(ops.write_pieces(inode_id, 0, [(chunk_hash, 0, len(content))]))
        site.done(ops.chmod(inode_id, 0o600))
        await node.tell()
        await eventually(lambda: chunk_hash in node.fetched, "the content is asked for")
        await never(lambda: tree.view.applied_index > 1, "an operation was applied without its content", 0.2)
        assert tree.view.node(inode_id).size == 0
        assert tree.view.node(inode_id).mode == 0o644
        node.spoiled.clear()
        await asyncio.wait_for(tree.wait_applied(3), 20)
        assert await read(tree, inode_id) == content


async def test_content_that_left_the_cache_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_cache, "MEMORY_BYTES", 0)
    monkeypatch.setattr(chunk_cache, "BYTES_MAX", 1 << 28)
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        monkeypatch.setattr(tree._cache, "_bytes_max", 200_000)
        contents = [random.Random(number).randbytes(150_000) for number in range(6)]
        files = [await create(tree, b"%d" % number) for number in range(6)]
        for inode_id, content in zip(files, contents, strict=True):
            await write(tree, inode_id, content)
            await eventually(lambda: tree.status().durable_index == tree.view.applied_index, "it is on disk")
        for inode_id, content in zip(files, contents, strict=True):
            assert await read(tree, inode_id) == content
        assert node.fetched


def with_files(count: int, size: int) -> tuple[Site, dict[bytes, bytes]]:
    """A site with files of one chunk each, and what each holds."""
    site, contents = founded(), dict[bytes, bytes]()
    for number in range(count):
        inode_id, content = site.file(b"%d" % number), random.Random(number).randbytes(size)
        site.done(ops.chunk_put(content))
        site.done(ops.write_pieces(inode_id, 0, [(blake3(content).digest(), 0, size)]))
        contents[inode_id] = content
    return site, contents


async def test_content_of_a_snapshot_comes_before_it_is_asked_for(tmp_path: Path) -> None:
    site, contents = with_files(120, 9_000)
    async with SiteNode(site) as node:
        async with following(node, tmp_path / "a") as tree:
            await eventually(lambda: len(set(node.fetched)) == 120, "everything is fetched")
            await eventually(lambda: tree.status().chunk_bytes == 120 * 9_000, "and on disk")
            node.absent = set(site.chunks)
            for inode_id, content in contents.items():
                assert await read(tree, inode_id) == content
        node.fetched.clear()
        async with following(node, tmp_path / "a") as tree:
            await asyncio.wait_for(tree.barrier(), 20)
        assert node.fetched == []


async def test_content_of_a_snapshot_pushes_nothing_out(tmp_path: Path) -> None:
    site, contents = with_files(200, 60_000)
    async with SiteNode(site) as node:
        shelf = chunk_cache.ChunkCache(str(tmp_path / "a" / "chunks"), 1 << 26)
        other = random.Random(0).randbytes(65_536)
        for number in range(960):  # 60 of 64 MiB
            content = other[:-4] + number.to_bytes(4, "big")
            shelf.put({blake3(content).digest(): content})
        shelf.flush()
        before = shelf.bytes_total
        shelf.close()
        async with following(node, tmp_path / "a", settings=LiveSettings(cache_bytes=1 << 26)) as tree:
            first = next(iter(contents))
            assert await read(tree, first) == contents[first]
            await never(lambda: len(set(node.fetched)) > 70, "more is fetched than there is room for", 0.3)
            assert tree.status().chunk_bytes >= before


async def test_content_that_is_gone_everywhere_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk was overwritten and collected while this worker was behind: the read finds the later content."""
    monkeypatch.setattr(content_module, "FETCH_ROUNDS", 1)
    site = founded()
    inode_id = site.file(b"f")
    old, new = b"old" * 5_000, b"new" * 5_000
    site.done(ops.chunk_put(old))
    old_hash, new_hash = blake3(old).digest(), blake3(new).digest()
    site.done(ops.write_pieces(inode_id, 0, [(old_hash, 0, len(old))]))
    async with SiteNode(site) as node:
        node.absent = {old_hash}
        async with following(node, tmp_path / "a") as tree:
            await eventually(lambda: tree.status().state == "live", "it follows")
            node.mute = True
            site.done(ops.chunk_put(new))
            site.done(ops.write_pieces(inode_id, 0, [(new_hash, 0, len(new))]))
            reading = asyncio.create_task(read(tree, inode_id))
            await eventually(lambda: old_hash in node.fetched, "the old content is asked for")
            await never(reading.done, "a read ended before the tree had moved on", 0.3)
            assert tree.view.node(inode_id).size == len(old)
            node.mute = False
            await node.tell()
            assert await asyncio.wait_for(reading, 30) == new


async def test_an_operation_whose_content_is_gone_is_passed(tmp_path: Path) -> None:
    """It was overwritten and collected before this worker heard of it."""
    site = founded()
    async with SiteNode(site) as node, following(node, tmp_path / "a") as tree:
        inode_id = site.file(b"f")
        old = b"old" * 5_000
        site.done(ops.chunk_put(old))
        site.done(ops.write_pieces(inode_id, 0, [(blake3(old).digest(), 0, len(old))]))
        site.done(ops.write(inode_id, 0, b"n" * 8_000))
        site.done(ops.truncate(inode_id, 8_000))
        node.absent = {blake3(old).digest()}
        await node.tell()
        await asyncio.wait_for(tree.barrier(), 30)
        assert await read(tree, inode_id) == b"n" * 8_000


async def test_reads_answer_from_every_thread_while_much_is_applied(tmp_path: Path) -> None:
    site = founded()
    names = [b"%04d" % number for number in range(300)]
    for name in names:
        site.file(name)
    async with SiteNode(site) as node, following(node, tmp_path / "a") as tree:
        stop = threading.Event()
        counts: list[int] = []
        wrong: list[object] = []

        def look() -> None:
            rounds = 0
            while not stop.is_set():
                rounds += 1
                listed = tree.view.list(ROOT_ID)
                # Every file is written in turn, so at any prefix no size is above one before it. Who looks from the
                # last to the first meets later prefixes on the way, and finds the same.
                sizes = [tree.view.node(found.inode_id).size for _, found in reversed(listed)]
                if len(listed) != len(names) or sorted(sizes) != sizes:
                    wrong.append(sizes)
            counts.append(rounds)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            inodes = [tree.view.lookup(ROOT_ID, name).inode_id for name in names]
            for _ in range(4):
                for start in range(0, len(inodes), 100):
                    site.entry(*(ops.append(inode_id, b"x") for inode_id in inodes[start : start + 100]))
                    await node.tell()
            await asyncio.wait_for(tree.barrier(), 60)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not wrong
        assert len(counts) == len(threads) and sum(counts) >= len(threads)


# --- orphans ------------------------------------------------------------------------------------------


@pytest.mark.req("WS-21")
async def test_a_file_without_a_name_lives_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica.Replica.prune, "__defaults__", (0.0,))
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        held, other = await create(tree, b"f"), await create(tree, b"g")
        tree.hold(held)
        tree.hold(held)
        await unlink(tree, b"f")
        await rename(tree, b"g", b"f")
        await write(tree, held, b"still here")
        assert await read(tree, held) == b"still here"
        assert (tree.view.node(held).nlink, tree.view.path_of(held)) == (0, None)
        assert tree.held_for(0) == [held]
        tree.drop(held)
        await write(tree, other, b"x")
        await eventually(lambda: tree.status().durable_index == tree.view.applied_index, "it is on disk")
        assert tree.view.node(held).size == 10
        tree.drop(held)
        await write(tree, other, b"y")
        await eventually(lambda: tree.status().orphans == 0, "nobody holds it any more")
        with pytest.raises(OSError) as caught:
            tree.hold(held)
        assert caught.value.errno == errno.ENOENT
        node.site.done(ops.append(held, b"somebody elsewhere still has it open"))
        await node.tell()
        await write(tree, other, b"z")
        assert tree.view.root == node.site.header.root


async def test_what_is_open_for_long_is_reported_until_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opens, "LONG_S", 0.0)
    monkeypatch.setattr(opens, "EVERY_S", 0.02)
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        inode_id = await create(tree, b"f")
        await never(lambda: node.opens, "nothing is open, and it is reported", 0.1)
        tree.hold(inode_id)
        await eventually(lambda: node.opens and node.opens[-1] == {inode_id}, "it is reported")
        node.leads = False
        tree.drop(inode_id)
        reports = len(node.opens)
        await never(lambda: len(node.opens) > reports, "a node that does not lead took a report", 0.1)
        node.leads = True
        await eventually(lambda: node.opens[-1] == set(), "and that it was closed")
        reports = len(node.opens)
        await never(lambda: len(node.opens) > reports, "nothing is open, and it is reported again", 0.1)


# --- failures, restarts, snapshots --------------------------------------------------------------------


def other_root(batch: LogBatch) -> LogBatch:
    batch.records[-1].root = bytes(32)
    return batch


@pytest.mark.req("WS-5")
@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("running", [False, True])
async def test_a_replay_that_differs_stops_before_it_and_says_so(tmp_path: Path, rebuild: bool, running: bool) -> None:
    site = founded()
    async with SiteNode(site) as node:
        async with following(node, tmp_path / "a") as tree:
            await create(tree, b"good")
            node.liar = other_root
            site.file(b"bad")
            await node.tell()
            await eventually(lambda: tree.view.read_only_reason, "the tree stops")
            assert tree.view.applied_index == 1
            assert [name for name, _ in tree.view.list(ROOT_ID)] == [b"good"]
            with pytest.raises(OSError) as caught:
                await create(tree, b"more")
            assert caught.value.errno == errno.EROFS
            status = tree.status()
            assert (status.error_log_index, status.error_errno, status.state) == (2, errno.EIO, "stopped")
            await eventually(lambda: node.sessions and node.sessions[-1].error_log_index == 2, "the cluster is told")
            with pytest.raises(MalformedError, match="in use"):
                forget_failure(str(tmp_path / "a"), rebuild=rebuild)
        node.liar = None
        if not running:
            forgotten = forget_failure(str(tmp_path / "a"), rebuild=rebuild)
            assert forgotten is not None
            assert forgotten.log_index == 2
            assert forget_failure(str(tmp_path / "a"), rebuild=rebuild) is None
        async with following(node, tmp_path / "a") as tree:
            if running:
                assert tree.status().error_log_index == 2  # it is there again after a restart
                await tree.clear_failure(rebuild=rebuild)
            await asyncio.wait_for(tree.barrier(), 20)
            assert tree.status().snapshots == rebuild
            assert tree.view.read_only_reason == ""
            assert [name for name, _ in tree.view.list(ROOT_ID)] == [b"bad", b"good"]


@pytest.mark.req("WS-52")
@pytest.mark.parametrize("behind", [False, True])
async def test_the_end_of_a_catch_up_compares_roots(tmp_path: Path, behind: bool) -> None:
    site = founded()
    async with SiteNode(site) as node:
        async with following(node, tmp_path / "a") as tree:
            await create(tree, b"f")
        if behind:
            site.file(b"g")
        node.head_root = b"?" * 32
        async with following(node, tmp_path / "a") as tree:
            await eventually(lambda: "the cluster has" in tree.view.read_only_reason, "the tree stops")
            assert tree.status().error_log_index == site.header.log_index


@pytest.mark.req("WS-5")
async def test_a_tree_that_a_disk_has_changed_is_noticed(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node:
        async with following(node, tmp_path / "a") as tree:
            inode_id = await create(tree, b"f")
        async with following(node, tmp_path / "a") as tree:
            await eventually(lambda: not tree._follower._unchecked._open, "it was looked at")  # type: ignore[union-attr]
            assert tree.view.read_only_reason == ""
        (found,) = (tmp_path / "a").glob("tree-*")
        store = live_store.TreeStore(str(found))
        inode = read_inode(store, node.site.workspace_id, inode_id)
        assert inode is not None
        inode.mode ^= 0o111
        key = inode_key(node.site.workspace_id, inode_id)
        store.write([replica.Change(replica.Family.TREE, key, inode.place + inode.encode())])
        store.flush_now()
        store.close()
        async with following(node, tmp_path / "a") as tree:
            await eventually(lambda: "add up" in tree.view.read_only_reason, "the tree stops")
            await tree.clear_failure(rebuild=True)
            await asyncio.wait_for(tree.barrier(), 20)
            assert tree.view.node(inode_id).mode == 0o644


@pytest.mark.req("WS-5")
async def test_a_disk_that_fails_stops_it_for_this_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SiteNode(founded()) as node:
        async with following(node, tmp_path / "a") as tree:
            await create(tree, b"durable")
            await eventually(lambda: tree.status().durable_index == 1, "it is on disk")
            with monkeypatch.context() as patch:

                def full(_: object) -> None:
                    raise OSError(errno.ENOSPC, "no space left")

                patch.setattr(live_store.TreeStore, "flush", full)
                await create(tree, b"visible")
                await eventually(lambda: "no space left" in tree.view.read_only_reason, "the tree stops")
                with pytest.raises(OSError) as caught:
                    await create(tree, b"refused")
                assert caught.value.errno == errno.EROFS
                assert [name for name, _ in tree.view.list(ROOT_ID)] == [b"durable", b"visible"]
                assert tree.status().error_errno == errno.ENOSPC
            await tree.clear_failure(rebuild=False)
            await create(tree, b"again")
            await eventually(lambda: tree.status().durable_index == 3, "it is on disk")
        async with following(node, tmp_path / "a") as tree:
            assert len(tree.view.list(ROOT_ID)) == 3


async def test_applying_waits_for_a_disk_that_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "UNFLUSHED_CHANGES_MAX", 10)
    gate, flush = threading.Event(), live_store.TreeStore.flush

    def slow(store: live_store.TreeStore) -> None:
        gate.wait(20)
        flush(store)

    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        await eventually(lambda: tree.status().state == "live", "it follows")
        monkeypatch.setattr(live_store.TreeStore, "flush", slow)
        try:
            for number in range(20):
                node.site.file(b"%d" % number)
                await node.tell()
            await eventually(lambda: tree.view.applied_index > 0, "it begins")
            await never(lambda: tree.view.applied_index == 20, "everything is in memory", 0.2)
        finally:
            gate.set()
        await asyncio.wait_for(tree.wait_applied(20), 20)


async def test_a_log_that_tells_another_story_than_an_acknowledgement_stops_the_tree(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        await eventually(lambda: tree.status().state == "live", "it follows")
        node.mute = True
        await create(tree, b"f")
        node.liar, node.mute = other_root, False
        await node.tell()
        await eventually(lambda: "told another" in tree.view.read_only_reason, "the tree stops")


async def test_a_callback_that_fails_makes_the_tree_read_only(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        before: list[int] = []

        async def invalidate(applied: Applied) -> None:
            before.append(tree.view.applied_index)
            if applied.entries == ((ROOT_ID, b"bad"),):
                raise RuntimeError("the kernel would not listen")

        tree.on_applied(invalidate)
        await create(tree, b"good")
        with pytest.raises(OSError) as caught:
            await create(tree, b"bad")
        assert caught.value.errno == errno.EIO
        assert before == [0, 1]
        assert (tree.view.applied_index, "would not listen" in tree.view.read_only_reason) == (1, True)


@pytest.mark.req("WS-1", "WS-52")
async def test_a_restart_goes_on_from_what_was_durable(tmp_path: Path) -> None:
    site = founded()
    async with SiteNode(site) as node:
        async with following(node, tmp_path / "a") as tree:
            inode_id = await create(tree, b"f")
            await write(tree, inode_id, b"before" * 3_000)
            assert tree.status().snapshots == 1
        site.done(ops.append(inode_id, b" after"))
        async with following(node, tmp_path / "a") as tree:
            await asyncio.wait_for(tree.barrier(), 20)
            assert tree.status().snapshots == 0
            assert await read(tree, inode_id) == b"before" * 3_000 + b" after"
            assert node.fetched == []
        node.leads = False
        async with following(node, tmp_path / "a", HASTY) as tree:  # reads need nobody
            assert await read(tree, inode_id) == b"before" * 3_000 + b" after"


@pytest.mark.req("WS-52")
@pytest.mark.parametrize("why", ["retention", "history"])
async def test_a_log_that_does_not_reach_back_means_a_snapshot(tmp_path: Path, why: str) -> None:
    site = founded()
    async with SiteNode(site) as node:
        async with following(node, tmp_path / "a") as tree:
            held = await create(tree, b"f")
            tree.hold(held)
        site.file(b"g")
        async with following(node, tmp_path / "a") as tree:
            await asyncio.wait_for(tree.barrier(), 20)
            tree.hold(held)
            all_new: list[Applied] = []
            tree.on_applied(lambda applied: all_new.append(applied) if applied.everything else None)
            site.file(b"h")
            if why == "retention":
                node.kept_from = 4
                site.file(b"i")
            else:
                node.history_id = b"another-history-"
            tree._follower._watching.cancel()  # type: ignore[union-attr]
            await eventually(lambda: tree.status().snapshots == 1, "the tree is fetched")
            await asyncio.wait_for(tree.barrier(), 20)
            assert tree.view.root == site.header.root
            assert [applied.everything for applied in all_new] == [True]
            tree.drop(held)
        assert len([found for found in (tmp_path / "a").iterdir() if found.name.startswith("tree-")]) == 1


async def test_one_process_has_a_state_directory_and_one_workspace_its_tree(tmp_path: Path) -> None:
    async with SiteNode(founded()) as node:
        async with following(node, tmp_path / "a"):
            with pytest.raises(MalformedError, match="in use"):
                async with following(node, tmp_path / "a"):
                    pass
        other = founded()
        other.workspace_id = other.found("second").inode_id
        async with SiteNode(other) as elsewhere:
            with pytest.raises(MalformedError, match="belongs to"):
                async with following(elsewhere, tmp_path / "a"):
                    pass


async def test_a_snapshot_that_does_not_add_up_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = founded()
    site.file(b"f")
    async with SiteNode(site) as node:
        monkeypatch.setattr(site.overlay, "derived", site.overlay.derived)
        prefix = site.workspace_id + b"E"
        key, _ = next(iter(site.store.scan(replica.Family.TREE, prefix, prefix + b"\xff")))
        site.store.write([replica.Change(replica.Family.TREE, key, None)])
        with pytest.raises(NoQuorumError, match="does not add up"):
            async with following(node, tmp_path / "a", settings=LiveSettings(start_s=1.0)):
                pass
