"""Comes before every test module: the package is imported ahead of gRPC, which reads the cipher list once (SEC-1)."""

import hypercluster  # noqa: F401
