"""A preloaded library that makes one process's disk slow or failing and its wall clock wrong; see DESIGN.md."""
