"""Tests of hypercluster/telemetry."""
