"""A client whose answers get lost: now and then a batch of acknowledgements is dropped and its stream breaks.

What was in it was applied, and the client can not know: it sends the same commands again. So retries of judged
commands really happen in the demo, and a cluster that does not recognise them is found out.
"""

from __future__ import annotations

import random

from hypercluster.client import client as client_module
from hypercluster.client.stream import CommandStream
from hypercluster.pb.v1 import command_pb2

lost_answers = 0  # commands whose acknowledgement this process has thrown away


def install(seed: int, rate: float) -> None:
    """For every client this process opens afterwards."""
    draw = random.Random(seed)

    class LossyStream(CommandStream):
        def _heard(self, batch: command_pb2.AcksBatch) -> None:
            global lost_answers
            if draw.random() < rate:
                lost_answers += sum(acks.count for acks in batch.acks)
                if self._call is not None:
                    self._call.cancel()
                return
            super()._heard(batch)

    client_module.CommandStream = LossyStream  # type: ignore[misc]
