"""A test build of the command line: `python -m tests.crash.killed POINT CALL HITS ARGUMENTS…`.

Arms one crash point in this process, then runs the product's command with the arguments that follow. There is no way
from the product to here: nothing under hypercluster/ imports tests/.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.crash.crash_points import BY_NAME, arm


def main(arguments: list[str]) -> None:
    if len(arguments) < 4 or arguments[0] not in BY_NAME:
        sys.exit("usage: python -m tests.crash.killed POINT CALL HITS ARGUMENTS…; the points are in crash_points.py")
    from hypercluster.cli import node, serve  # noqa: F401  (what they import by name must be there to be replaced)
    from hypercluster.cli.main import main as run

    name, call, hits, *command = arguments
    arm(BY_NAME[name], int(call), Path(hits))
    run(command)


if __name__ == "__main__":
    main(sys.argv[1:])
