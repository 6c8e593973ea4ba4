"""Reservations and settings one by one: who may, for how long, how many, and what is told (WS-29, WS-45, WS-56)."""

from __future__ import annotations

import pytest

from hypercluster.limits import (
    LOCAL_PATTERNS_BYTES_MAX,
    NAMES_OF_INODE_KEPT,
    RESERVATION_TTL_MS,
    RESERVATIONS_MAX,
    SNAPSHOT_EVERY_S,
    SNAPSHOTS_KEPT,
    SNAPSHOTS_MAX,
)
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.coordination_command_pb2 import LOCK_STATE_FREE, LOCK_STATE_HELD
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.state_machine.coordination.claiming import read_settings
from hypercluster.state_machine.coordination.reservations import list_reservations, live_reservations
from hypercluster.state_machine.coordination.settings import WorkspaceSettings
from hypercluster.state_machine.outcome import ERRNO, FENCED, LIMIT, FileOutcome, LockGrant
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.errnos import EACCES, EDQUOT, EINVAL, EPERM
from hypercluster.state_machine.workspace.hazards import OVERLAPPING_WRITE
from hypercluster.state_machine.workspace.paths import best_path, known_paths, names_of
from hypercluster.values import ClientId
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Mirror, Sent, Site

ANN, BOB = ClientId(b"client-------ann"), ClientId(b"client-------bob")
MS = 1_000_000


@pytest.fixture
def site() -> Site:
    made = Site()
    made.found()
    return made


def by(site: Site, who: str, command: Command, worker: str = "host-1") -> FileOutcome:
    return site.mixed(Sent(command, ANN if who == "ann" else BOB, worker, who))[0]


def reserve(site: Site, who: str, pattern: bytes, exclusive: bool = True, ttl_ms: int = 10_000) -> int:
    outcome = by(site, who, ops.reserve(pattern, exclusive, ttl_ms))
    assert outcome.reason == 0 and outcome.lock is not None, outcome
    assert outcome.lock == LockGrant(LOCK_STATE_HELD, outcome.stamp_ns)
    return outcome.lock.lock_id


@pytest.mark.req("WS-45")
def test_enforcement_is_off_until_it_is_set(site: Site) -> None:
    site.file(b"a")
    reserve(site, "ann", b"*")
    assert by(site, "bob", ops.unlink(ROOT, b"a")).errno == 0
    assert by(site, "ann", ops.workspace_set(enforce_reservations=True)).reason == 0
    assert by(site, "bob", ops.create(ROOT, b"a")).errno == EACCES
    assert by(site, "ann", ops.create(ROOT, b"a")).errno == 0
    site.restart()
    assert by(site, "bob", ops.unlink(ROOT, b"a")).errno == EACCES
    assert by(site, "bob", ops.sync(site.file_id(b"a"))).errno == 0


@pytest.mark.req("WS-45")
def test_a_write_by_inode_is_denied_by_any_path_of_it(site: Site) -> None:
    src = site.directory(b"src")
    inode_id = site.file(b"main.py", src)
    site.done(ops.link(inode_id, ROOT, b"second"))
    site.done(ops.workspace_set(enforce_reservations=True))
    reserve(site, "ann", b"src/**")
    assert by(site, "bob", ops.write(inode_id, 0, b"x")).errno == EACCES
    assert by(site, "bob", ops.rename(ROOT, b"second", src, b"third")).errno == EACCES
    assert by(site, "ann", ops.rename(ROOT, b"src", ROOT, b"lib")).errno == 0
    assert best_path(site.store, site.workspace_id, inode_id) == b"lib/main.py"
    assert by(site, "bob", ops.write(inode_id, 0, b"x")).errno == 0


@pytest.mark.req("WS-45")
def test_the_oldest_of_those_that_cover_a_path_decides(site: Site) -> None:
    site.done(ops.workspace_set(enforce_reservations=True))
    first = reserve(site, "ann", b"src/**")
    reserve(site, "bob", b"**")
    src = by(site, "ann", ops.mkdir(ROOT, b"src")).inode_id
    assert by(site, "bob", ops.create(src, b"a")).errno == EACCES
    assert by(site, "ann", ops.create(src, b"a")).errno == 0
    assert by(site, "ann", ops.create(ROOT, b"b")).errno == EACCES
    assert by(site, "ann", ops.unreserve(first)).lock == LockGrant(LOCK_STATE_FREE, first)
    assert by(site, "bob", ops.create(src, b"b")).errno == 0


@pytest.mark.req("WS-45", "D-6")
def test_one_that_ended_counts_for_nothing_from_that_stamp_on(site: Site) -> None:
    inode_id = site.file(b"a")
    site.done(ops.workspace_set(enforce_reservations=True))
    made = reserve(site, "ann", b"a", ttl_ms=1_000)
    site.stamp_ns = made + 1_000 * MS - 2
    assert by(site, "bob", ops.write(inode_id, 0, b"x")).errno == EACCES  # judged at one nanosecond before its end
    assert by(site, "bob", ops.write(inode_id, 0, b"x")).errno == 0
    assert by(site, "ann", ops.renew(made)).reason == FENCED
    assert by(site, "ann", ops.unreserve(made)).reason == FENCED
    assert live_reservations(site.store, site.workspace_id, site.stamp_ns) == []


@pytest.mark.req("WS-45")
def test_only_its_owner_renews_or_ends_a_reservation(site: Site) -> None:
    made = reserve(site, "ann", b"a", ttl_ms=1_000)
    assert by(site, "bob", ops.renew(made)).errno == EPERM
    assert by(site, "ann", ops.unreserve(made), worker="host-2").errno == EPERM
    site.stamp_ns += 900 * MS
    other_process = Sent(ops.renew(made, 5_000), BOB, "host-1", "ann")
    assert site.mixed(other_process)[0].lock == LockGrant(LOCK_STATE_HELD, made)
    assert live_reservations(site.store, site.workspace_id, 0)[0].expires_ns == site.stamp_ns + 5_000 * MS
    assert by(site, "ann", ops.renew(made, pattern=b"b")).errno == EINVAL
    assert by(site, "ann", ops.renew(made, pattern=b"a", exclusive=True)).errno == 0
    assert by(site, "ann", ops.renew(made + 1)).reason == FENCED


@pytest.mark.req("WS-45", "WS-46")
def test_a_reserved_operation_takes_no_part_in_hazards(site: Site) -> None:
    inode_id = site.file(b"a")
    mine = reserve(site, "ann", b"a", exclusive=False)
    elsewhere = reserve(site, "ann", b"b", exclusive=False)
    assert by(site, "bob", ops.write(inode_id, 0, b"x")).reason == 0
    assert by(site, "ann", ops.under(ops.write(inode_id, 0, b"x"), elsewhere, mine)).hazard is None
    assert LogBatch.FromString(site.batches[-1]).records[0].reserved
    for cold in (False, True):
        if cold:
            site.restart()
        told = by(site, "bob", ops.under(ops.write(inode_id, 0, b"x"), mine)).hazard
        assert told is None, "the only other write is reserved"
    told = by(site, "ann", ops.under(ops.write(inode_id, 0, b"x"), elsewhere)).hazard
    assert told is not None and told.kind == OVERLAPPING_WRITE


@pytest.mark.req("WS-45")
def test_a_workspace_has_so_many_reservations_alive_and_no_more_records(site: Site) -> None:
    for _ in range(RESERVATIONS_MAX - 1):
        reserve(site, "ann", b"a", ttl_ms=5_000)
    short = reserve(site, "bob", b"a", ttl_ms=1_000)
    assert by(site, "bob", ops.reserve(b"a")).reason == LIMIT
    site.stamp_ns = short + 1_000 * MS
    reserve(site, "bob", b"b")
    assert len(list_reservations(site.store, site.workspace_id)) == RESERVATIONS_MAX
    assert by(site, "bob", ops.reserve(b"a")).reason == LIMIT
    site.stamp_ns += 5_000 * MS
    reserve(site, "bob", b"c")
    assert [one.pattern for one in list_reservations(site.store, site.workspace_id)] == [b"b", b"c"]


@pytest.mark.parametrize("ttl_ms", [RESERVATION_TTL_MS[0] - 1, RESERVATION_TTL_MS[1] + 1])
def test_what_admission_would_turn_away_apply_refuses(site: Site, ttl_ms: int) -> None:
    assert by(site, "ann", ops.reserve(b"a", ttl_ms=ttl_ms)).errno == EINVAL
    assert by(site, "ann", ops.reserve(b"/a")).errno == EINVAL
    assert by(site, "ann", ops.workspace_set(snapshots_kept=SNAPSHOTS_MAX + 1)).errno == EINVAL
    assert by(site, "ann", ops.workspace_set(local_patterns=bytes(LOCAL_PATTERNS_BYTES_MAX + 1))).reason == LIMIT
    assert site.last_changes == []


# --- settings ---------------------------------------------------------------------------------------


@pytest.mark.req("WS-29", "WS-56")
def test_settings_are_kept_as_they_were_given_and_what_is_absent_stays(site: Site) -> None:
    mirror = Mirror(site)
    before = site.header.log_index
    assert read_settings(site.store, bytes(16)) is None
    assert read_settings(site.store, site.workspace_id) == WorkspaceSettings(
        b"", False, SNAPSHOT_EVERY_S, SNAPSHOTS_KEPT, 0, 0
    )
    patterns = b"/target/\n!keep\n\xff*\r\n\n"
    site.done(ops.workspace_set(local_patterns=patterns, snapshot_every_s=0, quota_bytes=10))
    site.done(ops.workspace_set(snapshots_kept=7, quota_nodes=2, enforce_reservations=True))
    site.restart()
    assert read_settings(site.store, site.workspace_id) == WorkspaceSettings(patterns, True, 0, 7, 10, 2)
    site.done(ops.workspace_set(local_patterns=b"", enforce_reservations=False))
    assert read_settings(site.store, site.workspace_id) == WorkspaceSettings(b"", False, 0, 7, 10, 2)
    assert site.header.log_index == before, "settings take no log_index"
    inode_id = site.file(b"a")
    assert site.one(ops.write(inode_id, 0, b"0123456789a")).errno == EDQUOT
    assert site.one(ops.create(ROOT, b"b")).errno == EDQUOT
    site.done(ops.workspace_set(quota_nodes=0))
    site.done(ops.create(ROOT, b"b"))
    mirror.follow(site)


# --- names, kept backwards --------------------------------------------------------------------------


def test_so_many_names_of_an_inode_are_kept(site: Site) -> None:
    inode_id = site.file(b"0")
    for number in range(1, NAMES_OF_INODE_KEPT + 2):
        site.done(ops.link(inode_id, ROOT, b"%d" % number))
    kept = [found.name for found in names_of(site.store, site.workspace_id, inode_id)]
    assert kept == [b"%d" % number for number in range(NAMES_OF_INODE_KEPT)]
    site.done(ops.unlink(ROOT, b"%d" % NAMES_OF_INODE_KEPT))
    site.done(ops.unlink(ROOT, b"3"))
    site.done(ops.link(inode_id, ROOT, b"new"))
    names = [found.name for found in names_of(site.store, site.workspace_id, inode_id)]
    assert b"3" not in names and names[-1] == b"new"


def test_an_orphan_and_what_stands_below_one_have_no_path(site: Site) -> None:
    directory = site.directory(b"d")
    inode_id = site.file(b"f")
    site.done(ops.unlink(ROOT, b"f"))
    site.done(ops.rmdir(ROOT, b"d"))
    for orphan in (directory, inode_id):
        assert known_paths(site.store, site.workspace_id, orphan) == []
        assert best_path(site.store, site.workspace_id, orphan) == b""
    prefix = site.workspace_id + b"N"
    assert list(site.store.scan(Family.COORDINATION, prefix, prefix + b"\xff" * 17)) == []


def test_a_refusal_says_nothing_but_why(site: Site) -> None:
    outcome = by(site, "ann", ops.unreserve(1))
    assert (outcome.reason, outcome.errno, outcome.lock) == (FENCED, 0, None)
    assert by(site, "bob", ops.renew(reserve(site, "ann", b"a"))) == FileOutcome(reason=ERRNO, errno=EPERM)
