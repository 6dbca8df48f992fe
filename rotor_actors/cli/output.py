"""How data is printed: a table for people, JSON for programs. Colour only where somebody looks and wants it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

import msgspec

_COLORS = {"queued": "33", "running": "34", "completed": "32", "failed": "31", "cancelled": "90", "ok": "32",
           "warning": "33", "problem": "31"}  # fmt: skip
MARKS = {"queued": "◷", "running": "▶", "completed": "✓", "failed": "✕", "cancelled": "⊘"}
_WIDEST = 60


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: str) -> None:
    """Print rows: a table of the columns named, or all they hold as JSON."""
    if output == "json":
        print(as_json(list(rows), indent=2))
    elif output == "jsonl":
        for row in rows:
            print(as_json(row))
    else:
        print_table([[text_of(row.get(column)) for column in columns] for row in rows], columns)


def print_one(value: Mapping[str, Any], output: str) -> None:
    """Print one thing: a line for each field, or JSON."""
    if output != "table":
        print(as_json(value, indent=2 if output == "json" else 0))
        return
    width = max(len(name) for name in value)
    for name, each in value.items():
        text = each if isinstance(each, str) else text_of(each)
        first, *rest = text.splitlines() or [""]
        print(f"{name:<{width}}  {colored(first, sys.stdout)}")
        for line in rest:
            print(f"{'':<{width}}  {line}")


def print_table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """Aligned columns; nothing at all for no rows, so that scripts see none."""
    if not rows:
        print("nothing found", file=sys.stderr)
        return
    shown = [[_clipped(cell) for cell in row] for row in rows]
    widths = [max(len(column), *(len(row[at]) for row in shown)) for at, column in enumerate(columns)]
    print("  ".join(f"{column.upper():<{width}}" for column, width in zip(columns, widths, strict=True)).rstrip())
    for row in shown:
        cells = [colored(f"{cell:<{width}}", sys.stdout) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def is_clipped(*texts: str) -> bool:
    """Has a table too little room for one of them?"""
    return any(_clipped(text) != " ".join(text.split()) for text in texts)


def _clipped(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST - 1]}…"


def text_of(value: Any) -> str:
    """A cell."""
    match value:
        case None:
            return ""
        case str():
            return value
        case datetime():
            return value.astimezone().isoformat(sep=" ", timespec="seconds")
        case _:
            return as_json(value)


def as_json(value: Any, indent: int = 0) -> str:
    """JSON; what JSON does not know becomes text."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def wants_color(stream: TextIO) -> bool:
    """See no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colored(text: str, stream: TextIO) -> str:
    """A status word in its colour."""
    code = _COLORS.get(text.strip())
    return f"\x1b[{code}m{text}\x1b[0m" if code and wants_color(stream) else text


def parse_data(text: str | None) -> Any:
    """The value of `--data`: JSON, or `@file`. Raises UsageError."""
    from rotor_actors.cli.main import UsageError

    if text is None:
        return None
    try:
        if text.startswith("@"):
            with open(text[1:], "rb") as file:
                return msgspec.json.decode(file.read())
        return msgspec.json.decode(text)
    except OSError as error:
        raise UsageError(f"--data: {error}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"--data must be JSON, e.g. '\"text\"' or '{{\"a\": 1}}': {error}") from error
