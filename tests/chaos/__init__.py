"""Tests of the fault harness itself."""
