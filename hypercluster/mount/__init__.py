"""A workspace as a directory of this host, through /dev/fuse. See DESIGN.md."""
