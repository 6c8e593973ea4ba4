"""Tests of hypercluster/rpc."""
