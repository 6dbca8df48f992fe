"""Universes of several replicas on one database."""
