"""What a certificate says of its owner, and the strict patterns of those names (SEC-3).

Owns: the subject alternative name URIs `hypercluster://CLUSTER_ID_HEX/node/NODE_ID` and
`hypercluster://CLUSTER_ID_HEX/client/NAME`, the DNS names by which a dialer checks a node, and their patterns.
Never: I/O, certificates themselves, or a decision about what a name may do.
Invariants: `parse_uri(subject.uri()) == subject`; two different subjects have different URIs, and two different
nodes different DNS names (node ids are lower case, because DNS names compare without regard to case).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hypercluster.errors import MalformedError, UnauthenticatedError
from hypercluster.values import ClusterId, NodeId

CLUSTER_ID_BYTES: Final = 16
NODE_ID_PATTERN: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
CLIENT_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,126}[A-Za-z0-9])?")
_URI: Final = re.compile(r"hypercluster://([0-9a-f]{32})/(node|client)/([A-Za-z0-9._@-]{1,128})")


class Role(Enum):
    NODE = "node"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Subject:
    """The owner of a certificate, as one cluster's CA vouches for it."""

    cluster_id: ClusterId
    role: Role
    name: str

    def uri(self) -> str:
        return f"hypercluster://{self.cluster_id.hex()}/{self.role.value}/{self.name}"

    def principal(self) -> str:
        """The actor of D-20: "client:NAME" or "node:ID"."""
        return f"{self.role.value}:{self.name}"


def node_subject(cluster_id: ClusterId, node_id: str) -> Subject:
    """Raises MalformedError."""
    check_cluster_id(cluster_id)
    if NODE_ID_PATTERN.fullmatch(node_id) is None:
        raise MalformedError(
            f"node_id {node_id[:80]!r}: 1 to 63 lower-case letters, digits and hyphens, no hyphen at either end"
        )
    return Subject(cluster_id, Role.NODE, node_id)


def client_subject(cluster_id: ClusterId, name: str) -> Subject:
    """Raises MalformedError."""
    check_cluster_id(cluster_id)
    if CLIENT_NAME_PATTERN.fullmatch(name) is None:
        raise MalformedError(
            f"client name {name[:150]!r}: 1 to 128 letters, digits and . _ @ -, with a letter or digit at both ends"
        )
    return Subject(cluster_id, Role.CLIENT, name)


def check_cluster_id(cluster_id: bytes) -> None:
    if len(cluster_id) != CLUSTER_ID_BYTES:
        raise MalformedError(f"cluster_id: {len(cluster_id)} bytes, expected {CLUSTER_ID_BYTES}")


def parse_uri(uri: str) -> Subject:
    """Raises UnauthenticatedError: a name that is not exactly ours is nobody's."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise UnauthenticatedError(f"the certificate's name {uri[:80]!r} is not of the form hypercluster://CLUSTER/…")
    cluster_id = ClusterId(bytes.fromhex(match[1]))
    try:
        make = node_subject if match[2] == Role.NODE.value else client_subject
        return make(cluster_id, match[3])
    except MalformedError as error:
        raise UnauthenticatedError(f"the certificate's name is malformed: {error}") from error


def node_dns_name(cluster_id: ClusterId, node_id: NodeId) -> str:
    """By this name a dialer knows that it reached this very node, whatever its address."""
    return f"{node_id}.{cluster_id.hex()}.node.hypercluster.internal"


def any_node_dns_name(cluster_id: ClusterId) -> str:
    """By this name a client knows that it reached some node of its cluster, whatever its address."""
    return f"any.{cluster_id.hex()}.cluster.hypercluster.internal"
