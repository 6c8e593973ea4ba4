"""HyperCluster: one replicated, ordered history for a fleet of coding agents.

Import order points down: cli → rpc | client → node → raft → storage → telemetry → log →
state_machine → pb → credentials → values, errors, limits (see docs/architecture.md).

This module also sets what must be set before gRPC is loaded: the cipher list that leaves TLS 1.2 nothing to
agree on (SEC-1), and how much gRPC writes. Every entry point passes here; `credentials.tls.require_tls13` refuses
to make a server where it came too late.
"""

import os as _os
import sys as _sys

__version__ = "0.1.0"

# gRPC reads this once, while it is imported, and has no other switch for the TLS version. The list governs
# TLS 1.2 only: an RSA suite can not be agreed on with the ECDSA certificates that are all we issue and accept.
TLS12_NOTHING_TO_AGREE_ON = "ECDHE-RSA-AES256-GCM-SHA384"
if "grpc" not in _sys.modules:
    _os.environ["GRPC_SSL_CIPHER_SUITES"] = TLS12_NOTHING_TO_AGREE_ON
    # By default gRPC writes a line for every handshake that fails: strangers could fill a node's log.
    _os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
