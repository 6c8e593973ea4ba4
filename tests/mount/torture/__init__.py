"""Long runs of real programs on mounts while leaders and workers are killed (WS-64). See README.md."""
