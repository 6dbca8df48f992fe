"""Seeded simulation: universes with virtual time, crashes and a faulty disk."""
