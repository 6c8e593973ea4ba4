"""A workspace followed in place: reads are local, mutations go to the cluster. See DESIGN.md."""
