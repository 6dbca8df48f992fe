"""Where entries go: the `Store` protocol, a store in memory, and the SQLite store."""
