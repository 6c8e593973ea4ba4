"""Certificates for tests, made once a process and written where a test wants them."""

from __future__ import annotations

import functools
from pathlib import Path

from hypercluster.credentials import certificates
from hypercluster.credentials.certificates import KeyPair
from hypercluster.credentials.tls import ReloadingFiles, TlsFiles
from hypercluster.values import ClusterId

CLUSTER = ClusterId(bytes(range(1, 17)))
OTHER_CLUSTER = ClusterId(bytes(range(101, 117)))


@functools.cache
def _ca(cluster: ClusterId, name: str) -> KeyPair:
    return certificates.make_ca(cluster)


def ca(cluster: ClusterId = CLUSTER, name: str = "") -> KeyPair:
    """The same one each time; `name` tells several CAs of a cluster apart."""
    return _ca(cluster, name)


@functools.cache
def node(
    node_id: str, cluster: ClusterId = CLUSTER, authority: str = "", ca_cluster: ClusterId | None = None
) -> KeyPair:
    return certificates.issue_node(ca(ca_cluster or cluster, authority), cluster, node_id, ["127.0.0.1", "localhost"])


@functools.cache
def client(name: str, cluster: ClusterId = CLUSTER, authority: str = "") -> KeyPair:
    return certificates.issue_client(ca(cluster, authority), cluster, name)


def write(directory: Path, pair: KeyPair, trust: KeyPair | None = None) -> TlsFiles:
    directory.mkdir(parents=True, exist_ok=True)
    files = TlsFiles(directory / "ca.crt", directory / "own.crt", directory / "own.key")
    certificates.write_file(files.trust, (trust or ca()).certificate_pem, replace=True)
    certificates.write_pair(pair, files.certificate, files.key, replace=True)
    return files


def files(directory: Path, pair: KeyPair, trust: KeyPair | None = None) -> ReloadingFiles:
    return ReloadingFiles(write(directory, pair, trust))
