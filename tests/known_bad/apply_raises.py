"""A known-bad build: apply raises on one command, a write of the hub key `poison` (CL-16).

`install()` patches this process for good, for the entry point of a test build. The product has no setting that does
this.
"""

from __future__ import annotations

from hypercluster.state_machine.decoded import HubOp
from hypercluster.state_machine.hub import Hub

POISON = b"poison"
_judge = Hub.judge


def _raise_on_poison(self: Hub, state: object, op: HubOp, index: int, ordinal: int) -> tuple[int, int]:
    if op.key == POISON:
        raise ZeroDivisionError("the command that this build can not judge")
    return _judge(self, state, op, index, ordinal)  # type: ignore[arg-type]


def install() -> None:
    Hub.judge = _raise_on_poison  # type: ignore[method-assign,assignment]
