"""TLS for gRPC: credentials of listeners and channels, reloaded from files, and who is at the other end (SEC-1).

Owns: `TlsFiles`, `server_credentials`, `channel_credentials`, and `subject_of`, the one place that turns a
verified certificate into a name.
Never: a listener without client certificates, or a name taken from anything but the verified certificate.
Invariants: TLS 1.3 only. gRPC has no switch for that: the cipher list that `hypercluster/__init__.py` sets before
gRPC is loaded leaves TLS 1.2 nothing to agree on with ECDSA certificates, `require_tls13` refuses to make
credentials in a process where it came too late, and `subject_of` turns away a connection of any other version.
Files are read again at the next handshake after they changed; files that do not fit together keep the pair before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from hypercluster import TLS12_NOTHING_TO_AGREE_ON
from hypercluster.credentials.certificates import KeyPair, now_utc, read_file, verify_pair
from hypercluster.credentials.names import Subject, any_node_dns_name, node_dns_name, parse_uri
from hypercluster.errors import MalformedError, UnauthenticatedError, check
from hypercluster.values import ClusterId, NodeId

ChannelOption = tuple[str, str | int]

TLS_VERSION: Final = b"TLSv1.3"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the trust and the own certificate lie. `trust` may hold several CAs, while one replaces another."""

    trust: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """A set of files that fit together, as read at one moment."""

    trust_pem: bytes
    pair: KeyPair
    subject: Subject


def load(files: TlsFiles) -> TlsMaterial:
    """Raises MalformedError naming the file."""
    trust_pem = read_file(files.trust)
    pair = KeyPair(read_file(files.certificate), read_file(files.key))
    try:
        subject = verify_pair(pair, trust_pem, now_utc())
    except (MalformedError, UnauthenticatedError) as error:
        raise MalformedError(f"{files.certificate} (key {files.key}, trust {files.trust}): {error}") from error
    return TlsMaterial(trust_pem, pair, subject)


def require_tls13() -> None:
    """Before any credentials are made: the cipher list was in place when gRPC was loaded."""
    check(
        os.environ.get("GRPC_SSL_CIPHER_SUITES") == TLS12_NOTHING_TO_AGREE_ON,
        "TLS 1.2 is not shut out: gRPC was imported before hypercluster. Import hypercluster first, "
        f"or set GRPC_SSL_CIPHER_SUITES={TLS12_NOTHING_TO_AGREE_ON}",
    )


class ReloadingFiles:
    """`TlsFiles` with the newest set that fits together and names whom the first one named. Asked from gRPC's threads,
    at each handshake."""

    def __init__(self, files: TlsFiles, on_problem: Callable[[str], None] | None = None) -> None:
        """Raises MalformedError when there is nothing usable to begin with."""
        self._files = files
        self._on_problem = on_problem
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._material = load(files)
        self._told = ""
        self.reloads = 0

    def current(self) -> TlsMaterial:
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                try:
                    self._material = self._same_subject(load(self._files))
                except MalformedError as error:
                    # Files are replaced one after the other: the set before stays until the new one is whole.
                    # The stamp is kept as it was, so that the next handshake looks again.
                    self._tell(str(error))
                else:
                    self._stamp = stamp
                    self._told = ""
                    self.reloads += 1
            return self._material

    def _same_subject(self, material: TlsMaterial) -> TlsMaterial:
        """A certificate of somebody else would end every connection of this process, and make none."""
        before, after = self._material.subject, material.subject
        if after != before:
            raise MalformedError(f"{self._files.certificate} is now {after.uri()}, and this process is {before.uri()}")
        return material

    def _tell(self, problem: str) -> None:
        """Once, however many handshakes meet it."""
        if self._on_problem is not None and problem != self._told:
            self._told = problem
            self._on_problem(problem)

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._files.trust, self._files.certificate, self._files.key))


def server_credentials(files: ReloadingFiles) -> grpc.ServerCredentials:
    """For a listener that demands a certificate from everyone.

    gRPC asks at every handshake and is told only of changes. Were it handed the same files again each time, it would
    build its TLS context anew under the handshakes that other threads are beginning with the one before, and a crowd
    of connections would bring the process down: gRPC 1.85 aborts on a reference count."""
    require_tls13()
    given = files.current()

    def configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
        pair = material.pair
        return grpc.ssl_server_certificate_configuration([(pair.key_pem, pair.certificate_pem)], material.trust_pem)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        material = files.current()
        if material is given:
            return None
        given = material
        return configuration(material)

    # None is gRPC's word for "unchanged"; its stubs leave it out.
    return grpc.dynamic_ssl_server_credentials(configuration(given), changed, True)  # type: ignore[arg-type]


def channel_credentials(material: TlsMaterial) -> grpc.ChannelCredentials:
    """For one channel. A client that loaded gRPC before this package still speaks 1.3 to our nodes: they have no
    other. The node itself has passed `require_tls13` for its listeners."""
    return grpc.ssl_channel_credentials(material.trust_pem, material.pair.key_pem, material.pair.certificate_pem)


def expect_node(cluster_id: ClusterId, node_id: NodeId) -> list[ChannelOption]:
    """Channel options: the handshake fails unless the other end is this very node."""
    return [("grpc.ssl_target_name_override", node_dns_name(cluster_id, node_id))]


def expect_any_node(cluster_id: ClusterId) -> list[ChannelOption]:
    """Channel options: the handshake fails unless the other end is a node of this cluster, at whatever address."""
    return [("grpc.ssl_target_name_override", any_node_dns_name(cluster_id))]


def subject_of(auth_context: Mapping[str, Iterable[bytes]]) -> Subject:
    """Whom the verified certificate of a call's connection names. Raises UnauthenticatedError."""
    version = tuple(auth_context.get("ssl_tls_version", ()))
    if version != (TLS_VERSION,):
        raise UnauthenticatedError("the connection is not TLS 1.3")
    uris = tuple(auth_context.get("peer_uri", ()))
    if len(uris) != 1:
        raise UnauthenticatedError(f"the certificate has {len(uris)} URI names, expected exactly one")
    return parse_uri(uris[0].decode("utf-8", "replace"))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
