"""Reads of locks: pages, places, and what a new leader begins with."""

from __future__ import annotations

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import WorkspaceCreate
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.queries import Target
from hypercluster.state_machine.coordination.records import HELD, QUEUED
from hypercluster.state_machine.store import MemoryStore
from tests.fakes.commands import client
from tests.unit.coordination.table import FOUNDER, LockSite, S


def test_a_page_of_a_workspace_goes_on_behind_its_last_lock() -> None:
    site = LockSite()
    made = [site.lock(number, f"n{number % 3}", S).lock_id for number in range(1, 8)]
    store, found, after = site.replica.store, [], 0
    while True:
        page = queries.list_locks(store, site.workspace_id, after, 3)
        found += [row.lock_id for row in page.rows]
        if not page.more:
            break
        after = page.rows[-1].lock_id
    assert found == made


def test_a_target_shows_holders_then_waiters_in_the_order_they_will_be_served() -> None:
    site = LockSite()
    holders = [site.held(number, "x", S) for number in (1, 2)]
    waiters = [site.queued(number, "x") for number in (3, 4, 5)]
    store, target = site.replica.store, Target(b"", "x")
    page = queries.locks_of_target(store, site.workspace_id, target, 0, 4)
    assert [row.lock_id for row in page.rows] == [grant.lock_id for grant in (*holders, *waiters[:2])] and page.more
    assert [(row.state, row.position) for row in page.rows] == [(HELD, 0), (HELD, 0), (QUEUED, 1), (QUEUED, 2)]
    rest = queries.locks_of_target(store, site.workspace_id, target, page.rows[-1].lock_id, 4)
    assert [row.lock_id for row in rest.rows] == [waiters[2].lock_id] and not rest.more
    assert queries.locks_of_target(store, site.workspace_id, Target(b"", "y"), 0, 4).rows == ()


def test_a_row_says_who_what_and_since_when() -> None:
    site = LockSite()
    first = site.held(21, "x")
    granted = site.row(first.lock_id)
    assert granted is not None
    assert (granted.principal, granted.worker, granted.agent) == ("client/host-2", "host-2", "agent-21")
    assert (granted.asked_ns, granted.granted_ns, granted.wait_until_ns) == (first.lock_id, first.lock_id, 0)
    second = site.queued(22, "x", wait_ms=7)
    waiting = site.row(second.lock_id)
    assert waiting is not None and waiting.position == 1
    assert (waiting.asked_ns, waiting.granted_ns) == (second.lock_id, 0)
    assert waiting.wait_until_ns == second.lock_id + 7_000_000
    assert queries.read_lock(site.replica.store, site.workspace_id, 1) is None


def test_a_clients_locks_are_its_own() -> None:
    site = LockSite()
    mine = [site.lock(1, name, handle=handle).lock_id for handle, name in ((2, "b"), (1, "a"), (2, "c"))]
    site.lock(2, "a")
    rows = queries.locks_of_client(site.replica.store, site.workspace_id, client(1))
    assert [row.lock_id for row in rows] == mine


def test_the_leases_of_all_workspaces_come_in_pages() -> None:
    site = LockSite()
    made = []
    for name in ("w2", "w3", "w4"):
        command = Command(workspace_create=WorkspaceCreate(name=name, mode=0o755))
        site.workspace_id = site.send(FOUNDER, command).inode_id
        made += [(site.workspace_id, site.lock(number, "x", wait_ms=number).lock_id) for number in range(1, 6)]
    for limit in (1, 4, 5, 15, 100):
        found: list[tuple[bytes, int]] = []
        after, more = (b"", 0), True
        while more:
            page = queries.leases(site.replica.store, after, limit)
            found += [(row.workspace_id, row.lock_id) for row in page.rows]
            more = page.more
            after = found[-1]
        assert found == sorted(made), limit
    assert queries.leases(MemoryStore(), (b"", 0), 10).rows == ()


def test_waits_are_the_queued_ones_with_their_deadlines() -> None:
    site = LockSite()
    site.held(1, "x")
    waiting = [site.queued(number, "x", wait_ms=number) for number in (2, 3, 4)]
    page = queries.waits(site.replica.store, limit=2)
    assert [row.lock_id for row in page.rows] == [grant.lock_id for grant in waiting[:2]] and page.more
    last = page.rows[-1]
    rest = queries.waits(site.replica.store, (last.workspace_id, last.lock_id), 2)
    assert [(row.lock_id, row.wait_until_ns) for row in rest.rows] == [
        (waiting[2].lock_id, waiting[2].lock_id + 4_000_000)
    ]
