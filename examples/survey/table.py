"""Turn the measures of packages into text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from survey.metrics import Metrics, Unparsed

ROWS = 10
COLUMNS: dict[str, Callable[[Metrics], str]] = {
    "files": lambda m: f"{m.files}",
    "lines": lambda m: f"{m.lines}",
    "code": lambda m: f"{m.code_lines}",
    "functions": lambda m: f"{m.functions}",
    "classes": lambda m: f"{m.classes}",
    "complexity": lambda m: f"{m.total_complexity}",
    "highest": lambda m: f"{m.max_complexity}",
    "CPU s": lambda m: f"{m.seconds:.2f}",
}
ORDERS: dict[str, Callable[[Metrics], tuple[float, ...]]] = {
    "Largest packages": lambda m: (m.code_lines,),
    "Most complex packages": lambda m: (m.max_complexity, m.total_complexity),
    "Slowest packages": lambda m: (m.seconds,),
}


def format_survey(packages: Sequence[Metrics], total: Metrics) -> str:
    """Return the whole report: three tables, the files that did not parse, and the sums."""
    parts = [_table(title, sorted(packages, key=order, reverse=True), total) for title, order in ORDERS.items()]
    if total.unparsed:
        parts.append(_unparsed(total.unparsed))
    return "\n\n".join(parts)


def _table(title: str, packages: Sequence[Metrics], total: Metrics) -> str:
    shown = [*packages[:ROWS], total]
    names = [package.path for package in shown]
    width = max(len(title), *map(len, names))
    rows = [title.ljust(width) + "".join(name.rjust(12) for name in COLUMNS)]
    for name, package in zip(names, shown, strict=True):
        rows.append(name.ljust(width) + "".join(cell(package).rjust(12) for cell in COLUMNS.values()))
    ruler = "-" * len(rows[0])
    return "\n".join([rows[0], ruler, *rows[1:-1], ruler, rows[-1]])


def _unparsed(files: Sequence[Unparsed]) -> str:
    lines = [f"Failed runs, files that do not parse: {len(files)}"]
    lines += [f"  {file.path}: {file.error}" for file in files[:ROWS]]
    if len(files) > ROWS:
        lines.append(f"  and {len(files) - ROWS} more (--json lists them all)")
    return "\n".join(lines)
