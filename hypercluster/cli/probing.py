"""Does a cluster answer already where a new one is to be founded? (CL-15)

Owns: one TLS handshake with each address, only to read the name in the certificate that the other side shows.
Never: trusts what it reads, sends a byte beyond the handshake, or minds an address where nothing answers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from hypercluster.cli.founding import NodePlan
from hypercluster.config import split_address
from hypercluster.credentials.names import Subject, parse_uri
from hypercluster.errors import UnauthenticatedError, WrongClusterError

PROBE_S = 1.0


def refuse_where_a_cluster_answers(plans: Sequence[NodePlan]) -> None:
    """Raises WrongClusterError naming every address where a node shows its certificate."""
    addresses = [address for plan in plans for address in (plan.client_address(), plan.peer_address())]
    found = asyncio.run(_ask_all(addresses))
    if found:
        lines = [f"  {address}  node {who.name} of cluster {who.cluster_id.hex()}" for address, who in found]
        raise WrongClusterError(
            "\n".join(
                [
                    "a cluster answers at these addresses already; nothing was written:",
                    *lines,
                    "  a node of it that lost its directory comes back with `hypercluster node rejoin`",
                ]
            )
        )


async def _ask_all(addresses: Iterable[str]) -> list[tuple[str, Subject]]:
    asked = list(addresses)
    answers = await asyncio.gather(*(_ask(address) for address in asked))
    return [(address, who) for address, who in zip(asked, answers, strict=True) if who is not None]


async def _ask(address: str) -> Subject | None:
    """Who shows a certificate there; None where nobody does, or not one of ours."""
    parts = split_address(address)
    if parts is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # a stranger's authority: there is nothing to verify by
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(*parts, ssl=context)
    except (OSError, TimeoutError):
        return None
    try:
        tls = writer.get_extra_info("ssl_object")
        return _name(tls.getpeercert(binary_form=True))
    finally:
        writer.transport.abort()


def _name(certificate: bytes | None) -> Subject | None:
    if not certificate:
        return None
    try:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        )
        assert isinstance(names.value, x509.SubjectAlternativeName)
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        return next((parse_uri(uri) for uri in uris), None)
    except (ValueError, x509.ExtensionNotFound, UnauthenticatedError):
        return None
