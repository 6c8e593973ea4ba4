"""The mirror against the tree it mirrors: random histories, random batches, and a crash at every kind of moment.

Expected is read from the node's own store with its queries; actual is read from disk. The mirror's own `verify` must
agree with that comparison. HYPERCLUSTER_SEED=n replays one seed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import tempfile
import traceback
from pathlib import Path
from typing import Any

import pytest

from hypercluster.client.sqlite_store import SqliteStore
from hypercluster.client.worker import mirror_disk
from hypercluster.client.worker.applying import Applier
from hypercluster.client.worker.plan import Plan
from hypercluster.client.worker.planning import Planner
from hypercluster.errors import FatalError, HyperClusterError, MalformedError
from tests.unit.client.worker.mirroring import HISTORY, Mirroring
from tests.unit.client.worker.random_tree import RandomTree

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(3)
MORE_SEEDS = range(100, 140)
MUTATIONS = (
    *("rename", "unlink", "link", "symlink", "mkdir", "open", "pwrite", "ftruncate"),
    *("chmod", "utime", "setxattr", "removexattr", "chown"),
)


class Crash(Exception):
    pass


class CrashingOs:
    """The os module, until the n-th change of anything."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in MUTATIONS:
            return found

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Crash
            return found(*args, **kwargs)

        return counted


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """These crashes are of the process: what it wrote stays, so the waits for the disk would show nothing."""
    monkeypatch.setattr(mirror_disk.MirrorDisk, "sync", lambda self: None)
    monkeypatch.setattr(SqliteStore, "_sync_log", lambda self: None)


class NotingOs:
    """The os module; notes each change of the mirror itself."""

    def __init__(self, top: bytes, changed: list[str]) -> None:
        self.top = top
        self.changed = changed

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in MUTATIONS:
            return found

        def noted(*args: Any, **kwargs: Any) -> Any:
            if name in ("pwrite", "ftruncate") or any(isinstance(a, bytes) and a.startswith(self.top) for a in args):
                self.changed.append(name)
            return found(*args, **kwargs)

        return noted


@pytest.mark.req("WS-1", "WS-55", "WS-63")
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_mirror_equals_its_tree(seed: int, tmp_path: Path) -> None:
    await mirror_a_history(seed, tmp_path)


@pytest.mark.long
@pytest.mark.req("WS-1", "WS-55", "WS-63")
@pytest.mark.parametrize("seed", MORE_SEEDS)
async def test_a_mirror_equals_its_tree_over_many_seeds(seed: int, tmp_path: Path) -> None:
    await mirror_a_history(seed, tmp_path)


async def mirror_a_history(seed: int, tmp_path: Path) -> None:
    tree = RandomTree(seed)
    for _ in range(tree.draw.choice((0, 30))):
        tree.step()
    mirroring = Mirroring(tree, tmp_path)
    await mirroring.bootstrap()
    mirroring.check(f"seed {seed}, after the snapshot")
    for turn in range(6):
        for _ in range(25):
            tree.step()
        await mirroring.follow(batch_max=tree.draw.choice((1, 5, 200)))
        mirroring.check(f"seed {seed}, turn {turn}")
        if tree.draw.random() < 0.3:
            mirroring.mirror.close()
            mirroring.open()
    mirroring.mirror.close()


@pytest.mark.req("WS-55")
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_crash_at_any_step_is_made_good(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await crash_and_recover(seed, tmp_path, monkeypatch, turns=15)


@pytest.mark.long
@pytest.mark.req("WS-55")
@pytest.mark.parametrize("seed", MORE_SEEDS)
async def test_a_crash_at_any_step_is_made_good_over_many_seeds(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crash_and_recover(seed, tmp_path, monkeypatch, turns=50)


@pytest.mark.req("WS-55")
@pytest.mark.parametrize("seed", SEEDS)
async def test_applied_index_never_passes_what_is_synced(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsynced: list[str] = []
    syncs = 0
    put_record = SqliteStore.put_record

    def sync(_: mirror_disk.MirrorDisk) -> None:
        nonlocal syncs
        syncs += 1
        unsynced.clear()

    def put(store: SqliteStore, name: str, value: bytes | None) -> None:
        if name == "applied_index" and value is not None:
            assert not unsynced, f"seed {seed}: {unsynced} before applied_index {int.from_bytes(value, 'big')}"
        put_record(store, name, value)

    monkeypatch.setattr(mirror_disk.MirrorDisk, "sync", sync)
    monkeypatch.setattr(SqliteStore, "put_record", put)
    monkeypatch.setattr(mirror_disk, "os", NotingOs(os.fsencode(tmp_path / "mirror"), unsynced))
    await mirror_a_history(seed, tmp_path)
    assert syncs > 6


UNPRIVILEGED = 65534
READABLE = (0o644, 0o400, 0o4755, 0o555)  # the comparison has to read what it compares


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="not run: needs root, to become somebody else")
@pytest.mark.req("WS-63")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_is_not_root_keeps_modes_that_shut_it_out(seed: int) -> None:
    base = Path(tempfile.mkdtemp())
    os.chown(base, UNPRIVILEGED, UNPRIVILEGED)
    try:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgid(UNPRIVILEGED)
                os.setuid(UNPRIVILEGED)
                with pytest.MonkeyPatch.context() as monkeypatch:
                    asyncio.run(crash_and_recover(seed, base, monkeypatch, turns=8, file_modes=READABLE))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"seed {seed}"
    finally:
        shutil.rmtree(base)


async def test_a_directory_that_is_no_mirror_is_never_touched(tmp_path: Path) -> None:
    tree = RandomTree(1)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "precious").write_text("mine")
    with pytest.raises(MalformedError, match="is no mirror"):
        Mirroring(tree, tmp_path)
    assert (tmp_path / "mirror" / "precious").read_text() == "mine"
    (tmp_path / "mirror" / "precious").unlink()
    mirroring = Mirroring(tree, tmp_path)
    await mirroring.bootstrap()
    mirroring.mirror.close()
    other = RandomTree(2)
    with pytest.raises(MalformedError, match="mirrors the workspace"):
        Mirroring(other, tmp_path)


@pytest.mark.req("WS-52", "WS-55")
async def test_a_rebuild_whose_last_sync_fails_is_no_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store commits what is open when it is closed, and "ready" must not be among it."""
    mirroring = Mirroring(RandomTree(1), tmp_path)

    def fails(_: mirror_disk.MirrorDisk) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(mirror_disk.MirrorDisk, "sync", fails)
        with pytest.raises(OSError, match="no room"):
            await mirroring.bootstrap()
    mirroring.mirror.close()
    mirroring.open()
    assert not mirroring.mirror.is_of(HISTORY)
    await mirroring.recover()
    mirroring.check("after the second rebuild")


@pytest.mark.req("WS-55")
@pytest.mark.parametrize("bad", ["detaches twice", "forgets its plan", "forgets further names"])
async def test_a_bad_build_is_found(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    match bad:
        case "detaches twice":
            monkeypatch.setattr(Plan, "moves", property(lambda plan: False))
        case "forgets its plan":

            async def recover(applier: Applier) -> bool:
                store, plan = applier._mirror.store, applier._mirror.plan()
                if plan is not None:
                    store.put_record("plan", None)
                    store.put_record("applied_index", plan.upto.to_bytes(8, "big"))
                return False

            monkeypatch.setattr(Applier, "recover", recover)
        case _:
            monkeypatch.setattr(Planner, "_kept_spot", lambda planner, inode_id: None)
    found = ""
    for seed in range(6):
        base = tmp_path / str(seed)
        base.mkdir()
        with monkeypatch.context() as inner:
            try:
                await crash_and_recover(seed, base, inner, turns=15)
            except (AssertionError, FatalError, HyperClusterError, OSError) as error:
                found = str(error)
                break
    assert found


async def crash_and_recover(
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    turns: int,
    file_modes: tuple[int, ...] = (0o644, 0o400, 0o4755, 0o000),
) -> None:
    tree = RandomTree(1000 + seed, file_modes)
    draw = random.Random(seed)
    mirroring = Mirroring(tree, tmp_path)
    await mirroring.bootstrap()
    crashes = 0
    for turn in range(turns):
        for _ in range(draw.choice((1, 4, 15))):
            tree.step()
        after = draw.randrange(60)
        while True:
            monkeypatch.setattr(mirror_disk, "os", CrashingOs(after))
            try:
                await mirroring.recover()
                await mirroring.follow(batch_max=draw.choice((3, 60)))
                break
            except Crash:
                crashes += 1
                after = after + draw.randrange(30)
                mirroring.kill()
                monkeypatch.setattr(mirror_disk, "os", os)
                mirroring.open()
        monkeypatch.setattr(mirror_disk, "os", os)
        mirroring.check(f"seed {seed}, turn {turn}")
    assert crashes > turns // 8
    mirroring.mirror.close()
