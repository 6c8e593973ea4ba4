"""Signatures by the TLS keys of nodes, over what they leave on disk for others (WS-53).

Owns: ECDSA P-256 with SHA-256, over a purpose and the bytes, so that a signature for one use is none for another.
Never: the dates of the certificate: what was signed while it was valid stays signed by whom it names.
Invariants: `verify` answers whom the cluster's CA vouches for, or raises.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hypercluster.credentials.certificates import KeyPair, load_key, load_signer
from hypercluster.credentials.names import Subject
from hypercluster.errors import MalformedError


def sign(pair: KeyPair, purpose: str, message: bytes) -> bytes:
    """Raises MalformedError for a key that is none."""
    return load_key(pair.key_pem).sign(_signed_bytes(purpose, message), ec.ECDSA(hashes.SHA256()))


def verify(certificate_pem: bytes, trust_pem: bytes, purpose: str, message: bytes, signature: bytes) -> Subject:
    """Who signed. Raises MalformedError, saying what is wrong."""
    subject, key = load_signer(certificate_pem, trust_pem)
    try:
        key.verify(signature, _signed_bytes(purpose, message), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise MalformedError(f"the signature is not one of {subject.uri()}") from error
    return subject


def _signed_bytes(purpose: str, message: bytes) -> bytes:
    return b"hypercluster/" + purpose.encode() + b"\0" + message
