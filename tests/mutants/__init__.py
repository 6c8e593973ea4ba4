"""Recorded one-line mistakes, and the proof that the marked tests notice each of them (CH-12)."""
