"""The worker: a workspace kept as a directory. See ../DESIGN.md."""
