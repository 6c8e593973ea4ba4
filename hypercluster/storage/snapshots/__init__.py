"""Stored workspace snapshots (WS-53): pages cut by content, manifests that are signed, and what becomes of both."""
