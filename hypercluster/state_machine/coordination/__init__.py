"""Locks and what guards by them: replicated state beside the tree, never part of a root (D-2). See DESIGN.md.

Imports nothing, so that `events` may be read by modules that the judges here import themselves.
"""
