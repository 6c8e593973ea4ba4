"""What became of a command whose answer was not seen (WS-4).

Owns: `IntentOutcome` and the question.
Never: settles anything: "not found" holds as of an index, and the command may still be on its way. Final is only its
own answer, or that of the Abandon which a lane sends before it goes on (abandoning_lane.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercluster.client.lane_types import Intent, reason_name
from hypercluster.client.stubs import workspace_service
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1 import workspace_pb2

if TYPE_CHECKING:
    from hypercluster.client.client import Client


@dataclass(frozen=True, slots=True)
class IntentOutcome:
    """`state` is "committed", "in_flight", "not_found" or "forgotten", as of Raft index `as_of_index`. Of a committed
    one `reason` is "OK" or why it was refused, and `file` what it was answered."""

    state: str
    as_of_index: int
    raft_index: int = 0
    reason: str = ""
    file: file_pb.FileAck | None = None


async def intent_outcome(client: Client, intent: Intent) -> IntentOutcome:
    """Answered after a majority has confirmed the leader, to the same worker only. Raises ForbiddenError to others."""
    request = workspace_pb2.IntentStatusRequest(client_id=intent.client_id, client_seq=intent.seq)
    answer: workspace_pb2.IntentStatusResponse = await client.nodes.read(
        lambda channel, timeout: workspace_service(channel).IntentStatus(request, timeout=timeout),
        "ask what became of a command",
    )
    state = workspace_pb2.IntentState.Name(answer.intent).removeprefix("INTENT_STATE_").lower()
    if answer.intent != workspace_pb2.INTENT_STATE_COMMITTED:
        return IntentOutcome(state, answer.state.applied_index)
    file = answer.file if answer.HasField("file") else None
    return IntentOutcome(state, answer.state.applied_index, answer.raft_index, reason_name(answer.reason), file)
