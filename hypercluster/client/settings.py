"""Where a cluster is and who we are to it: `ClientSettings`, from code, flags or a TOML file.

Owns: the settings of a client, and the reading of client.toml as `hypercluster dev` and `init` write it.
Never: opens a connection, keeps key material in memory longer than a channel needs it.
Invariants: certificates and keys are named by path; relative paths in a file are relative to that file.

    nodes = ["127.0.0.1:7801", "127.0.0.1:7811"]
    [tls]
    ca = "ca.pem"
    cert = "client.pem"
    key = "client.key"
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from hypercluster.client.lane_types import LaneSettings
from hypercluster.credentials.tls import TlsFiles
from hypercluster.errors import MalformedError

CONFIG_BYTES_MAX = 1 << 20
NODES_MAX = 64


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """`tls` None speaks plain text, to nodes that were told to listen so for tests."""

    nodes: tuple[str, ...]
    tls: TlsFiles | None = None
    agent: str = ""  # D-19; minted by the cluster
    lane: LaneSettings = field(default_factory=LaneSettings)
    read_deadline_s: float = 10.0
    probe_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.nodes) <= NODES_MAX:
            raise MalformedError(f"nodes: {len(self.nodes)} addresses, expected 1 to {NODES_MAX}")
        for node in self.nodes:
            check_address(node)


def check_address(address: str) -> None:
    """Raises MalformedError unless it is HOST:PORT."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise MalformedError(f"nodes: {address!r} is not HOST:PORT")


def read_settings(path: Path) -> ClientSettings:
    """Raises MalformedError naming the file and the field."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise MalformedError(f"{path}: {error.strerror}") from error
    if len(text) > CONFIG_BYTES_MAX:
        raise MalformedError(f"{path}: {len(text)} bytes, limit is {CONFIG_BYTES_MAX}")
    try:
        table = tomllib.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MalformedError(f"{path}: {error}") from error
    nodes = table.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise MalformedError(f'{path}: nodes must be a list of "HOST:PORT"')
    tls = table.get("tls")
    files: TlsFiles | None = None
    if tls is not None:
        if not isinstance(tls, dict):
            raise MalformedError(f"{path}: tls must be a table with ca, cert and key")
        for name in ("ca", "cert", "key"):
            if not isinstance(tls.get(name), str):
                raise MalformedError(f"{path}: tls.{name} must name a file")
        base = path.parent
        files = TlsFiles(base / tls["ca"], base / tls["cert"], base / tls["key"])
    try:
        return ClientSettings(tuple(nodes), files)
    except MalformedError as error:
        raise MalformedError(f"{path}: {error}") from error
