"""Real, small implementations of our contracts, for tests."""
