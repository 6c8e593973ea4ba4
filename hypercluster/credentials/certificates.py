"""Makes, reads and stores certificates (SEC-1): a CA per cluster, certificates of nodes and of clients.

Owns: what is in a certificate (ECDSA P-256, one URI name, key usages, dates) and the files it is kept in.
Never: gRPC, sockets, or a decision about who may have a certificate.
Invariants: every private key is written with mode 0600 and never over an existing file unless asked; only
ECDSA P-256 keys are made or accepted, which TLS 1.3 only rests on; a client's certificate can not serve
(no serverAuth usage, no DNS name).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hypercluster.credentials.names import (
    Subject,
    any_node_dns_name,
    check_cluster_id,
    client_subject,
    node_dns_name,
    node_subject,
    parse_uri,
)
from hypercluster.errors import MalformedError
from hypercluster.values import ClusterId, NodeId

CA_DAYS: Final = 3_650
NODE_DAYS: Final = 397
CLIENT_DAYS: Final = 397
BACKDATE_S: Final = 300  # so that a machine whose clock is a little behind accepts a new certificate
PEM_BYTES_MAX: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, PEM."""

    certificate_pem: bytes
    key_pem: bytes


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What people and alerts want to know. Times are UTC."""

    subject: Subject | None  # None: a CA
    not_before: datetime.datetime
    not_after: datetime.datetime
    serial: int

    def days_left(self, now: datetime.datetime) -> float:
        return (self.not_after - now) / datetime.timedelta(days=1)


def now_utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def make_ca(cluster_id: ClusterId, *, now: datetime.datetime | None = None, days: int = CA_DAYS) -> KeyPair:
    """A self-signed authority for one cluster. Rotation: make another, keep both in the trust file for a while."""
    check_cluster_id(cluster_id)
    key = ec.generate_private_key(ec.SECP256R1())
    # The random part tells the CAs of one cluster apart while both are trusted.
    name = _common_name(f"HyperCluster CA {cluster_id.hex()[:16]} {secrets.token_hex(4)}")
    begin, end = _span(now or now_utc(), days)
    builder = (
        _builder(name, name, key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def issue_node(
    ca: KeyPair,
    cluster_id: ClusterId,
    node_id: str,
    hosts: Sequence[str],
    *,
    now: datetime.datetime | None = None,
    days: int = NODE_DAYS,
) -> KeyPair:
    """`hosts`: DNS names and IP addresses under which clients dial the node. Raises MalformedError."""
    subject = node_subject(cluster_id, node_id)
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(subject.uri()),
        x509.DNSName(node_dns_name(cluster_id, NodeId(node_id))),
        x509.DNSName(any_node_dns_name(cluster_id)),
        *(_host_name(host) for host in hosts),
    ]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(ca, f"node {node_id}", names, usages, now or now_utc(), days)


def issue_client(
    ca: KeyPair, cluster_id: ClusterId, name: str, *, now: datetime.datetime | None = None, days: int = CLIENT_DAYS
) -> KeyPair:
    """For a client or worker. Raises MalformedError."""
    subject = client_subject(cluster_id, name)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(subject.uri())]
    # The common name has at most 64 characters and is for people only.
    return _issue(ca, f"client {name}"[:64], names, [ExtendedKeyUsageOID.CLIENT_AUTH], now or now_utc(), days)


def read_facts(certificate_pem: bytes) -> CertificateFacts:
    """Of the first certificate in the text. Raises MalformedError."""
    certificate = _first(certificate_pem)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        authority = constraints.ca
    except x509.ExtensionNotFound:
        authority = False
    return CertificateFacts(
        subject=None if authority else _subject(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=certificate.serial_number,
    )


def verify_pair(pair: KeyPair, trust_pem: bytes, now: datetime.datetime) -> Subject:
    """Raises MalformedError, saying what is wrong, unless the key is the certificate's, its dates include `now`,
    one of the trusted CAs signed it and it names one subject. gRPC itself says nothing useful of any of these."""
    certificate = _first(pair.certificate_pem)
    key = load_key(pair.key_pem)
    if certificate.public_key() != key.public_key():
        raise MalformedError("the private key does not belong to the certificate")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise MalformedError(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and now is {now:%Y-%m-%d %H:%M}"
        )
    if not any(_signed_by(certificate, authority) for authority in _all(trust_pem)):
        raise MalformedError("none of the trusted CAs signed the certificate")
    return _subject(certificate)


def load_signer(certificate_pem: bytes, trust_pem: bytes) -> tuple[Subject, ec.EllipticCurvePublicKey]:
    """Whom a certificate names, and its key. Raises MalformedError unless one of the trusted CAs signed it."""
    certificate = _first(certificate_pem)
    if not any(_signed_by(certificate, authority) for authority in _all(trust_pem)):
        raise MalformedError("none of the trusted CAs signed the certificate")
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedError("the certificate's key is not ECDSA")
    return _subject(certificate), key


def write_file(path: Path, content: bytes, *, mode: int = 0o600, replace: bool = False) -> None:
    """Written beside, synced, renamed, directory synced. FileExistsError when there and not `replace`."""
    if not replace and path.exists():
        raise FileExistsError(f"{path} is there already; it is never overwritten unless asked")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_pair(pair: KeyPair, certificate_path: Path, key_path: Path, *, replace: bool = False) -> None:
    """The key first: whoever watches the certificate's file finds the new key beside it. Both 0600."""
    if not replace and certificate_path.exists():
        raise FileExistsError(f"{certificate_path} is there already; it is never overwritten unless asked")
    write_file(key_path, pair.key_pem, replace=replace)
    write_file(certificate_path, pair.certificate_pem, replace=replace)


def read_file(path: Path) -> bytes:
    """Raises MalformedError when it can not be read or is longer than PEM_BYTES_MAX."""
    try:
        with path.open("rb") as file:
            content = file.read(PEM_BYTES_MAX + 1)
    except OSError as error:
        raise MalformedError(f"{path}: {error.strerror}") from error
    if len(content) > PEM_BYTES_MAX:
        raise MalformedError(f"{path}: longer than {PEM_BYTES_MAX} bytes")
    return content


def _issue(
    ca: KeyPair,
    common_name: str,
    names: list[x509.GeneralName],
    usages: list[x509.ObjectIdentifier],
    now: datetime.datetime,
    days: int,
) -> KeyPair:
    authority = _first(ca.certificate_pem)
    authority_key = load_key(ca.key_pem)
    if authority.public_key() != authority_key.public_key():
        raise MalformedError("the CA's private key does not belong to its certificate")
    begin, end = _span(now, days)
    end = min(end, authority.not_valid_after_utc)
    if end <= begin:
        raise MalformedError(f"the CA expired on {authority.not_valid_after_utc:%Y-%m-%d}: make a new one first")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_common_name(common_name), authority.subject, key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
    )
    return _pair(builder.sign(authority_key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _span(now: datetime.datetime, days: int) -> tuple[datetime.datetime, datetime.datetime]:
    if not 1 <= days <= CA_DAYS:
        raise MalformedError(f"days: {days}, expected 1 to {CA_DAYS}")
    return now - datetime.timedelta(seconds=BACKDATE_S), now + datetime.timedelta(days=days)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    # A wildcard would let one node's certificate pass for another's name.
    if (
        not host
        or len(host) > 253
        or "*" in host
        or not host.isascii()
        or not host.replace("-", "").replace(".", "").isalnum()
    ):
        raise MalformedError(f"host {host[:80]!r}: an IP address or a DNS name without wildcards is expected")
    return x509.DNSName(host.lower())


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _all(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise MalformedError("not a certificate in PEM") from error


def _first(pem: bytes) -> x509.Certificate:
    return _all(pem)[0]


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises MalformedError."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise MalformedError("not an unencrypted private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedError("the private key is not ECDSA P-256: TLS 1.3 only rests on it")
    return key


def _subject(certificate: x509.Certificate) -> Subject:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise MalformedError("the certificate has no subject alternative name") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise MalformedError(f"the certificate has {len(uris)} URI names, expected exactly one")
    return parse_uri(uris[0])


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
