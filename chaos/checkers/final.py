"""What the observer read of the cluster when all was healed, in types (final.json, and the files it names).

Owns: the shape of `Finished.final`, and what of it may be lacking.
Never: judges it.
Invariants: a part that is not there is None, and whoever needs it says unknown; a part of another shape is FinalError.
`{"$file": PATH}` in the place of a part names a JSON file of the run's directory, or that file with `.gz` behind it.

    {"problems": [WORDS],
     "nodes": {NODE: {"applied_index": N, "digest": HEX, ...}},
     "workspaces": {NAME: {"log": [{"log_index", "raft_index", "client_id", "client_seq", "root", ...}],
                           "root": {NODE: HEX}, "tree": {NODE: {...}}, "files": {PATH: {"size", "records"?, ...}}}},
     "hub": {"metadata": {KEY: {"value", "version", "complete", "history": [{"value", "version", "raft_index"}]}}}}
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chaos.seams import Finished

FILE_BYTES_MAX: Final = 1 << 30
FILE_KEY: Final = "$file"


class FinalError(ValueError):
    """The final state has another shape than it must. Names the part."""


@dataclass(frozen=True, slots=True)
class HubVersion:
    value: Any
    version: int
    raft_index: int | None
    deleted: bool


@dataclass(frozen=True, slots=True)
class HubKey:
    """`history` by rising version. `complete`: it begins with the first version there was."""

    value: Any
    version: int
    complete: bool
    history: tuple[HubVersion, ...]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One accepted operation of a workspace. `line` is all that was written of it."""

    log_index: int
    raft_index: int | None
    client: tuple[str, int]
    root: str
    line: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Workspace:
    name: str
    log: tuple[LogLine, ...] | None
    roots: Mapping[str, str]
    trees: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, Any] | None


def part(run: Finished, value: Any) -> Any:
    """The value itself, or what the file that it names holds."""
    if not isinstance(value, Mapping) or value.keys() != {FILE_KEY}:
        return value
    path = run.directory / str(value[FILE_KEY])
    if not path.resolve().is_relative_to(run.directory.resolve()):
        raise FinalError(f"final.json names {value[FILE_KEY]!r}, outside the run's directory")
    packed = path.with_name(path.name + ".gz")
    return load(packed if packed.exists() else path)


def load(path: Path) -> Any:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise FinalError(f"{path.name} has {path.stat().st_size} bytes, limit {FILE_BYTES_MAX}")
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return json.loads(text)
    except (OSError, EOFError, ValueError) as error:
        raise FinalError(f"{path.name}: {error}") from None


def problems(run: Finished) -> list[str]:
    """What the observer could not read."""
    found = run.final.get("problems", [])
    return [str(words) for words in found] if isinstance(found, list) else [str(found)]


def _mapping(run: Finished, value: Any, what: str) -> Mapping[str, Any]:
    value = part(run, value)
    if not isinstance(value, Mapping):
        raise FinalError(f"{what} must be an object, is {str(value)[:60]!r}")
    return value


def _integer(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise FinalError(f"{what} must be an integer, is {value!r}")
    return value


def nodes(run: Finished) -> Mapping[str, Any] | None:
    found = run.final.get("nodes")
    return None if found is None else _mapping(run, found, "nodes")


def hub_keys(run: Finished) -> dict[str, HubKey] | None:
    """Keys of the namespace metadata."""
    if run.final.get("hub") is None:
        return None
    keys = _mapping(run, _mapping(run, run.final["hub"], "hub").get("metadata"), "hub.metadata")
    return {key: _hub_key(run, key, value) for key, value in keys.items()}


def _hub_key(run: Finished, key: str, value: Any) -> HubKey:
    fields = _mapping(run, value, f"hub.metadata.{key}")
    history = part(run, fields.get("history"))
    if not isinstance(history, list):
        raise FinalError(f"hub.metadata.{key}.history must be a list")
    versions = [
        HubVersion(
            v.get("value"),
            _integer(v.get("version"), f"a version of hub.metadata.{key}"),
            v.get("raft_index"),
            bool(v.get("deleted")),
        )
        for v in history
    ]
    versions.sort(key=lambda version: version.version)
    version = _integer(fields.get("version"), f"hub.metadata.{key}.version")
    return HubKey(fields.get("value"), version, bool(fields.get("complete")), tuple(versions))


def workspaces(run: Finished) -> list[Workspace] | None:
    if run.final.get("workspaces") is None:
        return None
    return [
        _workspace(run, name, value) for name, value in _mapping(run, run.final["workspaces"], "workspaces").items()
    ]


def used_by(found: Sequence[Workspace], clients: set[str]) -> list[Workspace]:
    """Those whose log holds something of these clients: a cluster may hold workspaces of others. All, if none does."""
    used = [w for w in found if any(line.client[0] in clients for line in w.log or ())]
    return used or list(found)


def _workspace(run: Finished, name: str, value: Any) -> Workspace:
    fields = _mapping(run, value, f"workspaces.{name}")
    log = part(run, fields.get("log"))
    if log is not None and not isinstance(log, list):
        raise FinalError(f"workspaces.{name}.log must be a list")
    files = fields.get("files")
    return Workspace(
        name,
        None if log is None else tuple(_log_line(name, line) for line in log),
        _mapping(run, fields.get("root", {}), f"workspaces.{name}.root"),
        {
            node: _mapping(run, tree, f"the tree of {name} on {node}")
            for node, tree in _mapping(run, fields.get("tree", {}), f"workspaces.{name}.tree").items()
        },
        None if files is None else _mapping(run, files, f"workspaces.{name}.files"),
    )


def _log_line(name: str, line: Any) -> LogLine:
    if not isinstance(line, Mapping):
        raise FinalError(f"workspaces.{name}.log holds {line!r}")
    where = f"of a line of workspaces.{name}.log"
    return LogLine(
        _integer(line.get("log_index"), f"log_index {where}"),
        line.get("raft_index"),
        (str(line.get("client_id", "")), _integer(line.get("client_seq"), f"client_seq {where}")),
        str(line.get("root", "")),
        line,
    )
