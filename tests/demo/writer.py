"""A client process of the demo: writes small files and hub keys until it is told to stop, and journals all of it.

python -m tests.demo.writer --config client.toml --workspace demo --journal FILE --name w --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

from hypercluster.client.client import Client
from hypercluster.client.journal import FileJournal
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.client.settings import read_settings
from hypercluster.errors import HyperClusterError, Outcome
from tests.demo import bad_network

LOST_ANSWERS = "answers thrown away on purpose: "
KEY_VALUES = 20  # values a hub key gets before the next key is taken


async def files(client: Client, directory: bytes, workspace: object, draw: random.Random, stop: asyncio.Event) -> None:
    """One file after the other: made, written, appended to, now and then renamed or removed."""
    ops = workspace.ops  # type: ignore[attr-defined]
    number = 0
    while not stop.is_set():
        number += 1
        name = b"f%06d" % number
        try:
            made = await ops.create(directory, name)
            await ops.write(made.inode_id, draw.randbytes(draw.randrange(1, 3000)))
            if number % 3 == 0:
                await ops.append(made.inode_id, draw.randbytes(100))
            if number % 7 == 0:
                await ops.rename((directory, name), (directory, b"r%06d" % number))
            elif number % 11 == 0:
                await ops.unlink(directory, name)
        except HyperClusterError as error:
            if error.outcome is Outcome.DEFINITELY_NOT:
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.01)


async def hub(client: Client, name: str, stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        key = f"demo/{name}/{number // KEY_VALUES}"
        value = json.dumps({"writer": name, "number": number})
        try:
            await client.hub.set("metadata", key.encode(), value.encode(), lane=6)
        except HyperClusterError:
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.01)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--loss", type=float, default=0.02)
    args = parser.parse_args()
    bad_network.install(args.seed, args.loss)
    draw = random.Random(args.seed)
    settings = replace(read_settings(args.config), lane=LaneSettings(no_leader_ns=20 * S_NS, deadline_ns=60 * S_NS))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with args.journal.open("w", encoding="utf-8") as lines:
        journal = FileJournal(lines, args.name)
        async with Client(settings, name=args.name, journal=journal) as client:
            workspace = await client.open_workspace(args.workspace)
            directory = (await workspace.mkdir(f"live-{args.name}")).inode_id
            print(f"{args.name} writes since {time.monotonic():.1f}", flush=True)
            await asyncio.gather(files(client, directory, workspace, draw, stop), hub(client, args.name, stop))
    print(f"{LOST_ANSWERS}{bad_network.lost_answers}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
