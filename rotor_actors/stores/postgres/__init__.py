"""The store that many replicas share: PostgreSQL 14 or newer, through asyncpg (extra `postgres`)."""
