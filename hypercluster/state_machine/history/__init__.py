"""Author chains: what an event is, and which one comes next (HIS-1, HIS-2)."""
