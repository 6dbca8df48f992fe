"""`rotor check`: what `python -m rotor_actors.check` does."""

from __future__ import annotations

import argparse

from rotor_actors import check as checker


def check(options: argparse.Namespace) -> int:
    """Replay unfinished runs against the code of today, without effects."""
    return checker.main([options.target, "--store", options.store, *(["--json"] if options.json else [])])
