"""The small parts of the client: chunking, the scan of a local tree, pacing, the journal, settings, plans, ranges."""

from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path

import pytest
from blake3 import blake3

from hypercluster.client.chunking import is_inline, split
from hypercluster.client.client import Client, derive_client_id
from hypercluster.client.import_scan import scan, user_xattrs
from hypercluster.client.journal import FileJournal, command_digest
from hypercluster.client.lane_types import Settled, Verdict
from hypercluster.client.local_patterns import LocalPatterns
from hypercluster.client.pacing import RATE_MIN_PER_S, UNLIMITED, Pacer
from hypercluster.client.settings import ClientSettings, read_settings
from hypercluster.client.stream import CommandStream
from hypercluster.client.worker import plan as plans
from hypercluster.client.worker.mirror import WINDOW_BYTES, pieces_in, windows
from hypercluster.client.worker.planning import changed_ranges
from hypercluster.errors import InvariantError, MalformedError
from hypercluster.limits import CHUNK_BYTES_MAX, INLINE_BYTES_MAX
from hypercluster.pb.v1 import command_pb2, hub_command_pb2
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.records import KIND_FILE, Inode

MS = 1_000_000


@pytest.mark.req("WS-14")
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES_MAX - 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 3 * CHUNK_BYTES_MAX])
def test_content_is_cut_into_named_chunks(size: int) -> None:
    content = random.Random(size).randbytes(size)
    pieces = list(split(content, 1_000))
    assert b"".join(p.content for p in pieces) == content
    assert all(0 < len(p.content) <= CHUNK_BYTES_MAX for p in pieces)
    assert [p.offset for p in pieces] == [1_000 + i * CHUNK_BYTES_MAX for i in range(len(pieces))]
    assert all(p.chunk_hash == blake3(p.content).digest() for p in pieces)


@pytest.mark.req("WS-14")
def test_small_content_travels_inline() -> None:
    assert is_inline(bytes(INLINE_BYTES_MAX))
    assert not is_inline(bytes(INLINE_BYTES_MAX + 1))


@pytest.mark.req("WS-10")
def test_client_ids_differ_and_change_after_fork() -> None:
    ids = {derive_client_id(worker, instance, lane) for worker in "ab" for instance in (b"1", b"2") for lane in (1, 2)}
    assert len(ids) == 8
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, derive_client_id("a", b"1", 1))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 16) not in ids
    os.close(reader)
    os.close(writer)


@pytest.mark.req("WS-56")
def test_a_scan_leaves_out_what_is_local_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "src" / "build").mkdir(parents=True)
    (tmp_path / "src" / "build" / "x").touch()
    (tmp_path / "src" / "a.o").touch()
    (tmp_path / "src" / "a.c").touch()
    tree = scan(os.fsencode(tmp_path), LocalPatterns(b"build/\n*.o\n"))
    assert [e.path for e in tree.files] == [b"src/a.c"]
    assert [e.path for e in tree.directories] == [b"src"]
    assert sorted(path for path, _ in tree.skipped) == [b"src/a.o", b"src/build"]
    assert all("local patterns" in why for _, why in tree.skipped)
    assert len(scan(os.fsencode(tmp_path)).files) == 3


def test_a_scan_finds_every_kind(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "file").write_bytes(b"123")
    os.link(tmp_path / "d" / "file", tmp_path / "z")
    (tmp_path / "s").symlink_to("d")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "d" / "file").chmod(0o4711)
    os.setxattr(tmp_path / "d" / "file", "user.a", b"1")
    tree = scan(os.fsencode(tmp_path))
    assert [e.path for e in tree.directories] == [b"d", b"d/e"]
    assert [[e.path for e in group] for group in tree.by_depth()] == [[b"d"], [b"d/e"]]
    assert [(link.path, link.target) for link in tree.links] + [(e.path, e.path) for e in tree.files] in (
        [(b"z", b"d/file"), (b"d/file", b"d/file")],
        [(b"d/file", b"z"), (b"z", b"z")],
    )
    assert tree.files[0].mode == 0o4711
    assert [e.path for e in tree.symlinks] == [b"s"]
    assert tree.skipped == [(b"pipe", "not a file, directory or symlink")]
    assert tree.bytes_total == 3
    assert user_xattrs(os.fsencode(tmp_path / "z")) == ([(b"user.a", b"1")], [])


@pytest.mark.req("WS-34")
def test_the_pacer_waits_as_long_as_it_is_told_and_cuts_once_a_pause() -> None:
    pacer = Pacer()
    assert pacer.budget(0) == UNLIMITED
    for at in range(10):
        pacer.spend(at * 100 * MS, 100)
    for _ in range(5):  # refusals of messages that were on their way together
        pacer.slow_down(1_000 * MS, 300 * MS)
    assert pacer.budget(1_299 * MS) == 0
    assert pacer.next_ns(1_000 * MS) == 1_300 * MS
    sent = 0
    for at in range(1_300, 2_300):
        budget = pacer.budget(at * MS)
        pacer.spend(at * MS, budget)
        sent += budget
    assert 700 < sent < 1_200


@pytest.mark.req("WS-34")
def test_the_pacer_never_stops_for_good() -> None:
    pacer = Pacer()
    now = 0
    for _ in range(100):
        pacer.slow_down(now, 10 * MS)
        now += 20 * MS
    passed = sum(
        1 for at in range(1_000) if (pacer.budget(now + at * MS) > 0 and pacer.spend(now + at * MS, 1) is None)
    )
    assert passed >= RATE_MIN_PER_S * 0.9


@pytest.mark.req("CH-5")
def test_the_journal_writes_what_checkers_read() -> None:
    lines = io.StringIO()
    journal = FileJournal(lines, "p1")
    hub = hub_command_pb2.HubCommand(namespace="metadata", key=b"k", payload=b"1")
    command = command_pb2.Command(hub=hub).SerializeToString()
    journal.record("invoke", 5, b"c" * 16, 7, command, None)
    journal.record("ok", 9, b"c" * 16, 7, command, Settled(1, Verdict.OK, 0, raft_index=3, version=4))
    invoke, ok = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (invoke["type"], invoke["seq"], invoke["key"], invoke["value"]) == ("invoke", 7, "k", "1")
    assert invoke["command"] == ok["command"] == command_digest(command)
    assert (ok["type"], ok["raft_index"], ok["version"], ok["verdict"]) == ("ok", 3, 4, "ok")


def test_settings_name_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    for text, words in (
        ("", "nodes must be a list"),
        ("nodes = []", "0 addresses"),
        ('nodes = ["host"]', "is not HOST:PORT"),
        ('nodes = ["h:1"]\n[tls]\nca = "a"', "tls.cert must name a file"),
        ("nodes = [", "client.toml"),
    ):
        path.write_text(text)
        with pytest.raises(MalformedError, match=words):
            read_settings(path)
    path.write_text('nodes = ["h:1"]\n[tls]\nca = "a"\ncert = "b"\nkey = "/c"')
    settings = read_settings(path)
    assert settings.nodes == ("h:1",)
    assert settings.tls is not None
    assert (settings.tls.trust, settings.tls.key) == (tmp_path / "a", Path("/c"))
    with pytest.raises(MalformedError):
        ClientSettings(())


@pytest.mark.req("WS-55")
def test_a_plan_comes_back_from_disk_as_it_was() -> None:
    plan = plans.Plan(
        7,
        True,
        [plans.Stash(b"a/\xff", b"i" * 16), plans.Discard(b"b", b"j" * 16, True)],
        [plans.MakeDirectory(b"c", b"k" * 16), plans.Place(b"c/\x01", b"i" * 16)],
        [plans.Link(b"d", b"c/\x01")],
        [plans.Rewrite(b"e", b"l" * 16, 100, ((0, 10), (50, 5)))],
        [plans.Dress(b"", bytes(16))],
    )
    assert plans.decode(plan.encode()) == plan
    assert plan.moves
    assert not plan.is_empty


def random_extents(draw: random.Random, size: int) -> list[Extent]:
    found, at = [], 0
    while at < size:
        length = draw.randrange(1, 20)
        if draw.random() < 0.7 and at + length <= size:
            found.append(Extent(at, length, draw.choice((0, at, 3)), draw.choice((b"A" * 32, b"B" * 32))))
        at += length
    return found


def painted(extents: list[Extent], size: int) -> list[object]:
    """What each byte of a file is, by its extents."""
    out: list[object] = [None] * size
    for extent in extents:
        for i in range(extent.length):
            if extent.offset + i < size:
                out[extent.offset + i] = (extent.chunk_hash, extent.chunk_offset + i)
    return out


@pytest.mark.req("WS-13")
@pytest.mark.parametrize("seed", range(60))
def test_changed_ranges_cover_exactly_what_reads_differently(seed: int) -> None:
    draw = random.Random(seed)
    old_size, size = draw.randrange(200), draw.randrange(200)
    old, new = random_extents(draw, old_size), random_extents(draw, size)
    if draw.random() < 0.5:
        keep = draw.randrange(200)
        new = [e for e in old if e.end <= min(keep, size)] + [e for e in new if e.offset >= keep]
    before, after = painted(old, max(size, old_size))[:size], painted(new, size)
    before += [None] * (size - len(before))
    ranges = changed_ranges(old, new, size)
    touched = {i for offset, length in ranges for i in range(offset, offset + length)}
    assert touched == {i for i in range(size) if before[i] != after[i]}, f"seed {seed}"
    pieces = pieces_in(new, ranges)
    written = painted([p for p in pieces if p.chunk_hash], size)
    for i in range(size):
        assert not (i in touched and written[i] != after[i]), f"seed {seed}"
    assert {i for p in pieces for i in range(p.offset, p.end)} == touched, f"seed {seed}"


@pytest.mark.parametrize("seed", range(20))
def test_windows_keep_the_order_and_the_bound(seed: int) -> None:
    draw = random.Random(seed)
    files = []
    for number in range(draw.randrange(1, 60)):
        count = draw.choice((0, 1, 2, 400))
        pieces = [Extent(i * CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, 0, bytes([number]) * 32) for i in range(count)]
        inode = Inode(number.to_bytes(16, "big"), KIND_FILE, 0o644, 0, 0, 1, number, 0, 0, 0)
        files.append((inode, b"", pieces))
    got: dict[bytes, list[Extent]] = {}
    ended: set[bytes] = set()
    for window in windows(files):
        assert sum(p.length for portion in window.portions for p in portion.pieces) <= WINDOW_BYTES + CHUNK_BYTES_MAX
        for portion in window.portions:
            key = portion.inode.inode_id
            assert portion.first == (key not in got)
            assert key not in ended
            got.setdefault(key, []).extend(portion.pieces)
            if portion.last:
                ended.add(key)
    assert got == {inode.inode_id: pieces for inode, _, pieces in files}
    assert len(ended) == len(files)


async def test_a_defect_in_the_stream_is_heard_by_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(stream: CommandStream, now_ns: int) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr(CommandStream, "_pump", broken)
    async with Client(ClientSettings(("127.0.0.1:1",))) as client:
        for _ in range(2):
            with pytest.raises(InvariantError, match="defect"):
                await client.hub.set("metadata", b"k", b"1")
