"""The op log of workspaces after it was trimmed (WS-54): segments, hash-chained, checked offline."""
