"""Bringing two peers' histories together: heads first, range reconciliation where heads can not tell (HIS, NEG)."""
