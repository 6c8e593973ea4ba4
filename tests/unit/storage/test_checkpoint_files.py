"""Checkpoints on disk: the manifest's decoder, the order of syncs, what a damaged directory answers."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.errors import DamagedError, DiskFailedError, WrongDirectoryError
from hypercluster.state_machine.store import Family
from hypercluster.storage import checkpoint_build, checkpoint_manifest, install_plan
from hypercluster.storage.checkpoint_manifest import HEADER, MAGIC, CheckpointFile
from hypercluster.storage.install_plan import InstallPaths
from hypercluster.storage.node_storage import NodeStorage, forget
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.tree import DirectoryTree
from hypercluster.values import CheckpointMeta, Digest, Index, Term
from tests.contracts.storages import (
    HISTORY,
    MEMBERSHIP,
    RealNode,
    StepRunner,
    commit,
    referenced,
    refuse_fatal,
    state_of,
)

GOOD_FILES = (CheckpointFile("000012.sst", 10, "ab" * 32), CheckpointFile("CURRENT", 3, "cd" * 32))


def encoded(files: tuple[CheckpointFile, ...] = GOOD_FILES) -> bytes:
    return checkpoint_manifest.encode(Index(7), Term(2), Digest(b"d" * 32), MEMBERSHIP, 99, HISTORY, files)


@pytest.mark.req("CL-8")
def test_a_manifest_reads_back() -> None:
    manifest = checkpoint_manifest.decode(encoded(), "it")
    assert manifest.files == GOOD_FILES
    assert manifest.history_id == HISTORY
    assert manifest.meta == CheckpointMeta(
        checkpoint_id="0000000000000007-0000000000000002",
        index=Index(7),
        term=Term(2),
        digest=Digest(b"d" * 32),
        membership=MEMBERSHIP,
        bytes_total=len(encoded()) + 13,
        last_stamp_ns=99,
    )


@pytest.mark.req("CL-8")
@pytest.mark.parametrize(
    "name", ["../000001.sst", "/etc/passwd", "000001.sst\n", "", "LOCK", "CHECKPOINT", "000001.sst/..", "x" * 300]
)
def test_a_manifest_can_not_name_files_elsewhere(name: str) -> None:
    with pytest.raises(DamagedError, match="name"):
        checkpoint_manifest.decode(encoded((CheckpointFile(name, 1, "ab" * 32),)), "it")


@pytest.mark.req("CL-8")
def test_a_manifest_names_a_file_once() -> None:
    with pytest.raises(DamagedError, match="twice"):
        checkpoint_manifest.decode(encoded(GOOD_FILES[:1] * 2), "it")


@pytest.mark.req("CL-15")
def test_a_newer_manifest_is_refused_with_the_way_out() -> None:
    raw = HEADER.pack(MAGIC, 99, 0, 0)
    with pytest.raises(WrongDirectoryError, match=r"format 99.*newer version"):
        checkpoint_manifest.decode(raw, "it")


@settings(max_examples=200, derandomize=True, deadline=None)
@given(at=st.integers(0, len(encoded()) - 1), flip=st.integers(1, 255), cut=st.integers(0, len(encoded())))
def test_a_damaged_manifest_is_never_read(at: int, flip: int, cut: int) -> None:
    raw = bytearray(encoded())
    raw[at] ^= flip
    with pytest.raises((DamagedError, WrongDirectoryError)):
        checkpoint_manifest.decode(bytes(raw), "it")
    if cut < len(raw):
        with pytest.raises(DamagedError):
            checkpoint_manifest.decode(encoded()[:cut], "it")


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    found=st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
)
def test_any_json_with_a_right_checksum_is_refused_not_crashed_on(found: object) -> None:
    import json

    import google_crc32c

    body = json.dumps(found).encode()
    raw = HEADER.pack(MAGIC, 1, len(body), google_crc32c.value(body)) + body
    with pytest.raises(DamagedError):
        checkpoint_manifest.decode(raw, "it")


class RecordingTree(DirectoryTree):
    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        super().__init__(lambda step: self.steps.append((step.split(" ", 1)[0], step.split(" ", 1)[1])))


def open_node(directory: Path, tree: DirectoryTree, runner: StepRunner) -> NodeStorage:
    return NodeStorage(
        str(directory),
        HISTORY,
        chunk_runner=runner,
        checkpoint_runner=runner,
        referenced_hashes=referenced,
        on_fatal=refuse_fatal,
        settings=RocksSettings(block_cache_bytes=1 << 20),
        tree=tree,
    )


@pytest.mark.req("CL-8")
def test_a_checkpoint_is_named_only_when_every_file_of_it_is_synced(tmp_path: Path) -> None:
    tree, runner = RecordingTree(), StepRunner()
    node = RealNode(tmp_path / "node")
    node.storage.close()
    node.runner, node.storage = runner, open_node(tmp_path / "node", tree, runner)
    for index in range(1, 5):
        commit(node, index)
    tree.steps.clear()
    node.storage.checkpoints.create(Index(4), Term(1), MEMBERSHIP, lambda _meta: None)
    runner.run()
    meta = node.storage.checkpoints.latest()
    assert meta is not None
    final = node.storage.paths.checkpoint(meta.checkpoint_id)
    renamed = tree.steps.index(("rename", final))
    before, after = tree.steps[:renamed], tree.steps[renamed + 1 :]
    for name in os.listdir(final):
        synced = {os.path.basename(path).removesuffix(".new") for verb, path in before if verb == "sync"}
        assert name in synced, f"{name} is not synced before the checkpoint has its name"
    making = os.path.join(node.storage.paths.staging, f"make-{meta.checkpoint_id}")
    assert ("syncdir", making) in before
    assert ("syncdir", node.storage.paths.checkpoints) in after
    node.storage.close()


@pytest.mark.req("CL-8")
def test_tables_of_the_checkpoint_before_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, hashed = RealNode(tmp_path / "node"), []
    real = checkpoint_build.hash_file
    monkeypatch.setattr(checkpoint_build, "hash_file", lambda path: hashed.append(os.path.basename(path)) or real(path))
    for index in range(1, 4):
        commit(node, index)
        node.storage.checkpoints.create(Index(index), Term(1), MEMBERSHIP, lambda _meta: None)
        node.runner.run()
    tables = [name for name in hashed if name.endswith(".sst")]
    assert len(tables) == len(set(tables))
    assert len(node.storage.checkpoints.kept()) == 2
    for manifest in node.storage.checkpoints.kept():
        directory = node.storage.paths.checkpoint(manifest.meta.checkpoint_id)
        for file in manifest.files:
            assert real(os.path.join(directory, file.name)) == file.blake3_hex
    node.storage.close()


@pytest.mark.req("CL-8")
def test_a_state_that_went_on_before_it_was_linked_costs_the_checkpoint(tmp_path: Path) -> None:
    node = RealNode(tmp_path / "node")
    commit(node, 1)
    answers: list[object] = []
    node.storage.checkpoints.create(Index(1), Term(1), MEMBERSHIP, answers.append)
    commit(node, 2)
    node.storage.store.flush()  # what a caller that ignores a stall brings about
    node.runner.run()
    assert answers == [None]
    assert os.listdir(node.storage.paths.staging) == []
    node.storage.checkpoints.create(Index(2), Term(1), MEMBERSHIP, answers.append)
    node.runner.run()
    assert node.storage.checkpoints.latest() == answers[1]
    node.storage.close()


@pytest.mark.req("CL-8")
def test_the_old_state_is_kept_until_the_new_one_is_in_its_place(tmp_path: Path) -> None:
    sender = RealNode(tmp_path / "sender")
    commit(sender, 5)
    sender.storage.checkpoints.create(Index(5), Term(1), MEMBERSHIP, lambda _meta: None)
    sender.runner.run()
    meta = sender.storage.checkpoints.latest()
    assert meta is not None
    tree, runner = RecordingTree(), StepRunner()
    node = open_node(tmp_path / "node", tree, runner)
    receiver = node.checkpoints.receive(meta)
    receiver.write(0, sender.storage.checkpoints.read_piece(meta.checkpoint_id, 0, meta.bytes_total) or b"")
    receiver.verify()
    tree.steps.clear()
    receiver.install()
    paths = node.paths
    steps = [
        ("rename", paths.plan),
        ("rename", paths.checkpoint(meta.checkpoint_id)),
        ("syncdir", paths.state_new),
        ("rename", paths.state_old),
        ("rename", paths.state),
        ("remove", paths.state_old),
        ("unlink", paths.plan),
    ]
    assert [step for step in tree.steps if step in steps] == steps
    node.close()
    sender.storage.close()


@pytest.mark.req("CL-8")
def test_no_step_of_a_checkpoint_forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fork() -> int:
        raise AssertionError("os.fork was called")

    monkeypatch.setattr(os, "fork", no_fork)
    node = RealNode(tmp_path / "node")
    commit(node, 1)
    node.storage.checkpoints.create(Index(1), Term(1), MEMBERSHIP, lambda _meta: None)
    node.runner.run()
    assert node.storage.checkpoints.latest() is not None
    node.storage.close()


@pytest.mark.req("CL-4")
def test_a_failure_while_making_one_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = RealNode(tmp_path / "node")
    commit(node, 1)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint_build, "finish", fail)
    answers: list[object] = []
    node.storage.checkpoints.create(Index(1), Term(1), MEMBERSHIP, answers.append)
    with pytest.raises(DiskFailedError):
        node.runner.run()
    assert answers == [None]
    monkeypatch.undo()
    node.runner.run()
    node.storage.close()


@pytest.mark.req("CL-15")
def test_a_damaged_manifest_on_disk_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    node = RealNode(tmp_path / "node")
    commit(node, 1)
    node.storage.checkpoints.create(Index(1), Term(1), MEMBERSHIP, lambda _meta: None)
    node.runner.run()
    meta = node.storage.checkpoints.latest()
    assert meta is not None
    paths = InstallPaths(str(tmp_path / "node"))
    node.storage.close()
    manifest = Path(paths.checkpoint(meta.checkpoint_id)) / checkpoint_manifest.MANIFEST_NAME
    raw = bytearray(manifest.read_bytes())
    raw[-1] ^= 1
    manifest.write_bytes(raw)
    with pytest.raises(DamagedError, match=r"CHECKPOINT fails its checksum.*Remove that directory"):
        open_node(tmp_path / "node", DirectoryTree(), StepRunner())


@pytest.mark.req("CL-15")
def test_a_damaged_or_newer_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = InstallPaths(str(tmp_path))
    monkeypatch.setattr(install_plan, "PLAN_VERSION", 9)
    install_plan.write_plan(DirectoryTree(), paths, "0" * 16 + "-" + "0" * 16)
    monkeypatch.undo()
    with pytest.raises(WrongDirectoryError, match="newer"):
        open_node(tmp_path, DirectoryTree(), StepRunner())
    rng = random.Random(1)
    raw = bytearray(Path(paths.plan).read_bytes())
    raw[rng.randrange(len(raw))] ^= 1
    Path(paths.plan).write_bytes(raw)
    with pytest.raises(DamagedError, match=r"install.plan.*hypercluster node rejoin"):
        open_node(tmp_path, DirectoryTree(), StepRunner())


@pytest.mark.req("CL-15")
def test_a_state_that_vanished_beside_its_old_one_is_not_served_as_empty(tmp_path: Path) -> None:
    node = RealNode(tmp_path / "node")
    commit(node, 1)
    node.storage.close()
    (tmp_path / "node" / "state").rename(tmp_path / "node" / "state.old")
    with pytest.raises(DamagedError, match="missing beside"):
        open_node(tmp_path / "node", DirectoryTree(), StepRunner())


def test_usage_counts_shared_tables_once_and_forget_leaves_nothing(tmp_path: Path) -> None:
    node = RealNode(tmp_path / "node")
    for index in range(1, 200):
        commit(node, index, chunk_text=f"chunk {index}")
    node.storage.checkpoints.create(Index(199), Term(1), MEMBERSHIP, lambda _meta: None)
    node.runner.run()
    assert isinstance(node.storage, NodeStorage)
    usage = node.storage.usage()
    assert usage.chunk_bytes >= node.storage.chunks.content_bytes
    tables = sum(node.storage.store.database.table_files().values())
    assert usage.state_bytes >= tables
    assert usage.checkpoint_bytes < usage.state_bytes
    assert usage.free_bytes == node.storage.free_bytes() or usage.free_bytes > 0
    node.storage.close()
    forget(str(tmp_path / "node"))
    assert os.listdir(tmp_path / "node") == []
    node.reopen = lambda: None  # type: ignore[method-assign]
    fresh = RealNode(tmp_path / "node")
    assert state_of(fresh) == []
    assert fresh.storage.store.applied.index == 0
    assert list(fresh.storage.store.scan(Family.HUB, b"", b"\xff")) == []
    fresh.storage.close()
