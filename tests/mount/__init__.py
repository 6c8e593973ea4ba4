"""A mount by real system calls, over real processes of a local cluster."""
