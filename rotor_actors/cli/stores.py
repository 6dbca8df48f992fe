"""What `--store` names."""

from __future__ import annotations

from typing import Any


def stores_of(text: str) -> Any:
    """What `--store` names: a file or a URL; or several URLs with spaces between them, which are shards."""
    parts = text.split()
    return parts if len(parts) > 1 and all("://" in part for part in parts) else text


def has_one_owner(text: str) -> bool:
    """Is it a file, which one process has open at a time?"""
    return "://" not in text or text.startswith("sqlite:///")
