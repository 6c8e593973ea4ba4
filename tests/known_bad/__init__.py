"""Builds with one safety rule broken on purpose: test-only patches, to show that the checks find them (CH-10)."""
