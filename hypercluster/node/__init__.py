"""See DESIGN.md in this package."""
