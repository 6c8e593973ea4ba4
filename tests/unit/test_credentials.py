"""Names, certificates, their files, and credentials that are read again without a restart (SEC-1)."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster import TLS12_NOTHING_TO_AGREE_ON
from hypercluster.credentials import certificates, names, tls
from hypercluster.credentials.certificates import KeyPair
from hypercluster.credentials.names import Role, Subject, parse_uri
from hypercluster.errors import InvariantError, MalformedError, UnauthenticatedError, WrongClusterError
from hypercluster.rpc.tls import client_listener_credentials, principal_of
from hypercluster.values import ClusterId, NodeId
from tests.fakes import certs
from tests.fakes.waiting import eventually
from tests.integration.peer_attacks import tls_context, tls_dial

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


# --- names ----------------------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16), st.from_regex(names.NODE_ID_PATTERN, fullmatch=True))
@settings(derandomize=True, max_examples=200)
def test_a_node_s_name_reads_back(cluster: bytes, node_id: str) -> None:
    subject = names.node_subject(ClusterId(cluster), node_id)
    assert parse_uri(subject.uri()) == subject
    assert subject.uri() == f"hypercluster://{cluster.hex()}/node/{node_id}"
    assert subject.principal() == f"node:{node_id}"


@given(st.binary(min_size=16, max_size=16), st.from_regex(names.CLIENT_NAME_PATTERN, fullmatch=True))
@settings(derandomize=True, max_examples=200)
def test_a_client_s_name_reads_back(cluster: bytes, name: str) -> None:
    subject = names.client_subject(ClusterId(cluster), name)
    assert parse_uri(subject.uri()) == subject
    assert subject.principal() == f"client:{name}"


@given(st.text(max_size=120))
@settings(derandomize=True, max_examples=300)
def test_any_other_text_is_nobody_s_name(text: str) -> None:
    with pytest.raises(UnauthenticatedError):
        parse_uri(text)


@pytest.mark.parametrize(
    "uri",
    [
        "hypercluster://0102030405060708090a0b0c0d0e0f10/node/n1/",
        "hypercluster://0102030405060708090a0b0c0d0e0f10/node/n1\n",
        "hypercluster://0102030405060708090A0B0C0D0E0F10/node/n1",
        "hypercluster://0102030405060708090a0b0c0d0e0f/node/n1",
        "hypercluster://0102030405060708090a0b0c0d0e0f10/admin/n1",
        "hypercluster://0102030405060708090a0b0c0d0e0f10/node/N1",
        "hypercluster://0102030405060708090a0b0c0d0e0f10/node/n1.x",
        "hypercluster://0102030405060708090a0b0c0d0e0f10/node/" + "n" * 64,
        "hypercluster://0102030405060708090a0b0c0d0e0f10/client/",
        "hypercluster://0102030405060708090a0b0c0d0e0f10/client/a/../b",
        "http://0102030405060708090a0b0c0d0e0f10/node/n1",
        " hypercluster://0102030405060708090a0b0c0d0e0f10/node/n1",
    ],
)
def test_names_that_are_almost_ours_are_refused(uri: str) -> None:
    with pytest.raises(UnauthenticatedError):
        parse_uri(uri)


@pytest.mark.parametrize("node_id", ["", "-n", "n-", "n_1", "n1.example", "N1", "ñ", "n" * 64, "n\n"])
def test_bad_node_ids_are_refused_by_name(node_id: str) -> None:
    with pytest.raises(MalformedError, match="node_id"):
        names.node_subject(certs.CLUSTER, node_id)
    with pytest.raises(MalformedError, match="node_id"):
        certificates.issue_node(certs.ca(), certs.CLUSTER, node_id, [])


# --- certificates ---------------------------------------------------------------------------------


def extensions(pair: KeyPair) -> x509.Extensions:
    return x509.load_pem_x509_certificate(pair.certificate_pem).extensions


@pytest.mark.req("SEC-1")
def test_what_a_node_s_certificate_says() -> None:
    pair = certificates.issue_node(certs.ca(), certs.CLUSTER, "n1", ["10.0.0.7", "::1", "Host.Example"], now=NOW)
    found = extensions(pair)
    alternatives = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.UniformResourceIdentifier) == [
        "hypercluster://0102030405060708090a0b0c0d0e0f10/node/n1"
    ]
    assert alternatives.get_values_for_type(x509.DNSName) == [
        "n1.0102030405060708090a0b0c0d0e0f10.node.hypercluster.internal",
        "any.0102030405060708090a0b0c0d0e0f10.cluster.hypercluster.internal",
        "host.example",
    ]
    assert [str(a) for a in alternatives.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "::1"]
    assert found.get_extension_for_class(x509.BasicConstraints).value.ca is False
    facts = certificates.read_facts(pair.certificate_pem)
    assert facts.subject == Subject(certs.CLUSTER, Role.NODE, "n1")
    assert facts.not_before < NOW < facts.not_after
    assert 396.9 < facts.days_left(NOW) <= 397
    key = serialization.load_pem_private_key(pair.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)


@pytest.mark.req("SEC-1")
def test_a_client_s_certificate_can_not_serve() -> None:
    pair = certificates.issue_client(certs.ca(), certs.CLUSTER, "worker@host-1", now=NOW)
    found = extensions(pair)
    usages = list(found.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    alternatives = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == []
    assert certificates.read_facts(pair.certificate_pem).subject == Subject(certs.CLUSTER, Role.CLIENT, "worker@host-1")


def test_a_ca_signs_no_further_ca_and_no_certificate_outlives_it() -> None:
    ca = certificates.make_ca(certs.CLUSTER, now=NOW, days=10)
    constraints = extensions(ca).get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert certificates.read_facts(ca.certificate_pem).subject is None
    pair = certificates.issue_node(ca, certs.CLUSTER, "n1", [], now=NOW, days=300)
    assert certificates.read_facts(pair.certificate_pem).not_after == NOW + 10 * DAY
    with pytest.raises(MalformedError, match="the CA expired"):
        certificates.issue_node(ca, certs.CLUSTER, "n1", [], now=NOW + 11 * DAY)


@pytest.mark.parametrize("host", ["", "*.example", "a b", "a/b", "ä.example", "x" * 254])
def test_bad_hosts_are_refused_by_name(host: str) -> None:
    with pytest.raises(MalformedError, match="host"):
        certificates.issue_node(certs.ca(), certs.CLUSTER, "n1", [host])


@pytest.mark.parametrize("days", [0, -1, 100_000])
def test_bad_spans_are_refused_by_name(days: int) -> None:
    with pytest.raises(MalformedError, match="days"):
        certificates.make_ca(certs.CLUSTER, days=days)


def rsa_pair() -> KeyPair:
    """A certificate of ours in every way but its key."""
    authority = x509.load_pem_x509_certificate(certs.ca().certificate_pem)
    authority_key = serialization.load_pem_private_key(certs.ca().key_pem, None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = rsa.generate_private_key(65_537, 2_048)
    uri = x509.UniformResourceIdentifier(names.node_subject(certs.CLUSTER, "n1").uri())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "n1")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(certificates.now_utc() - DAY)
        .not_valid_after(certificates.now_utc() + DAY)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(made.public_bytes(serialization.Encoding.PEM), key.private_bytes(*pkcs8))


@pytest.mark.req("SEC-1")
def test_files_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path) -> None:
    good = certs.node("n1")
    now = certificates.now_utc()
    cases: list[tuple[str, KeyPair, bytes]] = [
        ("does not belong", KeyPair(good.certificate_pem, certs.node("n2").key_pem), certs.ca().certificate_pem),
        ("none of the trusted CAs", good, certs.ca(name="another").certificate_pem),
        ("not ECDSA P-256", rsa_pair(), certs.ca().certificate_pem),
        ("not an unencrypted private key", KeyPair(good.certificate_pem, b"?"), certs.ca().certificate_pem),
        ("not a certificate", KeyPair(b"?", good.key_pem), certs.ca().certificate_pem),
        ("not a certificate", good, b""),
        ("0 URI names|no subject alternative", certs.ca(), certs.ca().certificate_pem),
    ]
    for reason, pair, trust in cases:
        with pytest.raises(MalformedError, match=reason):
            certificates.verify_pair(pair, trust, now)
    for moment in (now + 398 * DAY, now - DAY):
        with pytest.raises(MalformedError, match="is valid from"):
            certificates.verify_pair(good, certs.ca().certificate_pem, moment)
    both = certs.ca(name="another").certificate_pem + certs.ca().certificate_pem
    assert certificates.verify_pair(good, both, now) == Subject(certs.CLUSTER, Role.NODE, "n1")
    files = certs.write(tmp_path, good)
    files.key.unlink()
    with pytest.raises(MalformedError, match=r"own\.key: No such file"):
        tls.load(files)
    files.key.write_bytes(bytes(300_000))
    with pytest.raises(MalformedError, match="longer than"):
        tls.load(files)


@pytest.mark.req("SEC-1")
def test_files_are_private_and_not_overwritten_unasked(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        certificates.write_pair(certs.node("n1"), tmp_path / "a.crt", tmp_path / "a.key")
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {"a.crt": 0o600, "a.key": 0o600}
    for existing in ("a.crt", "a.key"):
        (tmp_path / existing).rename(tmp_path / "aside")
        with pytest.raises(FileExistsError, match="never overwritten"):
            certificates.write_pair(certs.node("n2"), tmp_path / "a.crt", tmp_path / "a.key")
        (tmp_path / "aside").rename(tmp_path / existing)
    assert (tmp_path / "a.key").read_bytes() == certs.node("n1").key_pem
    certificates.write_pair(certs.node("n2"), tmp_path / "a.crt", tmp_path / "a.key", replace=True)
    assert (tmp_path / "a.key").read_bytes() == certs.node("n2").key_pem
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.crt", "a.key"]


# --- TLS ------------------------------------------------------------------------------------------


def importing(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name != "GRPC_SSL_CIPHER_SUITES"}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**plain, **environment}, check=False
    )


@pytest.mark.req("SEC-1")
def test_the_cipher_list_is_in_place_whichever_module_comes_first() -> None:
    require = "from hypercluster.credentials import tls; tls.require_tls13(); print('fine')"
    assert importing(require).stdout == "fine\n"
    assert importing("import hypercluster.pb.v1.peer_pb2_grpc; " + require).stdout == "fine\n"
    # An operator's own list does not open TLS 1.2 again.
    assert importing(require, GRPC_SSL_CIPHER_SUITES="ECDHE-ECDSA-AES256-GCM-SHA384").stdout == "fine\n"
    late = importing("import grpc; " + require)
    assert late.returncode != 0
    assert "Import hypercluster first" in late.stderr
    assert importing("import grpc; " + require, GRPC_SSL_CIPHER_SUITES=TLS12_NOTHING_TO_AGREE_ON).stdout == "fine\n"


def test_no_credentials_are_made_where_it_came_too_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = certs.files(tmp_path, certs.node("n1"))
    monkeypatch.delenv("GRPC_SSL_CIPHER_SUITES")
    with pytest.raises(InvariantError, match=r"TLS 1\.2 is not shut out"):
        client_listener_credentials(files)


KNOWN_BAD_LISTENER = """
import sys, grpc
from concurrent.futures import ThreadPoolExecutor
trust, certificate, key = (open(path, "rb").read() for path in sys.argv[1:])
server = grpc.server(ThreadPoolExecutor(1))
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)], trust, True))
server.start()
print(port, flush=True)
sys.stdin.read()
"""


@pytest.mark.req("SEC-1")
def test_known_bad_a_listener_without_the_list_speaks_tls_1_2(tmp_path: Path) -> None:
    """So the tests that dial with 1.2 and fail do show something."""
    files = certs.write(tmp_path, certs.node("n1"))
    command = [sys.executable, "-c", KNOWN_BAD_LISTENER, str(files.trust), str(files.certificate), str(files.key)]
    plain = {name: value for name, value in os.environ.items() if name != "GRPC_SSL_CIPHER_SUITES"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plain) as listener:
        assert listener.stdout is not None
        port = int(listener.stdout.readline())
        context = tls_context(ssl.TLSVersion.TLSv1_2, certs.node("n2"), tmp_path)
        with tls_dial(port, context) as connection:
            assert connection.version() == "TLSv1.2"
        listener.kill()


class Listener:
    """A client listener whose one method answers with the caller's principal."""

    def __init__(self, files: tls.ReloadingFiles) -> None:
        self._server = grpc.aio.server()
        method: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(self._who)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", {"Am": method}),))
        self.port = self._server.add_secure_port("127.0.0.1:0", client_listener_credentials(files))
        self.metadata: list[Any] = []

    async def _who(self, _: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            return principal_of(context, certs.CLUSTER).encode()
        except (UnauthenticatedError, WrongClusterError) as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.reason)
            raise

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def ask(
        self, pair: KeyPair, *, trust: bytes = b"", options: list[tls.ChannelOption] | None = None, **metadata: str
    ) -> str:
        credentials = grpc.ssl_channel_credentials(
            trust or certs.ca().certificate_pem, pair.key_pem, pair.certificate_pem
        )
        names_expected = tls.expect_any_node(certs.CLUSTER) if options is None else options
        options = [*names_expected, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options) as channel:
            try:
                answer: bytes = await channel.unary_unary("/test.Who/Am")(
                    b"", timeout=10, metadata=tuple(metadata.items())
                )
            except grpc.aio.AioRpcError as error:
                return (
                    f"{error.code().name} {error.details() if error.code().name == 'UNAUTHENTICATED' else ''}".strip()
                )
            return answer.decode()


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Listener]:
    made = Listener(certs.files(tmp_path / "node", certs.node("n1")))
    await made.start()
    yield made
    await made.stop()


@pytest.mark.req("SEC-1")
async def test_the_principal_is_the_certificate_s(listener: Listener) -> None:
    assert await listener.ask(certs.client("worker-1")) == "client:worker-1"
    assert await listener.ask(certs.node("n3")) == "node:n3"
    # Nothing that the sender says changes it.
    claims = {"principal": "client:admin", "x-forwarded-client-cert": "URI=hypercluster://x", "user": "admin"}
    assert await listener.ask(certs.client("worker-1"), **claims) == "client:worker-1"


@pytest.mark.req("SEC-1")
async def test_others_are_refused(listener: Listener) -> None:
    other_ca = certs.ca().certificate_pem
    assert await listener.ask(certs.client("w", authority="forger"), trust=other_ca) == "UNAVAILABLE"
    strange = certificates.issue_client(certs.ca(), certs.OTHER_CLUSTER, "w")
    assert await listener.ask(strange) == "UNAUTHENTICATED WRONG_CLUSTER"
    assert await listener.ask(nameless()) == "UNAUTHENTICATED UNAUTHENTICATED"


def nameless() -> KeyPair:
    """Signed by the CA, without a name of ours."""
    authority = x509.load_pem_x509_certificate(certs.ca().certificate_pem)
    authority_key = serialization.load_pem_private_key(certs.ca().key_pem, None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client:admin")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(2)
        .not_valid_before(certificates.now_utc() - DAY)
        .not_valid_after(certificates.now_utc() + DAY)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("x"), x509.RFC822Name("a@hypercluster")]), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(made.public_bytes(serialization.Encoding.PEM), key.private_bytes(*pkcs8))


URI = b"hypercluster://0102030405060708090a0b0c0d0e0f10/client/w"


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize(
    "context",
    [
        {},
        {"peer_uri": [URI]},
        {"peer_uri": [URI], "ssl_tls_version": [b"TLSv1.2"]},
        {"peer_uri": [], "ssl_tls_version": [b"TLSv1.3"]},
        {"peer_uri": [URI, URI], "ssl_tls_version": [b"TLSv1.3"]},
        {"peer_uri": [b"\xff"], "ssl_tls_version": [b"TLSv1.3"]},
        {"x509_common_name": [b"client:w"], "ssl_tls_version": [b"TLSv1.3"]},
        {"x509_subject_alternative_name": [URI], "ssl_tls_version": [b"TLSv1.3"]},
    ],
)
def test_a_connection_that_proves_no_name_has_no_principal(context: dict[str, list[bytes]]) -> None:
    with pytest.raises(UnauthenticatedError):
        tls.subject_of(context)


@pytest.mark.req("SEC-1")
async def test_a_client_tells_nodes_from_others(listener: Listener, tmp_path: Path) -> None:
    """By the name of the cluster or of one node, whatever the address."""
    worker = certs.client("worker-1")
    assert await listener.ask(worker, options=tls.expect_node(certs.CLUSTER, NodeId("n1"))) == "client:worker-1"
    assert await listener.ask(worker, options=tls.expect_node(certs.CLUSTER, NodeId("n2"))) == "UNAVAILABLE"
    assert await listener.ask(worker, options=tls.expect_any_node(certs.OTHER_CLUSTER)) == "UNAVAILABLE"
    assert await listener.ask(worker, options=[]) == "client:worker-1"  # by the address in the certificate
    impostor = Listener(certs.files(tmp_path / "impostor", certs.client("n1")))
    await impostor.start()
    assert await impostor.ask(worker) == "UNAVAILABLE"
    await impostor.stop()


@pytest.mark.req("SEC-1")
async def test_the_client_listener_speaks_tls_1_3_only(listener: Listener, tmp_path: Path) -> None:
    def dial(version: ssl.TLSVersion) -> str | None:
        with tls_dial(listener.port, tls_context(version, certs.client("w"), tmp_path)) as connection:
            return connection.version()

    for version in (ssl.TLSVersion.TLSv1_2,):
        with pytest.raises(OSError):
            await asyncio.to_thread(dial, version)
    assert await asyncio.to_thread(dial, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


@pytest.mark.req("SEC-1")
def test_grpc_is_told_of_changes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told of the same files at every handshake, it rebuilds its context under others and aborts in a crowd."""
    asked: list[Any] = []
    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", lambda _first, fetch, _demand: asked.append(fetch))
    files = certs.write(tmp_path, certs.node("n1"))
    tls.server_credentials(tls.ReloadingFiles(files))
    (fetch,) = asked
    assert fetch() is None
    assert fetch() is None
    certificates.write_pair(certs.node("n1", authority="new"), files.certificate, files.key, replace=True)
    assert fetch() is None  # the CA is not trusted yet: they do not fit together
    certificates.write_file(files.trust, certs.ca(name="new").certificate_pem, replace=True)
    assert fetch() is not None
    assert fetch() is None


@pytest.mark.req("SEC-1")
def test_somebody_elses_certificate_is_not_taken_at_a_reload(tmp_path: Path) -> None:
    """Files that fit together and name another node: the set before stays, and it is said once."""
    problems: list[str] = []
    files = certs.write(tmp_path, certs.node("n1"))
    reloading = tls.ReloadingFiles(files, problems.append)
    before = reloading.current()
    for other in (certs.node("n2"), certs.client("n1")):
        problems.clear()
        certificates.write_pair(other, files.certificate, files.key, replace=True)
        assert reloading.current() is before and reloading.current() is before
        assert len(problems) == 1 and before.subject.uri() in problems[0] and str(files.certificate) in problems[0]
    renewed = certs.node("n1", authority="new")
    certificates.write_file(files.trust, certs.ca(name="new").certificate_pem, replace=True)
    certificates.write_pair(renewed, files.certificate, files.key, replace=True)
    assert reloading.current().pair == renewed and reloading.reloads == 1


@pytest.mark.req("SEC-1")
async def test_certificates_and_the_ca_are_replaced_without_a_restart(tmp_path: Path) -> None:
    """The whole rotation of a CA: trust both, re-issue, trust the new one only."""
    problems: list[str] = []
    files = certs.write(tmp_path / "node", certs.node("n1"))
    reloading = tls.ReloadingFiles(files, problems.append)
    listener = Listener(reloading)
    await listener.start()
    old, new = certs.ca(), certs.ca(name="new")
    old_client, new_client = certs.client("w"), certs.client("w", authority="new")
    both = old.certificate_pem + new.certificate_pem
    assert await listener.ask(old_client) == "client:w"
    assert await listener.ask(new_client) == "UNAVAILABLE"

    certificates.write_file(files.trust, both, replace=True)
    assert await listener.ask(old_client) == "client:w"
    assert await listener.ask(new_client) == "client:w"

    # Between the two renames the files do not fit together: the pair before stays in use.
    new_node = certs.node("n1", authority="new")
    certificates.write_file(files.key, new_node.key_pem, replace=True)
    assert await listener.ask(new_client) == "client:w"
    assert "does not belong" in problems[-1]
    certificates.write_file(files.certificate, new_node.certificate_pem, replace=True)
    assert await listener.ask(new_client, trust=new.certificate_pem) == "client:w"
    assert await listener.ask(old_client, trust=old.certificate_pem) == "UNAVAILABLE"  # it shows the new one

    certificates.write_file(files.trust, new.certificate_pem, replace=True)
    assert await listener.ask(new_client, trust=new.certificate_pem) == "client:w"
    assert await listener.ask(old_client, trust=new.certificate_pem) == "UNAVAILABLE"
    await eventually(lambda: reloading.reloads == 3, "three sets were read")
    await listener.stop()
