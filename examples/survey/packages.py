"""Find the packages of a directory: every directory below it with Python files directly in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

# Not the directory's own source: what was installed into it, and caches.
SKIPPED = {"__pycache__", "dist-packages", "node_modules", "site-packages"}


@dataclass(frozen=True, kw_only=True)
class Package:
    path: str  # relative to the directory that is surveyed
    directory: str
    files: list[str]


def find_packages(directory: str, limit: int | None = None) -> list[Package]:
    """List the packages in a fixed order, with no more than `limit` files in all."""
    packages: list[Package] = []
    left = limit
    for path, files in _walk(directory):
        taken = files[:left]  # all of them where there is no limit
        if left is not None:
            left -= len(taken)
        if taken:
            packages.append(Package(path=os.path.relpath(path, directory), directory=path, files=taken))
    return packages


def _walk(directory: str) -> Iterator[tuple[str, list[str]]]:
    for path, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if name not in SKIPPED and not name.startswith("."))
        yield path, sorted(name for name in names if name.endswith(".py"))
