"""Broken builds of hazards, reservations and reaps, each of which the property tests must catch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest

from hypercluster.state_machine.coordination import leases, reservations
from hypercluster.state_machine.coordination.reservations import Claims, Owner
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace import hazards, oplog, paths, reaping
from hypercluster.state_machine.workspace.hazards import HazardWindow
from tests.properties import test_claims as claims_tests
from tests.properties import test_hazards as hazards_tests
from tests.unit.workspace import test_reaping as reaping_tests

Break = Callable[[pytest.MonkeyPatch], None]
WINDOW = 7


def trimming_goes_too_far(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(oplog, "HAZARD_WINDOW_OPS", WINDOW - 4)


def the_window_is_short_of_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hazards, "HAZARD_WINDOW_OPS", WINDOW - 1)


def a_window_read_again_begins_with_the_present_entry(patch: pytest.MonkeyPatch) -> None:
    real = hazards.read_window
    patch.setattr(hazards, "read_window", lambda reader, found, _, index: real(reader, found, (), index))


def one_client_hides_the_others(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HazardWindow, "is_alone", lambda self, client_id, _: client_id == self._client_id)


def what_was_seen_is_told_anyway(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hazards, "_unseen", lambda *_: True)


def a_truncation_touches_one_byte(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hazards, "NO_END", 1)


HAZARDS = [
    trimming_goes_too_far,
    the_window_is_short_of_one,
    a_window_read_again_begins_with_the_present_entry,
    one_client_hides_the_others,
    what_was_seen_is_told_anyway,
    a_truncation_touches_one_byte,
]


def walk_hazards() -> None:
    for seed in range(6):
        walk = hazards_tests.Walk(seed, WINDOW)
        for _ in range(hazards_tests.ENTRIES):
            walk.step()


@pytest.mark.req("WS-46")
@pytest.mark.parametrize("broken", HAZARDS, ids=lambda broken: broken.__name__)
def test_broken_hazards_are_caught(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hazards, "HAZARD_WINDOW_OPS", WINDOW)
    monkeypatch.setattr(oplog, "HAZARD_WINDOW_OPS", WINDOW)
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        walk_hazards()


def a_deadline_ends_the_day_after(patch: pytest.MonkeyPatch) -> None:
    real = Claims.denies

    def denies(self: Claims, owner: Owner, found: Iterable[Sequence[bytes]], stamp_ns: int) -> bool:
        return real(self, owner, found, stamp_ns - 1_000_000_000)

    patch.setattr(Claims, "denies", denies)


def processes_of_an_agent_are_owners(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reservations, "owner_of", lambda worker, principal, agent: Owner(worker, principal, ""))


def what_is_removed_stays_in_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Claims, "remove", lambda self, overlay, found: None)


def a_second_name_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(paths, "NAMES_OF_INODE_KEPT", 1)


def a_name_that_is_lost_is_kept(patch: pytest.MonkeyPatch) -> None:
    from hypercluster.state_machine.workspace import turn

    patch.setattr(turn, "lose_name", lambda *_: None)


CLAIMS = [
    a_deadline_ends_the_day_after,
    processes_of_an_agent_are_owners,
    what_is_removed_stays_in_memory,
    a_second_name_is_not_kept,
    a_name_that_is_lost_is_kept,
]


def walk_claims() -> None:
    for seed in range(6):
        claims_tests.walk_through(seed)


@pytest.mark.req("WS-45")
@pytest.mark.parametrize("broken", CLAIMS, ids=lambda broken: broken.__name__)
def test_broken_reservations_are_caught(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        walk_claims()


def walk_reaps() -> None:
    for seed in range(6):
        reaping_tests.walk_through(seed)


def the_first_who_closes_ends_all(overlay: Overlay, key: bytes, change: int) -> None:
    if change > 0:
        real_add(overlay, key, change)
    else:
        overlay.delete(Family.COORDINATION, key)


real_add = leases._add

REAPS: dict[str, Break] = {
    "leases are not looked at": lambda patch: patch.setattr(reaping, "is_leased", lambda *_: False),
    "time is not looked at": lambda patch: patch.setattr(reaping, "ORPHAN_KEEP_MS", 0),
    "the first who closes ends all leases": lambda patch: patch.setattr(leases, "_add", the_first_who_closes_ends_all),
    "marks of orphans stay": lambda patch: patch.setattr(reaping, "ORPHAN", b"o"),
}


@pytest.mark.req("WS-27", "WS-44")
@pytest.mark.parametrize("name", REAPS)
def test_broken_reaps_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    REAPS[name](monkeypatch)
    with pytest.raises(AssertionError):
        walk_reaps()
