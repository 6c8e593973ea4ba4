"""The op log for people and programs: accepted operations in order, from any node, across the loss of one (WS-51).

Owns: `read_log`: which node is asked, and where it goes on after that one is lost.
Never: ends before it is through: a stream that breaks, or is ended by its node, goes on with another.
Invariants: records come in order without gaps, each once. Without `follow` a log that can not be read to its end is an
error, once nothing has come for the time of a read, and never a shorter log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from hypercluster.client.worker import feed
from hypercluster.errors import (
    BehindError,
    HistoryGoneError,
    HyperClusterError,
    NoQuorumError,
    NotLeaderError,
    OutcomeUnknownError,
    ShuttingDownError,
)
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord

if TYPE_CHECKING:
    from hypercluster.client.client import Client

PAUSE_S = (0.05, 1.0)
# What another node, or a later moment, may mend.
PASSING = (BehindError, NoQuorumError, NotLeaderError, OutcomeUnknownError, ShuttingDownError)


async def read_log(
    client: Client, workspace_id: bytes, name: str, from_index: int, *, follow: bool, address: str
) -> AsyncGenerator[LogRecord]:
    """See Workspace.log. With `address` of that node alone. Raises an error of our tree."""
    nodes = client.nodes
    next_index = begun = max(1, from_index)
    pause_s = PAUSE_S[0]
    until_s = time.monotonic() + client.settings.read_deadline_s
    while True:
        before = next_index
        node = address or nodes.leader or (await nodes.find_leader())[0] or client.settings.nodes[0]
        problem: HyperClusterError = NoQuorumError(f"log of {name}: {node} ended it")
        try:
            async with aclosing(feed.watch(nodes, node, workspace_id, next_index, b"", as_kept=True)) as events:
                async for event in events:
                    match event:
                        case feed.Records(records):
                            for record in records:
                                next_index = record.log_index + 1
                                yield record
                        case feed.SnapshotNeeded(kept):
                            raise HistoryGoneError(
                                f"log of {name}: it is kept from {kept}; {next_index} is gone; use a later index", kept
                            )
                        case feed.CaughtUp() if not follow:
                            return
        except PASSING as error:
            problem = error
        except HistoryGoneError as error:
            if error.retained_from or next_index == begun:
                raise
            problem = error  # this node is behind the one before
        if next_index != before:
            pause_s, until_s = PAUSE_S[0], time.monotonic() + client.settings.read_deadline_s
        if address or (not follow and time.monotonic() >= until_s):
            raise problem
        nodes.leader = ""
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_S[1])
