"""Tests of hypercluster/node."""
