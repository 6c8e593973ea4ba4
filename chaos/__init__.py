"""The fault harness: real processes, real faults, and checkers that can say no (see DESIGN.md)."""
