"""The recorded run of the workspace: what it does, and how it is written down and played.

`python -m tests.golden.workspace.scenario DIRECTORY` records a run. A recorded version is never recorded again: a
change of the rules that alters a root is a new version of the format, with a directory of its own (OPS-5).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from blake3 import blake3

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.state_machine.store import Family, MemoryStore
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Site

RUN = "run.jsonl"
FAMILIES = (Family.OPLOG, Family.TREE, Family.CHUNKS, Family.MERKLE)


class Step(TypedDict):
    """One entry: its commands, and of each its reason, errno and root; then the digest of the whole state."""

    commands: list[str]
    outcomes: list[list[int | str]]
    state: str


def scenario(site: Site) -> Iterator[list[Command]]:
    """Every operation, refusals among them, with content that goes through every form of extents and pages."""
    yield [ops.workspace("golden")]
    yield [ops.mkdir(ROOT, b"src"), ops.mkdir(ROOT, b"doc", 0o700), ops.mkdir(ROOT, b"src")]
    src, doc = named(site, b"src"), named(site, b"doc")
    yield [ops.create(src, b"f%02d" % number, 0o640) for number in range(40)]
    files = [named(site, b"f%02d" % number, src) for number in range(40)]
    yield [ops.write(found, number * 10, b"content %d\n" % number) for number, found in enumerate(files)]
    for start in range(0, 60, 20):
        yield [ops.append(files[0], b"line %03d\n" % number) for number in range(start, start + 20)]
    blocks = [bytes([number]) * 600 for number in range(70)]
    yield [ops.chunk_put(block) for block in blocks]
    pieces = [(blake3(block).digest(), 1, 500) for block in blocks]
    for start in (0, 10, 20):
        yield [ops.write_pieces(files[1], 0, pieces[start : start + 50], at_end=True)]
    yield [ops.write(files[1], 25_000, b"in the middle"), ops.truncate(files[1], 300_001)]
    yield [ops.truncate(files[1], 70_000), ops.truncate(files[1], 45_678)]
    yield [ops.write_pieces(files[2], 0, [(blake3(b"never sent").digest(), 0, 1)])]
    yield [ops.symlink(doc, b"link", b"../src/f00"), ops.link(files[3], doc, b"hard"), ops.link(src, doc, b"no")]
    yield [
        ops.rename(src, b"f04", doc, b"moved"),
        ops.rename(src, b"f05", src, b"f06"),
        ops.rename(ROOT, b"src", src, b"x"),
        ops.rename(doc, b"moved", doc, b"hard", no_replace=True),
    ]
    yield [ops.set_xattr(files[7], b"user.b", b"2"), ops.set_xattr(files[7], b"user.a", bytes(3_000))]
    yield [ops.remove_xattr(files[7], b"user.b"), ops.remove_xattr(files[7], b"user.b")]
    yield [ops.chmod(files[8], 0o755), ops.chown(files[8], 1000, 1000), ops.chown(files[8], 0, 0)]
    yield [ops.utimens(files[8], -1), ops.utimens(files[9], None), ops.sync(files[9]), ops.sync(ROOT)]
    yield [ops.chmod(files[8], 0o700, base_index=1), ops.append(files[10], b"x", base_index=10_000)]
    yield [ops.unlink(src, b"f%02d" % number) for number in range(7, 40)]
    yield [ops.append(files[11], b"after the unlink"), ops.rmdir(ROOT, b"doc"), ops.unlink(ROOT, b"doc")]
    yield [ops.unlink(doc, name) for name in (b"link", b"hard", b"moved")] + [ops.rmdir(ROOT, b"doc")]
    yield [ops.append(files[1], b"0123456789" * number) for number in range(1, 40)]


def named(site: Site, name: bytes, directory: bytes = ROOT) -> bytes:
    from hypercluster.state_machine.workspace.queries import read_entry

    found = read_entry(site.store, site.workspace_id, directory, name)
    assert found is not None
    return found


def play(site: Site, commands: list[Command]) -> Step:
    outcomes = site.entry(*commands)
    if not site.workspace_id:
        site.workspace_id = outcomes[0].inode_id
    return Step(
        commands=[command.SerializeToString(deterministic=True).hex() for command in commands],
        outcomes=[[outcome.reason, outcome.errno, outcome.root.hex()] for outcome in outcomes],
        state=state_digest(site),
    )


def state_digest(site: Site) -> str:
    """Over every record of the workspace's families, in order."""
    assert isinstance(site.store, MemoryStore)
    hasher = blake3()
    for family, key, value in site.store.items():
        if family in FAMILIES and value is not None:
            for part in (bytes([family]), key, value):
                hasher.update(len(part).to_bytes(4, "big") + part)
    return hasher.hexdigest()


def record(directory: Path) -> None:
    directory.mkdir(parents=True)
    site = Site(seed=1)
    steps = [json.dumps(play(site, commands)) for commands in scenario(site)]
    (directory / RUN).write_text("\n".join(steps) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    record(parser.parse_args().directory)


if __name__ == "__main__":
    main()
