"""`python -m chaos.workloads PLAN`: one workload in one process, until SIGTERM.

Owns: the command line and the exit status: 0 when it was told to end, 1 with a traceback when it could not go on,
2 for a plan that is none.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chaos.seams import LoadPlan
    from chaos.workloads.operations import Script


def scripts() -> dict[str, Callable[[], Script]]:
    from chaos.workloads.counter import Counter
    from chaos.workloads.files import Files
    from chaos.workloads.locks import Locks
    from chaos.workloads.reads import Reads
    from chaos.workloads.register import Register
    from chaos.workloads.unique_set import UniqueSet

    return {"register": Register, "set": UniqueSet, "counter": Counter, "files": Files, "reads": Reads, "locks": Locks}


async def run(plan: LoadPlan, parent: int) -> None:
    from chaos.workloads.recorder import Recorder
    from chaos.workloads.running import Load

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with Recorder(Path(plan.history_file), plan.workload) as recorder:
        await Load(plan, scripts()[plan.workload](), recorder, stop, parent).run()


def main() -> None:
    parent = os.getppid()
    # Until the loop runs nothing has been asked of the cluster, and there is nothing to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from chaos.workloads.plan import BadPlanError, read_load_plan

    if len(sys.argv) != 2:
        sys.exit("usage: python -m chaos.workloads PLAN")
    try:
        plan = read_load_plan(sys.argv[1])
    except BadPlanError as error:
        print(f"plan: {error}", file=sys.stderr)
        sys.exit(2)
    asyncio.run(run(plan, parent))


if __name__ == "__main__":
    main()
