"""Who is at the other end of a client connection, and the credentials of the client listener (SEC-1, D-20).

Owns: `client_listener_credentials` and `principal_of`.
Never: a principal taken from metadata, a request or anything else that the sender chooses; a decision about what the
principal may do.
Invariants: a principal is "client:NAME" or "node:ID" of this very cluster, proved by a certificate that the cluster's
CA signed, on TLS 1.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import grpc

from hypercluster.credentials import tls
from hypercluster.credentials.names import Subject
from hypercluster.errors import WrongClusterError
from hypercluster.values import ClusterId


class AuthenticatedContext(Protocol):
    """What is needed of a grpc or grpc.aio servicer context."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


def client_listener_credentials(files: tls.ReloadingFiles) -> grpc.ServerCredentials:
    """TLS 1.3, a certificate demanded of everyone; the files are read again when they change."""
    return tls.server_credentials(files)


def subject_of_call(context: AuthenticatedContext, cluster_id: ClusterId) -> Subject:
    """Raises UnauthenticatedError or WrongClusterError."""
    subject = tls.subject_of(context.auth_context())
    if subject.cluster_id != cluster_id:
        raise WrongClusterError("the certificate is of another cluster")
    return subject


def principal_of(context: AuthenticatedContext, cluster_id: ClusterId) -> str:
    """ "client:NAME" or "node:ID". Raises UnauthenticatedError or WrongClusterError."""
    return subject_of_call(context, cluster_id).principal()
