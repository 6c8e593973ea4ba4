"""The small files of a data directory: quarantine, apply failure, peers met, founding; and the plan of a rejoin."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hypercluster.errors import DamagedError, FatalError, TooLargeError, WrongDirectoryError
from hypercluster.limits import QUARANTINED_MAX
from hypercluster.state_machine.machine import Quarantined
from hypercluster.storage import founding, quarantine
from hypercluster.storage.birth import BIRTH_BYTES, birth_of
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.identity import Identity, load_identity
from hypercluster.storage.met_peers import MET_PEERS_MAX, MetPeers
from hypercluster.storage.rejoin_plan import RejoinDirectory, RejoinPlan, Stage
from hypercluster.values import (
    NO_INDEX,
    ClusterId,
    HistoryId,
    Incarnation,
    Index,
    Member,
    Membership,
    NodeId,
    Suffrage,
)

DISK = PosixDisk()
LISTED = (Quarantined(Index(7), None), Quarantined(Index(7), 0), Quarantined(Index(7), 3), Quarantined(Index(900), 12))


def life(number: int) -> Incarnation:
    return Incarnation(number.to_bytes(16, "big"))


def members(*, index: int = 0, promote: bool = False) -> Membership:
    last = Suffrage.LEARNER if promote else Suffrage.VOTER
    return Membership(
        Index(index),
        3,
        (
            Member(NodeId("n1"), life(1), "10.0.0.1:7802", Suffrage.VOTER),
            Member(NodeId("n2"), life(2), "[::1]:7802", Suffrage.LEARNER),
            Member(NodeId("n3"), life(3), "h:7802", last, promote),
        ),
    )


def refuses_every_damage(path: Path, load: Callable[[], object]) -> None:
    """Each flipped bit, each shorter length and whatever stands behind are noticed."""
    whole = path.read_bytes()
    wrong = [
        whole[:i] + bytes((whole[i] ^ (1 << bit),)) + whole[i + 1 :] for i in range(len(whole)) for bit in range(8)
    ]
    wrong += [whole[:i] for i in range(len(whole))]
    wrong += [whole + b"\n", whole + whole, bytes(len(whole)), whole + bytes(20_000)]
    for content in wrong:
        path.write_bytes(content)
        with pytest.raises(FatalError, match="is damaged"):
            load()
    path.write_bytes(whole)
    load()


@pytest.mark.req("CL-16")
def test_a_quarantine_is_kept_sorted_without_repetition_and_notices_damage(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert quarantine.load_quarantine(DISK, directory) == ()
    for one in reversed(LISTED):
        quarantine.add_quarantine(DISK, directory, one)
    assert quarantine.add_quarantine(DISK, directory, LISTED[0]) == LISTED
    assert quarantine.load_quarantine(DISK, directory) == LISTED
    assert os.listdir(directory) == ["quarantine"]
    refuses_every_damage(tmp_path / "quarantine", lambda: quarantine.load_quarantine(DISK, directory))


@pytest.mark.req("CL-16")
def test_a_quarantine_is_bounded_and_a_newer_format_is_refused(tmp_path: Path) -> None:
    directory = str(tmp_path)
    for index in range(1, QUARANTINED_MAX + 1):
        quarantine.add_quarantine(DISK, directory, Quarantined(Index(index)))
    with pytest.raises(TooLargeError, match=f"QUARANTINED_MAX is {QUARANTINED_MAX}"):
        quarantine.add_quarantine(DISK, directory, Quarantined(Index(10**6)))
    newer = quarantine._closed(["hypercluster quarantine, format: 2", "whatever: it says"])
    (tmp_path / "quarantine").write_bytes(newer)
    with pytest.raises(WrongDirectoryError, match="format 2"):
        quarantine.load_quarantine(DISK, directory)


@pytest.mark.req("CL-16")
def test_the_note_of_a_failed_apply_only_rises(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert quarantine.load_failure(DISK, directory) == 0
    for index, known in ((9, 9), (5, 9), (12, 12)):
        quarantine.note_failure(DISK, directory, index)
        assert quarantine.load_failure(DISK, directory) == known
    refuses_every_damage(tmp_path / "apply-failed", lambda: quarantine.load_failure(DISK, directory))


@pytest.mark.req("CL-15")
def test_whoever_was_met_is_known_after_a_restart(tmp_path: Path) -> None:
    met = MetPeers(DISK, str(tmp_path))
    assert met.admit(life(1), b"a" * 16, ())
    assert met.admit(life(2), b"", ())
    for again in (met, MetPeers(DISK, str(tmp_path))):
        assert again.admit(life(1), b"a" * 16, ()), "the same process, over another stream"
        assert again.admit(life(1), b"", ()), "a log from before births were kept"
        assert not again.admit(life(1), b"b" * 16, ()), "no log, and it was here before"
        assert not again.admit(life(2), b"b" * 16, ()), "it had a log when it was met"
    refuses_every_damage(tmp_path / "met", lambda: MetPeers(DISK, str(tmp_path)))


@pytest.mark.req("CL-15")
def test_a_lost_log_stays_noticed_when_the_node_is_started_again(tmp_path: Path) -> None:
    """The first start after the loss makes a new log, so only what is kept beside it can tell."""
    directory = str(tmp_path)
    met = MetPeers(DISK, directory)
    first = birth_of(DISK, directory, had_log=False)
    assert len(first) == BIRTH_BYTES and met.admit(life(1), first, ())
    assert birth_of(DISK, directory, had_log=True) == first, "a restart that found its log"
    lost = birth_of(DISK, directory, had_log=False)
    again = birth_of(DISK, directory, had_log=True)
    assert lost == again != first
    assert not met.admit(life(1), lost, ()) and not met.admit(life(1), again, ())
    refuses_every_damage(tmp_path / "birth", lambda: birth_of(DISK, directory, had_log=True))
    (tmp_path / "birth").unlink()
    assert birth_of(DISK, directory, had_log=True) == b"", "a directory from before births were kept"


@pytest.mark.req("CL-15")
def test_members_are_not_forgotten_for_those_that_left(tmp_path: Path) -> None:
    met = MetPeers(DISK, str(tmp_path))
    present = {life(n) for n in range(1, 16)}
    for number in range(1, 500):
        assert met.admit(life(number), b"a" * 16, present)
    assert all(not met.admit(one, b"b" * 16, present) for one in present)
    assert len((tmp_path / "met").read_bytes().splitlines()) == MET_PEERS_MAX + 2


@pytest.mark.req("CL-15")
@pytest.mark.parametrize("wanted", [members(), members(index=41), members(index=41, promote=True)])
def test_founding_members_come_back_as_they_were(tmp_path: Path, wanted: Membership) -> None:
    founding.create_founding(DISK, str(tmp_path), wanted)
    assert founding.load_founding(DISK, str(tmp_path)) == wanted
    first = (tmp_path / "founding").read_text().splitlines()[0]
    assert first.endswith("format: 1" if wanted.index == NO_INDEX else "format: 2")
    refuses_every_damage(tmp_path / "founding", lambda: founding.load_founding(DISK, str(tmp_path)))


def plan() -> RejoinPlan:
    return RejoinPlan(
        ClusterId(b"c" * 16), HistoryId(b"h" * 16), NodeId("n3"), life(3), "data.aside-x", "10.0.0.3:7802"
    )


@pytest.mark.req("CL-15")
def test_a_plan_of_a_rejoin_notices_damage(tmp_path: Path) -> None:
    directory = RejoinDirectory(DISK, str(tmp_path / "data"))
    DISK.mkdir(directory.work)
    assert directory.load() is None
    directory.write(plan())
    assert directory.load() == plan()
    refuses_every_damage(tmp_path / "data.rejoin" / "plan", directory.load)


@pytest.mark.req("CL-15")
def test_a_new_directory_replaces_the_old_one_which_stays_aside(tmp_path: Path) -> None:
    directory = RejoinDirectory(DISK, str(tmp_path / "data"))
    DISK.mkdir(directory.work)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("bytes")
    directory.write(plan())
    assert directory.move_aside(plan())
    assert directory.move_aside(plan()), "again: it is there already"
    placing = directory.make(plan(), members(index=5, promote=True), LISTED)
    assert placing == replace(plan(), stage=Stage.PLACING) == directory.load()
    assert not directory.is_spent(placing)
    directory.place(placing)
    directory.place(placing)
    assert directory.is_placed(placing)
    data = str(tmp_path / "data")
    assert load_identity(DISK, data) == Identity(plan().cluster_id, NodeId("n3"), life(3), plan().history_id)
    assert quarantine.load_quarantine(DISK, data) == LISTED
    assert founding.load_founding(DISK, data).index == 5
    assert (tmp_path / "data.aside-x" / "precious").read_text() == "bytes"
    DISK.rename(data, str(tmp_path / "lost again"))
    assert directory.is_spent(placing), "its incarnation may have been in use"
    (tmp_path / "data").mkdir()
    with pytest.raises(WrongDirectoryError, match="appeared again"):
        directory.move_aside(plan())


@pytest.mark.req("CL-15")
def test_damage_names_the_way_back(tmp_path: Path) -> None:
    (tmp_path / "met").write_bytes(b"nonsense")
    with pytest.raises(DamagedError, match=r"hypercluster node rejoin --config node\.toml"):
        MetPeers(DISK, str(tmp_path))
