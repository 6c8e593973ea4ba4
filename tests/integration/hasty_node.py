"""A test build of a node that lets go of content within seconds where the product waits for minutes.

Run as `python -m tests.integration.hasty_node serve --config …`. The clocks are real and the order of steps is the
product's: only how long each waits, how much is gathered first and how large a segment is are smaller. All nodes of a
cluster must be this build, as some of the bounds are the state machine's.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Final

from hypercluster import limits
from hypercluster.limits import MIB
from hypercluster.node import chunk_bytes, collection, opening
from hypercluster.state_machine.workspace import retention

KEEP_S: Final = 2.0
SEGMENT_BYTES: Final = 1 * MIB


def hurry() -> None:
    """Changes this process for good."""
    for module, name, value in (
        (retention, "CHUNK_PIN_MS", 500),
        (retention, "LAG_MAX_MS", 1_000),
        (collection, "ROUND_S", 1.0),
        (chunk_bytes, "KEEP_S", KEEP_S),
        (chunk_bytes, "ROUND_S", 1.0),
        (chunk_bytes, "RECLAIM_EVERY_S", 1.0),
        (limits, "FLUSH_ENTRIES", 100),
    ):
        setattr(module, name, value)
    storage = partial(opening.NodeStorage, chunk_segment_bytes=SEGMENT_BYTES)
    opening.NodeStorage = storage  # type: ignore[misc, assignment]


if __name__ == "__main__":
    from hypercluster.cli.main import main

    hurry()
    main(sys.argv[1:])
