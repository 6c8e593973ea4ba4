"""From a verified certificate to a caller (D-19, D-20).

Owns: `Authentication`: the principal, its scope, and the worker that vouches.
Never: anything a request claims.
"""

from __future__ import annotations

from typing import Any

import grpc

from hypercluster.credentials.names import Role
from hypercluster.node.words import Caller
from hypercluster.rpc.tls import subject_of_call
from hypercluster.values import ClusterId, Scope


class Authentication:
    """Every client of a cluster acts in its one scope; the certificate's name is the worker's."""

    def __init__(self, cluster_id: ClusterId, scope: Scope) -> None:
        self._cluster_id = cluster_id
        self._scope = scope

    def __call__(self, context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
        """Raises UnauthenticatedError or WrongClusterError."""
        subject = subject_of_call(context, self._cluster_id)
        worker = subject.name if subject.role is Role.CLIENT else ""
        return Caller(subject.principal(), self._scope, worker)
