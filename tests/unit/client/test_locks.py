"""What a lock does to its body when its lease goes, with a client that reaches no cluster (WS-60)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hypercluster.client.client import Client
from hypercluster.client.leases import Held, boot_ns
from hypercluster.client.locks import Lock, checked_name, wait_fields
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import Workspace
from hypercluster.errors import InvariantError, LockLostError, MalformedError, NoQuorumError, TurnedAwayError
from hypercluster.pb.v1 import coordination_command_pb2 as pb

ID = b"workspace-------"


class Site:
    """A workspace of a client, and locks whose grants a test makes and takes back, as the cluster would."""

    def __init__(self, client: Client) -> None:
        self.leases = client.leases
        self.workspace = Workspace(client, ID, "w")

    def lock(self, lock_id: int) -> Lock:
        async def enter(lock: Lock) -> Held:
            ack = pb.LockAck(state=pb.LOCK_STATE_HELD, lock_id=lock_id, token=lock_id + 100)
            now_ns = boot_ns()
            self.leases._tell(self.leases._table.enter(ID, ack, now_ns, now_ns))
            return self.leases._hold(ID, lock_id, ack.token)

        return Lock(self.workspace, f"lock {lock_id}", enter)

    def lose(self, lock_id: int) -> None:
        self.leases._tell(self.leases._table.ended(lock_id, "the cluster has ended the lease"))


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    async with Client(ClientSettings(("127.0.0.1:9",))) as client:
        yield Site(client)


async def for_ever() -> None:
    await asyncio.Event().wait()


@pytest.mark.req("WS-60")
async def test_the_body_of_a_lost_lock_is_cancelled_and_what_comes_out_says_so(site: Site) -> None:
    lock = site.lock(1)

    async def body() -> None:
        async with lock:
            assert (lock.token, lock.lock_id, lock.lost) == (101, 1, False)
            asyncio.get_running_loop().call_soon(site.lose, 1)
            await for_ever()

    with pytest.raises(LockLostError, match=r"lock 1 was lost: the cluster has ended the lease"):
        await body()
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0
    await asyncio.sleep(0)  # nothing of the cancellation is left


@pytest.mark.req("WS-60")
async def test_a_body_that_does_not_notice_or_fails_by_itself_is_no_way_out(site: Site) -> None:
    async def deaf() -> str:
        async with site.lock(1):
            site.lose(1)
            try:
                await for_ever()
            except asyncio.CancelledError:
                return "as if nothing had happened"
        return ""

    with pytest.raises(LockLostError):
        await deaf()

    async def failing() -> None:
        async with site.lock(2):
            site.lose(2)
            raise ValueError("my own")

    with pytest.raises(LockLostError) as lost:
        await failing()
    assert isinstance(lost.value.__cause__, ValueError)


@pytest.mark.req("WS-60")
async def test_who_cancels_the_body_for_another_reason_is_not_told_that_it_was_the_lock(site: Site) -> None:
    inside = asyncio.Event()

    async def body() -> None:
        async with site.lock(1):
            inside.set()
            await for_ever()

    task = asyncio.create_task(body())
    await inside.wait()
    task.cancel()
    site.lose(1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.req("WS-60", "WS-42")
async def test_after_the_loss_neither_token_nor_guard_nor_write(site: Site) -> None:
    lock = await site.lock(1).acquire()
    guarded = lock.workspace
    assert lock.guard().token == 101 and lock.ends_ns > boot_ns()
    site.lose(1)
    assert lock.lost and lock.ends_ns == 0
    for use in (lambda: lock.token, lambda: lock.lock_id, lock.guard):
        with pytest.raises(LockLostError):
            use()
    with pytest.raises(LockLostError):
        await guarded.ops.truncate(bytes(16), 0)
    with pytest.raises(LockLostError):
        await lock.release()
    with pytest.raises(InvariantError):
        lock.guard()


@pytest.mark.req("WS-60")
async def test_both_of_two_locks_may_go(site: Site) -> None:
    async def body() -> None:
        async with site.lock(1), site.lock(2):
            site.lose(1)
            site.lose(2)
            await for_ever()

    with pytest.raises(LockLostError):
        await body()
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


@pytest.mark.req("WS-60")
async def test_a_client_that_closes_tells_who_still_holds(site: Site) -> None:
    lock = await site.lock(1).acquire()
    await site.leases.close()
    assert lock.lost
    with pytest.raises((TurnedAwayError, LockLostError)):
        await lock.release()


def test_names_and_waits_have_their_bounds() -> None:
    assert checked_name("deploy/prod:1_a-b.c") == "deploy/prod:1_a-b.c"
    for name in ("", "x" * 129, "a b", "ü", "a\n"):
        with pytest.raises(MalformedError, match="name"):
            checked_name(name)
    assert (wait_fields(None), wait_fields(0), wait_fields(0.0001)) == ((True, 0), (False, 0), (True, 1))
    for wait_s in (-1, 1e9):
        with pytest.raises(MalformedError, match="wait_s"):
            wait_fields(wait_s)


@pytest.mark.req("WS-60", "WS-41")
async def test_a_process_that_did_not_run_learns_by_the_clock_that_its_lock_is_gone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body goes on before the loop has come round to the lease: the host was suspended, or the body held it up."""
    lock = await site.lock(1).acquire()
    later_ns = lock.ends_ns
    monkeypatch.setattr("hypercluster.client.locks.boot_ns", lambda: later_ns - 1)
    assert lock.token == 101 and not lock.lost
    monkeypatch.setattr("hypercluster.client.locks.boot_ns", lambda: later_ns)
    for use in (lambda: lock.token, lambda: lock.lock_id, lock.guard):
        with pytest.raises(LockLostError, match="not renewed in time"):
            use()
    assert lock.lost
    monkeypatch.setattr("hypercluster.client.leases.boot_ns", lambda: later_ns)
    with pytest.raises(LockLostError):
        await lock.release()
    assert len(site.leases._table) == 0, "nobody renews what its holder has been told is lost"


@pytest.mark.req("WS-60")
async def test_a_lock_that_goes_before_its_holder_has_its_turn_is_never_entered(site: Site) -> None:
    async def enter(_lock: Lock) -> Held:
        ack = pb.LockAck(state=pb.LOCK_STATE_HELD, lock_id=9, token=109)
        now_ns = boot_ns()
        site.leases._tell(site.leases._table.enter(ID, ack, now_ns, now_ns))
        site.lose(9)
        return site.leases._hold(ID, 9, 109)

    with pytest.raises(LockLostError):
        async with Lock(site.workspace, "lock 9", enter):
            pytest.fail("the body of a lock that is gone")


@pytest.mark.req("WS-60")
async def test_a_release_that_finds_no_leader_is_left_to_the_lease(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_leader(*_: object) -> None:
        raise NoQuorumError("no leader answered")

    monkeypatch.setattr(site.leases, "_submit_release", no_leader)
    async with site.lock(1):
        pass
    assert len(site.leases._table) == 0
