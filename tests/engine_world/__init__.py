"""A small world for the engine alone: virtual time, hand-moved frames and syncs, a log and a state in memory."""
