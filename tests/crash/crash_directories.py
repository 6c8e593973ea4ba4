"""Drivers of the small files of a data directory, and of a node's way back, for crash points (CH-7).

Owns: directories made one after the other with all that they remember; rejoins one after the other on one directory;
and the checks: each file is there whole or not at all, and the interrupted work can be taken up where it was.
Never: needs a cluster: what the cluster would answer stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hypercluster.errors import WrongDirectoryError
from hypercluster.state_machine.machine import Quarantined
from hypercluster.storage.birth import birth_of
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.founding import create_founding, load_founding
from hypercluster.storage.identity import DirectoryLock, Identity, create_identity, load_identity
from hypercluster.storage.met_peers import MetPeers
from hypercluster.storage.quarantine import add_quarantine, load_failure, load_quarantine, note_failure
from hypercluster.storage.rejoin_plan import RejoinDirectory, RejoinPlan
from hypercluster.values import ClusterId, HistoryId, Incarnation, Index, Member, Membership, NodeId, Suffrage

Tell = Callable[[str], None]

DISK: Final = PosixDisk()
CLUSTER, HISTORY, NODE = ClusterId(b"c" * 16), HistoryId(b"h" * 16), NodeId("n3")
LISTED: Final = (Quarantined(Index(7), None), Quarantined(Index(9), 3))
ADDRESS: Final = "10.0.0.3:7802"


def life(number: int) -> Incarnation:
    return Incarnation((number + 1).to_bytes(16, "big"))


def identity(number: int) -> Identity:
    return Identity(CLUSTER, NODE, life(number), HISTORY)


def members(number: int, index: int = 0) -> Membership:
    others = (Member(NodeId(f"n{i}"), life(1000 + i), f"10.0.0.{i}:7802", Suffrage.VOTER) for i in (1, 2))
    return Membership(Index(index), 3, (*others, Member(NODE, life(number), ADDRESS, Suffrage.VOTER)))


# --- what a directory is made with, and remembers -----------------------------------------------------------------


def make_directory(directory: Path, _seed: int, tell: Tell) -> None:
    """Directory after directory. Tells "NUMBER STEP" of what is done."""
    for number in range(1_000):
        place = directory / f"{number}"
        place.mkdir()
        for step, make in STEPS.items():
            make(str(place), number)
            tell(f"{number} {step}")


def _make_identity(place: str, number: int) -> None:
    with DirectoryLock(place):
        create_identity(DISK, place, identity(number))


def _found(place: str, number: int) -> None:
    with DirectoryLock(place):
        create_founding(DISK, place, members(number))


def _bear(place: str, _number: int) -> None:
    birth_of(DISK, place, had_log=False)


def _meet(place: str, number: int) -> None:
    met = MetPeers(DISK, place)
    for peer in (1, 2):
        assert met.admit(life(1000 + peer), bytes([number % 256]) * 16, ())


def _quarantine(place: str, _number: int) -> None:
    for one in LISTED:
        add_quarantine(DISK, place, one)


def _note(place: str, _number: int) -> None:
    for index in (3, 7):
        note_failure(DISK, place, index)


STEPS: Final[dict[str, Callable[[str, int], None]]] = {
    "identity": _make_identity,
    "founding": _found,
    "birth": _bear,
    "met": _meet,
    "quarantine": _quarantine,
    "note": _note,
}


def check_directory(directory: Path, told: Sequence[str]) -> None:
    done = set(told)
    number = max((int(line.split()[0]) for line in told), default=-1)
    for one in range(number + 2):
        place = directory / f"{one}"
        if place.is_dir():
            _check_one(str(place), one, {step for step in STEPS if f"{one} {step}" in done})


def _check_one(place: str, number: int, done: set[str]) -> None:
    """What was told is there; what was not is there whole, or not at all and can be made now."""
    if not _is_there(lambda: load_identity(DISK, place) == identity(number)):
        assert "identity" not in done
        _make_identity(place, number)
    if not _is_there(lambda: load_founding(DISK, place) == members(number)):
        assert "founding" not in done
        _found(place, number)
    born = bool(birth_of(DISK, place, had_log=True))
    assert born or "birth" not in done
    _meet(place, number)
    listed = load_quarantine(DISK, place)
    assert listed == LISTED[: len(listed)]
    assert listed == LISTED or "quarantine" not in done
    _quarantine(place, number)
    noted = load_failure(DISK, place)
    assert noted in (0, 3, 7)
    assert noted == 7 or "note" not in done
    _note(place, number)
    assert load_quarantine(DISK, place) == LISTED and load_failure(DISK, place) == 7


def _is_there(look: Callable[[], bool]) -> bool:
    try:
        assert look(), "another content than it was made with"
    except WrongDirectoryError:
        return False
    return True


# --- the way back of a node ---------------------------------------------------------------------------------------


def rejoin_for_ever(directory: Path, _seed: int, tell: Tell) -> None:
    """A directory comes back again and again. Tells "made", then "planned NUMBER" and "rejoined NUMBER"."""
    data = directory / "data"
    data.mkdir()
    _make_identity(str(data), 0)
    _found(str(data), 0)
    tell("made")
    rejoin = RejoinDirectory(DISK, str(data))
    DISK.mkdir(rejoin.work)
    for number in range(1, 1_000):
        plan = RejoinPlan(CLUSTER, HISTORY, NODE, life(number), f"data.aside-{number}", ADDRESS)
        rejoin.write(plan)
        tell(f"planned {number}")
        _carry_out(rejoin, plan, number)
        tell(f"rejoined {number}")


def _carry_out(rejoin: RejoinDirectory, plan: RejoinPlan, number: int) -> None:
    """As cli/node.py does, whoever began it."""
    if not rejoin.is_placed(plan):
        rejoin.move_aside(plan)
        rejoin.place(rejoin.make(plan, members(number, 5), LISTED))
    rejoin.forget()


def check_rejoin(directory: Path, told: Sequence[str]) -> None:
    """The plan leads to its end from wherever it was left, and nothing of an old directory is gone."""
    if "made" not in told:
        return
    rejoin = RejoinDirectory(DISK, str(directory / "data"))
    DISK.mkdir(rejoin.work)
    plan = rejoin.load()
    done = [0, *(int(line.split()[1]) for line in told if line.startswith("rejoined"))][-1]
    planned = [0, *(int(line.split()[1]) for line in told if line.startswith("planned"))][-1]
    if plan is not None:
        assert not rejoin.is_spent(plan), "its directory was never lost"
        number = int(plan.aside.rpartition("-")[2])
        assert number in (planned, planned + 1)
        assert plan.incarnation == life(number)
        _carry_out(rejoin, plan, number)
        assert rejoin.load() is None
        assert load_identity(DISK, rejoin.data) == identity(number)
    else:  # none was begun since the last one; or its plan was carried out, and nobody was told yet
        number = planned if load_identity(DISK, rejoin.data) == identity(planned) else done
        assert load_identity(DISK, rejoin.data) == identity(number)
    if number:
        assert load_founding(DISK, rejoin.data) == members(number, 5)
        assert load_quarantine(DISK, rejoin.data) == LISTED
    for old in range(number):
        assert load_identity(DISK, str(directory / f"data.aside-{old + 1}")) == identity(old)
