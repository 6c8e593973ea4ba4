"""Directed tests of the engine: a defect of the library each."""
