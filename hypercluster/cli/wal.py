"""`hypercluster wal`: what a stopped node's log holds, and taking a command out of it (CL-3, CL-16).

Owns: the two commands, their tables and their JSON; the conditions under which a command may be quarantined.
Never: changes a log. `inspect` changes nothing at all; `quarantine` writes a list beside the log.
Invariants: a command is quarantined only on a node that is stopped (the lock of its directory is held), that has the
entry, and that never applied it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from hypercluster.cli.client_command import json_option, print_json, print_table
from hypercluster.cli.words import count, size
from hypercluster.errors import HyperClusterError, MalformedError, NotFoundError, TurnedAwayError
from hypercluster.log.entry import EntryType, decode_entry
from hypercluster.node.opening import OpenDirectory, Runners, open_directory
from hypercluster.state_machine.machine import Quarantined
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.identity import load_identity
from hypercluster.storage.quarantine import add_quarantine, load_failure, load_quarantine
from hypercluster.storage.wal.format import RecordKind
from hypercluster.storage.wal.inspect import Inspection, SegmentReport, Verdict, inspect, inspect_segments
from hypercluster.values import Index

EXIT_DAMAGED = 1
ENTRY_BYTES = 1  # of the log at a time: one entry


@click.group()
def wal() -> None:
    """Look at a stopped node's log; take a command out of it."""


@wal.command("inspect")
@click.argument("data_directory", metavar="DATA_DIR", type=click.Path(path_type=Path))
@json_option
def inspect_log(data_directory: Path, as_json: bool) -> int:
    """Say whether the log in DATA_DIR opens, and where it is damaged. Changes nothing.

    Exit code 0 when it opens (a torn tail, as after a crash, is cut off then), 1 when it is damaged or absent. While
    the node runs, what is being written looks torn.
    """
    directory = data_directory / "wal"
    if not directory.is_dir():
        raise NotFoundError(f"{directory} is not there: DATA_DIR is node.data of the node's configuration")
    disk = PosixDisk()
    found = inspect(disk, str(directory))
    segments = list(inspect_segments(disk, str(directory)))
    if as_json:
        print_json(_as_dict(found, segments))
    else:
        _show(found, segments)
    return 0 if found.verdict in (Verdict.SOUND, Verdict.TORN) else EXIT_DAMAGED


def _show(found: Inspection, segments: list[SegmentReport]) -> None:
    click.echo(f"{found.verdict.value}{': ' if found.explanation else ''}{found.explanation}")
    if found.verdict in (Verdict.SOUND, Verdict.TORN):
        state = found.hard_state
        vote = f", voted for {state.voted_for}" if state.voted_for else ""
        click.echo(
            f"entries {count(found.base_index + 1)} to {count(found.last_index)}   "
            f"committed {count(found.commit_index)}   term {state.term}{vote}"
        )
    rows = []
    for one in segments:
        first, last = _entries(one)
        damage = one.damage
        words = (
            "ok"
            if damage is None
            else f"{'torn' if damage.torn else 'DAMAGED'} at offset {damage.offset}: {damage.what}"
        )
        entries = f"{count(first)} to {count(last)}" if first else "-"
        rows.append((one.path, size(one.size_bytes), count(len(one.groups)), entries, words))
    print_table(("FILE", "SIZE", "GROUPS", "ENTRIES", "STATE"), rows)


def _entries(report: SegmentReport) -> tuple[int, int]:
    """First and last index of the entries that verify; (0, 0) for none."""
    indexes = [one.index for group in report.groups for one in group.records if one.kind is RecordKind.ENTRY]
    return (min(indexes), max(indexes)) if indexes else (0, 0)


def _as_dict(found: Inspection, segments: list[SegmentReport]) -> dict[str, Any]:
    listed = []
    for one in segments:
        first, last = _entries(one)
        listed.append(
            {
                "file": one.path,
                "bytes": one.size_bytes,
                "groups": len(one.groups),
                "first_index": first,
                "last_index": last,
                "damage": None
                if one.damage is None
                else {"offset": one.damage.offset, "what": one.damage.what, "torn": one.damage.torn},
            }
        )
    return {
        "verdict": found.verdict.value,
        "explanation": found.explanation,
        "base_index": found.base_index,
        "last_index": found.last_index,
        "commit_index": found.commit_index,
        "term": found.hard_state.term,
        "voted_for": found.hard_state.voted_for,
        "segments": listed,
    }


@wal.command()
@click.argument("data_directory", metavar="DATA_DIR", type=click.Path(path_type=Path))
@click.argument("index", required=False, type=click.IntRange(1, (1 << 62) - 1))
@click.argument("ordinal", required=False, type=click.IntRange(0, 999_999_999))
@click.option("--ahead", is_flag=True, help="The others have the entry; this node has not received it yet.")
@json_option
def quarantine(data_directory: Path, index: int | None, ordinal: int | None, ahead: bool, as_json: bool) -> None:
    """Refuse the command ORDINAL of entry INDEX (without ORDINAL all of it) as INTERNAL, instead of applying it.

    For a command on which apply stops every node. Run it with all nodes stopped, on each of them: nodes that refuse
    different commands hold no stream with each other. Without INDEX it shows the list.
    """
    path = str(data_directory)
    if not data_directory.is_dir():
        raise NotFoundError(f"{path} is not there: DATA_DIR is node.data of the node's configuration")
    if index is None:
        listed = load_quarantine(PosixDisk(), path)
    else:
        listed = asyncio.run(_add(path, Quarantined(Index(index), ordinal), ahead=ahead))
    if as_json:
        print_json({"quarantined": [{"index": one.index, "ordinal": one.ordinal} for one in listed]})
        return
    rows = [(count(one.index), "all" if one.ordinal is None else str(one.ordinal)) for one in listed]
    print_table(("ENTRY", "COMMAND"), rows)


async def _add(path: str, wanted: Quarantined, *, ahead: bool) -> tuple[Quarantined, ...]:
    """Opens the directory as a node does, so that what is judged is what a node would find."""
    disk = PosixDisk()
    errors: list[BaseException] = []
    runners = Runners.start(asyncio.get_running_loop())
    try:
        opened = open_directory(path, load_identity(disk, path).node_id, 0, runners, errors.append)
        try:
            if wanted not in opened.quarantined:
                check_absent(opened, wanted, load_failure(disk, path), ahead=ahead)
            return add_quarantine(disk, path, wanted)
        finally:
            opened.close()
    finally:
        runners.close()


def check_absent(opened: OpenDirectory, wanted: Quarantined, failed_index: int, *, ahead: bool) -> None:
    """Raises unless the entry is here, holds that command, and was never applied here. `failed_index` is the entry at
    which apply stopped this node: what lies below was applied then, though the state on disk may be older (CL-7)."""
    index, log = wanted.index, opened.wal
    applied = max(opened.machine.applied.index, failed_index - 1)
    if index <= applied:
        raise TurnedAwayError(
            f"entry {index} was applied on {opened.identity.node_id} (its state reached {applied}): refusing it now "
            "would change what was answered. Nothing was changed"
        )
    if index > log.last_index:
        if ahead:
            return  # the others have it, and this node will receive it: it must refuse it like them
        raise NotFoundError(
            f"entry {index} is not in this log, which ends at {log.last_index}. If the other nodes have it and it has "
            "not reached this one yet, say so with --ahead"
        )
    payload = log.entries(index, ENTRY_BYTES)[0].payload
    try:
        entry = decode_entry(payload)
    except HyperClusterError as error:
        raise TurnedAwayError(
            f"entry {index} can not be read by this release ({error}), so no command of it can be refused: install the "
            "release that wrote it"
        ) from error
    if entry.kind is not EntryType.BATCH:
        raise MalformedError(f"entry {index} is a {entry.kind.name}, which holds no command")
    commands = sum(len(group.run.ops) for group in entry.groups)
    if wanted.ordinal is not None and wanted.ordinal >= commands:
        raise MalformedError(f"ordinal {wanted.ordinal}: entry {index} holds {commands} commands, counted from 0")
