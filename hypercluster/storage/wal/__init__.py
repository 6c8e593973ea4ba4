"""The write-ahead log. See types.py for the contract and DESIGN.md for the format."""
