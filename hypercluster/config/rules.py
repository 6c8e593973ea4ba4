"""What makes a configuration wrong, and the words for it.

Owns: the rules that hold between settings, and how addresses are read.
Never: reads files or the environment.
Invariants: each rule names the setting it blames, so that the mistake can be shown with its line; none raises.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from hypercluster.config.settings import RANGES, Config

VOTERS_ALLOWED = (1, 3, 5, 7)
LOOPBACK_NAMES = ("localhost",)

_NODE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SCOPE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})")


def judge(config: Config) -> list[tuple[str, str]]:
    """(setting, what is wrong with it) of a configuration whose types are right."""
    wrong: list[tuple[str, str]] = []
    for check in _CHECKS:
        wrong += check(config)
    return wrong


def _check_ranges(config: Config) -> list[tuple[str, str]]:
    wrong = []
    for name, (lowest, highest) in RANGES.items():
        section, _, key = name.partition(".")
        value: int = getattr(getattr(config, section), key)
        if not lowest <= value <= highest:
            wrong.append((name, f"{name} {value}: must be {lowest} to {highest}"))
    return wrong


def _check_node(config: Config) -> list[tuple[str, str]]:
    wrong = []
    if not _NODE_ID.fullmatch(config.node.id):
        wrong.append(("node.id", f'node.id "{config.node.id}": needed, 1 to 63 of a-z, 0-9 and -, like "n1"'))
    if not config.node.data:
        wrong.append(("node.data", "node.data: needed, the directory that `hypercluster cluster init` made"))
    for key in ("org", "project"):
        value = getattr(config.access, key)
        if not _SCOPE_NAME.fullmatch(value):
            wrong.append((f"access.{key}", f'access.{key} "{value}": 1 to 128 of a-z, 0-9, ".", "_" and "-"'))
    if config.log.level not in ("debug", "info", "warning", "error"):
        wrong.append(("log.level", f'log.level "{config.log.level}": one of debug, info, warning, error'))
    return wrong


def _check_voters(config: Config) -> list[tuple[str, str]]:
    voters = config.cluster.voters
    if voters == 0 or voters in VOTERS_ALLOWED:
        return []
    return [("cluster.voters", f"cluster.voters {voters}: {why_not_voters(voters)}")]


def why_not_voters(voters: int) -> str:
    """Why this many voters are refused (CL-14)."""
    if voters > VOTERS_ALLOWED[-1]:
        return "use 3, 5 or 7; more voters make every write wait for more disks"
    if voters < 1:
        return "use 3, 5 or 7, or 1 for development"
    return (
        f"use 3, 5 or 7, or 1 for development; {voters} voters need {voters // 2 + 1} for a majority "
        f"and survive the loss of {(voters - 1) // 2}, no more than {voters - 1} would"
    )


def _check_raft(config: Config) -> list[tuple[str, str]]:
    raft, wrong = config.raft, []
    if raft.election_min_ms <= 3 * raft.heartbeat_ms:
        wrong.append(
            (
                "raft.election_min_ms",
                f"raft.election_min_ms {raft.election_min_ms}: must be more than 3 × raft.heartbeat_ms "
                f"({raft.heartbeat_ms}), so {3 * raft.heartbeat_ms + 1} or more",
            )
        )
    if raft.election_max_ms <= raft.election_min_ms:
        wrong.append(
            (
                "raft.election_max_ms",
                f"raft.election_max_ms {raft.election_max_ms}: must be above "
                f"raft.election_min_ms ({raft.election_min_ms})",
            )
        )
    return wrong


def _check_listeners(config: Config) -> list[tuple[str, str]]:
    wrong: list[tuple[str, str]] = []
    missing = [f"tls.{k}" for k in ("ca", "cert", "key") if not getattr(config.tls, k)]
    for key in ("client", "peer", "admin"):
        name, value = f"listen.{key}", getattr(config.listen, key)
        parts = split_address(value)
        if parts is None:
            wrong.append((name, f'{name} "{value}": expected host:port with a port from 1 to 65535'))
        elif key == "admin" and not is_loopback(parts[0]):
            wrong.append((name, f'{name} "{value}": serves plain HTTP, so only a loopback address is accepted'))
        elif key != "admin" and missing:
            what = "a listener" if is_loopback(parts[0]) else "a public address"
            wrong.append(
                (name, f'{name} "{value}": {what} needs {", ".join(missing)}; see `hypercluster cluster init`')
            )
    public = config.listen.client_public
    if public and split_address(public) is None:
        wrong.append(("listen.client_public", f'listen.client_public "{public}": expected host:port'))
    return wrong


def split_address(address: str) -> tuple[str, int] | None:
    """(host, port) of host:port or [v6]:port, None when it is neither."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        return None
    return found["host"].strip("[]"), int(found["port"])


def is_loopback(host: str) -> bool:
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_CHECKS: tuple[Callable[[Config], list[tuple[str, str]]], ...] = (
    _check_ranges,
    _check_node,
    _check_voters,
    _check_raft,
    _check_listeners,
)
