"""Known-bad builds of what replication promises, for whole processes (CH-10). The product has no setting for any.

- ack_before_majority: a leader commits what its own disk has, and tells the client so.
- out_of_order: the node whose configuration is n2's judges the commands of an entry in the reverse order.
- no_excl: O_EXCL is not looked at; whoever creates a file that is there already is told that he made it.
"""

from __future__ import annotations

import dataclasses
import sys

from hypercluster.pb.v1.workspace_command_pb2 import Create
from hypercluster.raft.replication import Replication
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.outcome import Applied, FileOutcome
from hypercluster.state_machine.workspace import judging, names
from hypercluster.state_machine.workspace.turn import Turn
from hypercluster.values import Index

_judge = Machine._judge


def _own_disk_suffices(self: Replication) -> Index:
    return self.own_durable_index()


def _judge_backwards(self: Machine, context: OpContext, groups: tuple[DecodedGroup, ...], stamp_ns: int) -> Applied:
    applied = _judge(self, context, groups[::-1], stamp_ns)
    return dataclasses.replace(applied, groups=applied.groups[::-1])


def _create_anyway(turn: Turn, op: Create) -> FileOutcome | None:
    lenient = Create()
    lenient.CopyFrom(op)
    lenient.exclusive = False
    outcome = names.create(turn, lenient)
    turn.existed = False
    return outcome


def install_ack_before_majority() -> None:
    Replication.quorum_index = _own_disk_suffices  # type: ignore[method-assign]


def install_out_of_order() -> None:
    if any("/n2/" in argument for argument in sys.argv):
        Machine._judge = _judge_backwards  # type: ignore[method-assign]


def install_no_excl() -> None:
    judging._OPERATIONS["create"] = _create_anyway
