"""HyperCluster: one replicated, ordered history for a fleet of coding agents.

Import order points down: cli → rpc | client → node → raft → storage → telemetry → log →
state_machine → pb → values, errors, limits (see docs/architecture.md).
"""

__version__ = "0.1.0"
