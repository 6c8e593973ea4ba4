"""RCE and the pinned library: no pickle anywhere, exact sources, and frames that nobody has to believe."""

from __future__ import annotations

import io
import os
import pathlib
import random
import subprocess
import sys
from collections.abc import Callable

import pysyncobj
import pysyncobj.syncobj as library
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster import limits
from hypercluster.errors import InvariantError, MalformedError
from hypercluster.pb.v1.entry_pb2 import ConfigEntry, ConfigMember
from hypercluster.pb.v1.peer_pb2 import AppendEntries, PeerFrame, PeerHello, RaftEntry
from hypercluster.raft import guard
from hypercluster.raft.frames import decode_frame, piece_crc, piece_is_whole
from hypercluster.raft.journal import WalJournal
from hypercluster.raft.library_digests import SOURCE_DIGESTS
from hypercluster.raft.membership import membership_from_entry
from hypercluster.values import Index, NodeId
from tests.engine_world.memory_wal import LogDisk, MemoryWal
from tests.engine_world.world import World
from tests.known_bad.ablations import PRODUCT, build

ROOT = pathlib.Path(__file__).resolve().parents[3]
FALLING_TERMS = [RaftEntry(index=1, term=2, payload=b"x"), RaftEntry(index=2, term=1, payload=b"x")]


@pytest.mark.req("CL-1")
def test_the_library_is_the_one_that_is_pinned() -> None:
    guard.verify_library()
    with pytest.raises(InvariantError, match="needs exactly"):
        guard.verify_library(version="0.3.18")


@pytest.mark.req("CL-1")
@pytest.mark.parametrize("name", sorted(SOURCE_DIGESTS))
def test_a_change_in_any_method_that_is_used_or_overridden_is_refused(name: str) -> None:
    def changed(asked: str) -> str:
        return "other" if asked == name else SOURCE_DIGESTS[asked]

    with pytest.raises(InvariantError, match=name):
        guard.verify_library(digest=changed)


@pytest.mark.req("CL-1")
def test_every_overridden_method_is_pinned() -> None:
    from hypercluster.raft.adapter import RaftEngine

    ours = {name for cls in RaftEngine.__mro__ if cls.__module__.startswith("hypercluster") for name in vars(cls)}
    overridden = {
        name for name in ours if callable(getattr(library.SyncObj, name, None)) and name in vars(library.SyncObj)
    }
    overridden -= {"__module__", "__doc__"}
    assert overridden <= set(SOURCE_DIGESTS), sorted(overridden - set(SOURCE_DIGESTS))


@pytest.mark.req("CL-1")
@pytest.mark.parametrize("name", [PRODUCT, "RCE"])
def test_rce_pickle_is_sealed_in_every_module_of_the_library(name: str) -> None:
    harmless = b"cos\ngetpid\n(tR."  # what it calls could be anything
    with build(name) as product:
        loaders = [
            (module, loader)
            for module_name, module in sorted(sys.modules.items())
            if module_name == "pysyncobj" or module_name.startswith("pysyncobj.")
            for loader in ("loads", "load")
            if hasattr(module, loader)
        ]
        assert len(loaders) >= 3
        for owner, loader in [*loaders, (pysyncobj.pickle.pickle, "loads"), (library.pickle, "loads")]:  # type: ignore[attr-defined]
            sealed = False
            try:
                getattr(owner, loader)(harmless if loader == "loads" else io.BytesIO(harmless))
            except InvariantError as error:
                sealed = "sealed" in str(error)
            assert sealed == product


@pytest.mark.req("CL-1")
def test_outside_an_engine_the_library_has_no_journal_poller_or_clock() -> None:
    for seam in (library.createJournal, library.createPoller):
        with pytest.raises(InvariantError):
            seam(None)
    with pytest.raises(InvariantError):
        library.monotonicTime()


@pytest.mark.req("CL-1")
def test_the_librarys_own_ways_to_speak_are_closed() -> None:
    world = World()
    a = world.elect("a")
    calls: tuple[Callable[[], object], ...] = (
        lambda: a.addNodeToCluster("x"),  # type: ignore[attr-defined]
        lambda: a.setCodeVersion(0),  # type: ignore[attr-defined]
        lambda: a._SyncObj__transport.send(None, {}),  # type: ignore[attr-defined]
    )
    for call in calls:
        with pytest.raises((Exception, InvariantError)):
            call()
    journal = WalJournal(MemoryWal(LogDisk()))
    with pytest.raises(InvariantError):
        journal.clear()
    with pytest.raises(InvariantError):
        journal.add(b"\x00anything", 1, 1)


def test_the_journal_looks_to_the_library_as_its_own() -> None:
    wal = MemoryWal(LogDisk())
    journal = WalJournal(wal)
    assert (len(journal), journal[0], journal[-1]) == (1, (b"", 0, 0), (b"", 0, 0))
    journal.setCurrentTerm(3, "a")
    journal.add(b"\x01", 1, 3)
    journal.add(b"\x01", 2, 3)
    assert (len(journal), journal[-1][1:], journal[1][1:]) == (3, (2, 3), (1, 3))
    assert [row[1] for row in journal[0:10]] == [0, 1, 2]
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (3, "a")
    journal.deleteEntriesFrom(2)
    assert journal[-1][1] == 1
    journal.deleteEntriesTo(1)
    assert (len(journal), journal[0]) == (1, (b"", 1, 3))
    with pytest.raises(IndexError):
        journal[5]


@pytest.mark.req("SEC-3")
@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_malformed(content: bytes) -> None:
    try:
        frame = decode_frame(content)
    except MalformedError:
        return
    assert frame.WhichOneof("kind")


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (PeerFrame(), "kind"),
        (PeerFrame(append=AppendEntries(entries=[RaftEntry(index=2, term=0, payload=b"x")])), "index 2"),
        (PeerFrame(append=AppendEntries(entries=[RaftEntry(index=1, term=0)])), "ENTRY_BYTES_MAX"),
        (PeerFrame(append=AppendEntries(term=1, entries=[RaftEntry(index=1, term=2, payload=b"x")])), "term 2"),
        (PeerFrame(append=AppendEntries(term=2, entries=FALLING_TERMS)), r"entries\[2\]: term 1"),
        (PeerFrame(append=AppendEntries(digest=b"short")), "append.digest"),
        (PeerFrame(append=AppendEntries(term=1 << 63)), "term"),
        (PeerFrame(hello=PeerHello(incarnation=b"x")), "hello.incarnation"),
        (PeerFrame(hello=PeerHello(node_id="n" * 300)), "hello.node_id"),
    ],
)
def test_a_frame_beyond_its_limits_is_refused_by_name(frame: PeerFrame, field: str) -> None:
    with pytest.raises(MalformedError, match=field):
        decode_frame(frame.SerializeToString())


@pytest.mark.req("SEC-3")
def test_too_large_and_too_many() -> None:
    with pytest.raises(MalformedError, match="PEER_FRAME_BYTES_MAX"):
        decode_frame(bytes(limits.PEER_FRAME_BYTES_MAX + 1))
    frame = PeerFrame()
    for n in range(limits.APPEND_ENTRIES_MAX + 1):
        frame.append.entries.add(index=n + 1, payload=b"x")
    with pytest.raises(MalformedError, match=r"append\.entries holds"):
        decode_frame(frame.SerializeToString())
    request = PeerFrame()
    request.chunk_request.hashes.extend([bytes(32)] * (limits.CHUNK_REQUEST_HASHES_MAX + 1))
    with pytest.raises(MalformedError, match="CHUNK_REQUEST_HASHES_MAX"):
        decode_frame(request.SerializeToString())


@pytest.mark.req("SEC-3")
def test_garbage_from_a_member_changes_nothing() -> None:
    world = World()
    world.elect("a")
    rng = random.Random(7)
    b = world.engines["b"]
    for size in range(200):
        b._on_frame_bytes(NodeId("c"), rng.randbytes(size))
        b._on_frame_bytes(NodeId("nobody"), rng.randbytes(size))
    assert world.nodes["b"].fatal is None
    assert b.term() == 1
    world.commit("a", "x")


@pytest.mark.req("CL-15")
def test_a_member_of_another_cluster_is_not_heard() -> None:
    world = World()
    world.elect("a")
    b = world.engines["b"]
    hello = PeerFrame(
        hello=PeerHello(cluster_id=b"x" * 16, node_id="c", incarnation=b.peers[NodeId("c")].member.incarnation)
    )
    hello.hello.protocol = 1
    b._on_frame_bytes(NodeId("c"), hello.SerializeToString())
    loud = PeerFrame()
    loud.term_notice.term = 99
    b._on_frame_bytes(NodeId("c"), loud.SerializeToString())
    assert b.term() == 1


def test_a_lost_hello_is_asked_for() -> None:
    world = World()
    world.elect("a")
    world.engines["a"].peers[NodeId("b")].hello = None
    world.run(0.5)
    assert world.engines["a"].peers[NodeId("b")].hello is not None
    world.isolate("c")
    world.commit("a", "needs b")


def test_a_bad_configuration_is_refused_by_field() -> None:
    def entry(**changes: object) -> ConfigEntry:
        member = ConfigMember(node_id="a", incarnation=bytes(16), address="a:1", suffrage=1)
        for field, value in changes.items():
            setattr(member, field, value)
        return ConfigEntry(members=[member], configured_voters=1)

    membership_from_entry(entry(), Index(0))
    for field, value in (("node_id", ""), ("incarnation", b"x"), ("address", "x" * 300), ("suffrage", 7)):
        with pytest.raises(MalformedError, match=field):
            membership_from_entry(entry(**{field: value}), Index(0))
    with pytest.raises(MalformedError, match="sorted"):
        membership_from_entry(ConfigEntry(members=[*entry().members, *entry().members]), Index(0))


def test_a_pieces_crc_tells_damage() -> None:
    frame = PeerFrame()
    frame.checkpoint_piece.content = b"content"
    frame.checkpoint_piece.crc = piece_crc(b"content")
    assert piece_is_whole(frame.checkpoint_piece)
    frame.checkpoint_piece.content = b"contenT"
    assert not piece_is_whole(frame.checkpoint_piece)


@pytest.mark.req("CH-1")
def test_the_same_seed_gives_the_same_trace_under_any_hash_seed() -> None:
    program = (
        "import hashlib, logging; logging.disable(50)\n"
        "from tests.engine_world.explorer import Explorer\n"
        "trace = hashlib.sha256()\n"
        "e = Explorer(11, names='abcde', voters='abc', snapshots=True, changes=True)\n"
        "carry = e.world.carry\n"
        "def note(a, b, f):\n"
        "    trace.update(a.encode() + b.encode() + f)\n"
        "    return carry(a, b, f)\n"
        "e.world.carry = note\n"
        "e.run(400)\n"
        "print(trace.hexdigest())\n"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "4711")
    }
    assert len(traces) == 1
    assert len(traces.pop().strip()) == 64
