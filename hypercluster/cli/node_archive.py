"""`hypercluster node archive`: looks at the archived op logs of a node, offline (WS-54).

Owns: the commands `list`, `verify` and `cat`.
Never: changes anything: the archive of a running node may be read, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from hypercluster.cli import words
from hypercluster.cli.client_command import json_option, print_json
from hypercluster.errors import DamagedError, MalformedError
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch, LogRecord
from hypercluster.storage.archive.segment import SUFFIX, Segment, open_segment, read_segment, verify_segment
from hypercluster.storage.disk import PosixDisk

EXIT_DAMAGED = 1


@click.group()
def archive() -> None:
    """Archived op logs of this node."""


def _data_argument(command: click.decorators.FC) -> click.decorators.FC:
    return click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))(command)


def _workspaces(data: Path, wanted: str) -> list[Path]:
    top = data / "archive" / "oplog"
    found = sorted(path for path in top.iterdir() if path.is_dir()) if top.is_dir() else []
    if wanted:
        found = [path for path in found if path.name.startswith(wanted.lower())]
        if not found:
            raise MalformedError(f"{top} holds no op log of a workspace whose id begins with {wanted}")
    return found


def _segments(directory: Path) -> Iterator[Segment | str]:
    """Segments in order; words for one that can not be read."""
    for name in sorted(os.listdir(directory)):
        if name.endswith(SUFFIX):
            try:
                yield open_segment(PosixDisk(), str(directory / name))
            except DamagedError as error:
                yield str(error)


@archive.command("list")
@_data_argument
@click.option("--workspace", default="", metavar="ID", help="Only this one; the first characters of its id do.")
@json_option
def list_segments(data: Path, workspace: str, as_json: bool) -> int:
    """List the segments below DATA, the node's data directory."""
    rows: list[dict[str, object]] = []
    status = 0
    for directory in _workspaces(data, workspace):
        for segment in _segments(directory):
            if isinstance(segment, str):
                status = EXIT_DAMAGED
                click.echo(f"error: {segment}", err=True)
                continue
            rows.append(
                {
                    "workspace": directory.name,
                    "first": segment.first_index,
                    "last": segment.last_index,
                    "bytes": segment.size_bytes,
                    "last_committed_at": words.instant(segment.last_stamp_ns),
                }
            )
    if as_json:
        print_json({"segments": rows})
        return status
    for row in rows:
        click.echo(
            f"{row['workspace']}  {row['first']:>12} to {row['last']:>12}  {words.size(int(str(row['bytes']))):>10}  "
            f"{row['last_committed_at']}"
        )
    return status


@archive.command()
@_data_argument
@click.option("--workspace", default="", metavar="ID", help="Only this one; the first characters of its id do.")
@json_option
def verify(data: Path, workspace: str, as_json: bool) -> int:
    """Read everything: the hash of each segment, and the chain over all records. Exits 1 for damage."""
    answers = [_verify_one(directory) for directory in _workspaces(data, workspace)]
    damage = [words_ for answer in answers for words_ in answer["damage"]]  # type: ignore[attr-defined]
    if as_json:
        print_json({"workspaces": answers})
    else:
        for answer in answers:
            gaps = "".join(f", without {gap}" for gap in answer["gaps"])  # type: ignore[attr-defined]
            click.echo(f"{answer['workspace']}  {answer['first']} to {answer['last']}{gaps}: {answer['verdict']}")
        for line in damage:
            click.echo(f"error: {line}", err=True)
    return EXIT_DAMAGED if damage else 0


def _verify_one(directory: Path) -> dict[str, object]:
    damage: list[str] = []
    gaps: list[str] = []
    whole: list[Segment] = []
    for segment in _segments(directory):
        if isinstance(segment, str):
            damage.append(segment)
            continue
        if segment.workspace_id.hex() != directory.name:
            damage.append(f"{segment.path} is of workspace {segment.workspace_id.hex()}")
        try:
            verify_segment(PosixDisk(), segment)
        except DamagedError as error:
            damage.append(str(error))
        if whole:
            before = whole[-1]
            if segment.chain_before != before.chain_after:
                damage.append(f"the chain breaks between {before.path} and {segment.path}")
            if segment.first_index > before.last_index + 1:
                gaps.append(f"{before.last_index + 1} to {segment.first_index - 1}")
        whole.append(segment)
    return {
        "workspace": directory.name,
        "first": whole[0].first_index if whole else 0,
        "last": whole[-1].last_index if whole else 0,
        "segments": len(whole),
        "gaps": gaps,
        "damage": damage,
        "verdict": "damaged" if damage else "sound",
    }


@archive.command()
@_data_argument
@click.argument("workspace")
@click.option("--from", "from_index", default=1, show_default=True, type=click.IntRange(1), help="First log_index.")
@click.option("--to", "to_index", default=0, type=click.IntRange(0), help="Last log_index; 0: all.")
def cat(data: Path, workspace: str, from_index: int, to_index: int) -> int:
    """Print archived operations of WORKSPACE (its id, or how it begins), a line of JSON each."""
    for directory in _workspaces(data, workspace):
        for segment in _segments(directory):
            if isinstance(segment, str):
                click.echo(f"error: {segment}", err=True)
                return EXIT_DAMAGED
            if segment.last_index < from_index or (to_index and segment.first_index > to_index):
                continue
            for _, batch in read_segment(PosixDisk(), segment, from_index):
                for record in LogBatch.FromString(batch).records:
                    if record.log_index >= from_index and (not to_index or record.log_index <= to_index):
                        print_json(_row(record))
    return 0


def _row(record: LogRecord) -> dict[str, object]:
    command = Command.FromString(record.command)
    return {
        "log_index": record.log_index,
        "raft_index": record.raft_index,
        "committed_at": words.instant(record.committed_at_ns),
        "client_id": record.client_id.hex(),
        "client_seq": record.client_seq,
        "worker": record.worker,
        "operation": command.file.WhichOneof("op") or "",
        "root": record.root.hex(),
    }
