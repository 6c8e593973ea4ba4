"""The way back of a node that lost its directory, as a plan on disk and steps that may be repeated (CL-15).

Owns: DATA.rejoin/plan beside the data directory, the moving aside of what is there, and the making of the new one.
Never: deletes anything of the old directory, or asks the cluster anything (cli/node.py does).
Steps: the plan names the new incarnation and is synced before anybody hears of it. The old directory is renamed. The
new one is made in DATA.rejoin/data, whole and synced; then the plan says PLACING; then it is renamed to DATA; then the
plan goes.
Invariants: an incarnation that may have been in use is never used again: with PLACING written and the directory
neither in place nor waiting, it was lost once more, and `resume` answers that the plan is spent.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from google_crc32c import value as crc32c

from hypercluster.errors import DamagedError, HyperClusterError, WrongDirectoryError, check
from hypercluster.state_machine.machine import Quarantined
from hypercluster.storage.disk import Disk
from hypercluster.storage.founding import FOUNDING_NAME, create_founding
from hypercluster.storage.identity import DirectoryLock, Identity, create_identity, load_identity
from hypercluster.storage.quarantine import write_quarantine
from hypercluster.values import ClusterId, HistoryId, Incarnation, Membership, NodeId

WORK_SUFFIX: Final = ".rejoin"
PLAN_BYTES_MAX: Final = 4_096
_PLAN_NAME: Final = "plan"
_STAGED_NAME: Final = "data"
_FIRST_LINE: Final = "hypercluster rejoin plan, format: 1"
_ASIDE: Final = re.compile(r"[^/\x00-\x1f]{1,255}")


class Stage(Enum):
    PLANNED = "planned"  # nothing under the new incarnation can have run
    PLACING = "placing"  # the new directory was whole when this was written


@dataclass(frozen=True, slots=True)
class RejoinPlan:
    """`aside` is the name that the old directory gets, beside where it is; `address` that of the peer listener."""

    cluster_id: ClusterId
    history_id: HistoryId
    node_id: NodeId
    incarnation: Incarnation
    aside: str
    address: str
    stage: Stage = Stage.PLANNED

    def identity(self) -> Identity:
        return Identity(self.cluster_id, self.node_id, self.incarnation, self.history_id)


class RejoinDirectory:
    """The work beside one data directory. Hold `DirectoryLock(work)` while using it."""

    def __init__(self, disk: Disk, data: str) -> None:
        self.data = os.path.abspath(data)
        self.work = self.data + WORK_SUFFIX
        self._disk = disk
        self._plan = os.path.join(self.work, _PLAN_NAME)
        self._staged = os.path.join(self.work, _STAGED_NAME)

    def load(self) -> RejoinPlan | None:
        """Raises DamagedError."""
        if not self._disk.exists(self._plan):
            return None
        file = self._disk.open(self._plan)
        try:
            return _parse(file.pread(PLAN_BYTES_MAX + 1, 0), self._plan)
        finally:
            file.close()

    def write(self, plan: RejoinPlan) -> None:
        temporary = self._plan + ".tmp"
        if self._disk.exists(temporary):
            self._disk.unlink(temporary)
        file = self._disk.open(temporary, create=True)
        try:
            file.pwrite(_render(plan), 0)
            file.fsync()
        finally:
            file.close()
        self._disk.rename(temporary, self._plan)
        self._disk.fsync_dir(self.work)

    def is_placed(self, plan: RejoinPlan) -> bool:
        """The directory of the plan's incarnation is in place."""
        return self._holds(self.data, plan)

    def is_spent(self, plan: RejoinPlan) -> bool:
        """Its directory was in place and is gone again: this incarnation must not be used any more."""
        return plan.stage is Stage.PLACING and not self.is_placed(plan) and not self._holds(self._staged, plan)

    def aside_path(self, plan: RejoinPlan) -> str:
        return os.path.join(os.path.dirname(self.data), plan.aside)

    def move_aside(self, plan: RejoinPlan) -> bool:
        """True when there is an old directory, now or from an earlier run, under its new name."""
        aside = self.aside_path(plan)
        if not self._disk.exists(self.data) or self.is_placed(plan):
            return self._disk.exists(aside)
        if self._disk.exists(aside):
            raise WrongDirectoryError(
                f"{self.data} appeared again after it was moved to {aside}: move one of the two away by hand"
            )
        try:
            self._disk.rename(self.data, aside)
        except OSError as error:
            raise WrongDirectoryError(
                f"{self.data} can not be renamed to {aside} ({error.strerror}): where it is a mount point, let "
                "node.data name a directory below it"
            ) from error
        self._disk.fsync_dir(os.path.dirname(self.data))
        return True

    def make(self, plan: RejoinPlan, membership: Membership, quarantined: tuple[Quarantined, ...]) -> RejoinPlan:
        """The new directory, whole, not yet in place. `membership` names the plan's incarnation."""
        own = membership.find(plan.node_id)
        check(own is not None and own.incarnation == plan.incarnation, "a new directory is that of a member")
        if plan.stage is Stage.PLACING:
            return plan
        if self._disk.exists(self._staged):
            shutil.rmtree(self._staged)  # of a run that was interrupted before the plan said PLACING: never in use
        self._disk.mkdir(self._staged)
        with DirectoryLock(self._staged):
            create_identity(self._disk, self._staged, plan.identity())
            create_founding(self._disk, self._staged, membership)
            if quarantined:
                write_quarantine(self._disk, self._staged, quarantined)
        self._disk.fsync_dir(self.work)
        placing = replace(plan, stage=Stage.PLACING)
        self.write(placing)
        return placing

    def place(self, plan: RejoinPlan) -> None:
        check(plan.stage is Stage.PLACING, "what is put in place was made before")
        if not self.is_placed(plan):
            check(not self._disk.exists(self.data), "the old directory was moved aside before")
            self._disk.rename(self._staged, self.data)
            self._disk.fsync_dir(os.path.dirname(self.data))
            self._disk.fsync_dir(self.work)

    def forget(self) -> None:
        """The plan is carried out, or spent."""
        if self._disk.exists(self._plan):
            self._disk.unlink(self._plan)
            self._disk.fsync_dir(self.work)

    def _holds(self, directory: str, plan: RejoinPlan) -> bool:
        try:
            complete = self._disk.exists(os.path.join(directory, FOUNDING_NAME))
            return complete and load_identity(self._disk, directory) == plan.identity()
        except (HyperClusterError, DamagedError, WrongDirectoryError):
            return False


def _render(plan: RejoinPlan) -> bytes:
    body = (
        f"{_FIRST_LINE}\n"
        f"cluster id: {plan.cluster_id.hex()}\n"
        f"history id: {plan.history_id.hex()}\n"
        f"node id: {plan.node_id}\n"
        f"incarnation: {plan.incarnation.hex()}\n"
        f"aside: {plan.aside}\n"
        f"address: {plan.address}\n"
        f"stage: {plan.stage.value}\n"
    ).encode()
    return body + f"crc32c: {crc32c(body):08x}\n".encode("ascii")


def _parse(content: bytes, path: str) -> RejoinPlan:
    damaged = DamagedError(
        f"{path} is damaged. Remove it and run `hypercluster node rejoin` again: it makes a plan with a new incarnation"
    )
    try:
        lines = content.decode().split("\n")
        values = [line.split(": ", 1)[1] for line in lines[1:8]]
        cluster_id, history_id, node_id, incarnation, aside, address, stage = values
        plan = RejoinPlan(
            ClusterId(bytes.fromhex(cluster_id)),
            HistoryId(bytes.fromhex(history_id)),
            NodeId(node_id),
            Incarnation(bytes.fromhex(incarnation)),
            aside,
            address,
            Stage(stage),
        )
        plan.identity()  # its patterns
    except (ValueError, IndexError, HyperClusterError) as error:
        raise damaged from error
    if len(content) > PLAN_BYTES_MAX or _render(plan) != content or _ASIDE.fullmatch(plan.aside) is None:
        raise damaged
    return plan
