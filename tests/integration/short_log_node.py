"""A test build of a node that keeps only the last KEPT records of an op log, as one does whose log was trimmed.

Run as `python -m tests.integration.short_log_node serve --config …`; the product has no setting for so short a log.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from hypercluster.cli import serve
from hypercluster.node import op_log
from hypercluster.node.fanout import OpLog
from hypercluster.state_machine.store import Reader

KEPT = 20


def short_op_log(reader: Reader, wall_ns: Callable[[], int]) -> OpLog:
    whole = op_log.stored_op_log(reader, wall_ns)

    def retained_from(workspace_id: bytes) -> int:
        head = whole.head(workspace_id)
        return max(whole.retained_from(workspace_id), head.log_index - KEPT + 1 if head is not None else 1)

    return OpLog(whole.head, retained_from, whole.read, whole.bounds)


if __name__ == "__main__":
    from hypercluster.cli.main import main

    serve.stored_op_log = short_op_log
    main(sys.argv[1:])
