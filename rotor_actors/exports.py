"""A run tree as one file: HTML, SVG, mermaid or JSON. What comes out opens without a server and asks nobody for anything.

Pure: from what `runtime.tree` gives to a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final, Protocol

import msgspec

from rotor_actors.errors import ErrorInfo
from rotor_actors.records import RunStatus

_ROW = 22
_LABEL = 340
_LANE = 640
_COLORS: Final = {
    "queued": "#8a7a1f",
    "running": "#2f62df",
    "completed": "#1d7f45",
    "failed": "#c0362c",
    "cancelled": "#717988",
}
_MARKS: Final = {"queued": "◷", "running": "▶", "completed": "✓", "failed": "✕", "cancelled": "⊘"}
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#1b1e25;background:#fff}
pre{background:#f4f5f8;padding:.7rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}
summary{cursor:pointer}dt{color:#5b6270}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dd{margin:0}
svg{max-width:100%;height:auto}.error{color:#c0362c}
""".strip()


class ShownRun(Protocol):
    """What is shown of a run: `views.RunInfo`."""

    @property
    def run_id(self) -> str: ...
    @property
    def workflow_id(self) -> str: ...
    @property
    def status(self) -> RunStatus: ...
    @property
    def attempt(self) -> int: ...
    @property
    def parent_run_id(self) -> str | None: ...
    @property
    def parent_step_id(self) -> str | None: ...
    @property
    def input(self) -> Any: ...
    @property
    def result(self) -> Any: ...
    @property
    def error(self) -> ErrorInfo | None: ...
    @property
    def reason(self) -> str: ...
    @property
    def waiting_for(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def started_at(self) -> datetime | None: ...
    @property
    def ended_at(self) -> datetime | None: ...


class ShownTree(Protocol):
    """A run and all below it: `views.RunTree`."""

    @property
    def run(self) -> ShownRun: ...
    @property
    def children(self) -> Sequence[ShownTree]: ...


def export_tree(tree: ShownTree, format: str) -> str:
    """The tree in one of the formats `"html"`, `"svg"`, `"mermaid"`, `"json"`.

    Raises:
        ValueError: another format.
    """
    exporter = _EXPORTERS.get(format)
    if exporter is None:
        raise ValueError(f"unknown format {format!r}: one of {', '.join(_EXPORTERS)}")
    return exporter(tree)


def each_run(tree: ShownTree) -> Iterator[tuple[int, ShownRun]]:
    """All runs with their depth below the top, parents before their children; a tree may be deeper than the stack."""
    todo: list[tuple[int, ShownTree]] = [(0, tree)]
    while todo:
        depth, at = todo.pop()
        yield depth, at.run
        todo.extend((depth + 1, child) for child in reversed(at.children))


def as_json(tree: ShownTree) -> str:
    """All runs as a list, parents before their children; inputs and results as plain data."""
    runs = [{**msgspec.to_builtins(run, enc_hook=str), "below": depth} for depth, run in each_run(tree)]
    return msgspec.json.format(msgspec.json.encode({"runs": runs}, enc_hook=str), indent=2).decode()


def as_mermaid(tree: ShownTree) -> str:
    """A flowchart, as Markdown hosts draw it."""
    lines = ["flowchart TD"]
    path: list[int] = []
    for number, (depth, run) in enumerate(each_run(tree)):
        del path[depth:]
        label = f"{_MARKS[run.status]} {run.workflow_id}".replace('"', "#quot;")
        lines.append(f'  r{number}["{label}"]:::{run.status}')
        if path:
            step = (run.parent_step_id or "").replace('"', "#quot;")
            lines.append(f'  r{path[-1]} -->|"{step}"| r{number}' if step else f"  r{path[-1]} --> r{number}")
        path.append(number)
    lines += [f"  classDef {status} fill:{color},color:#fff,stroke:none" for status, color in _COLORS.items()]
    return "\n".join(lines) + "\n"


def as_svg(tree: ShownTree) -> str:
    """A row for each run: who it is on the left, when it waited and worked on the right."""
    rows = list(each_run(tree))
    start = min(run.created_at for _, run in rows)
    end = max(_last(run) for _, run in rows)
    span = max((end - start).total_seconds(), 0.001)
    height = (len(rows) + 1) * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LABEL + _LANE} {height}" width="{_LABEL + _LANE}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{_LABEL}" y="15" fill="#5b6270">0 s</text>'
        f'<text x="{_LABEL + _LANE}" y="15" text-anchor="end" fill="#5b6270">{span:.3g} s</text>',
    ]
    for number, (depth, run) in enumerate(rows, start=1):
        parts.append(_svg_row(number * _ROW, depth, run, start, span))
    return "".join(parts) + "</svg>\n"


def _svg_row(top: int, depth: int, run: ShownRun, start: datetime, span: float) -> str:
    def at(moment: datetime) -> float:
        return _LABEL + _LANE * (moment - start).total_seconds() / span

    color = _COLORS[run.status]
    began = run.started_at or _last(run)
    waited, worked = at(run.created_at), at(max(began, run.created_at))
    label = f"{run.parent_step_id}: {run.workflow_id}" if run.parent_step_id else run.workflow_id
    indent = 6 + 14 * min(depth, 12)
    room = max(8, (_LABEL - indent - 24) // 8)
    return (
        f"<g><title>{escape(f'{run.run_id} {run.status}')}</title>"
        f'<text x="{indent}" y="{top + 15}" fill="{color}">{_MARKS[run.status]}</text>'
        f'<text x="{indent + 18}" y="{top + 15}" fill="#1b1e25">{escape(_clipped(label, room))}</text>'
        f'<rect x="{waited:.1f}" y="{top + 9}" width="{max(0.0, worked - waited):.1f}" height="4" fill="#d9dce3"/>'
        f'<rect x="{worked:.1f}" y="{top + 5}" width="{max(1.5, at(_last(run)) - worked):.1f}" height="12" rx="2" '
        f'fill="{color}"/></g>'
    )


def as_html(tree: ShownTree) -> str:
    """A page with the picture, and each run's input, result and error."""
    rows = list(each_run(tree))
    counts = Counter(run.status.value for _, run in rows)
    title = f"{tree.run.workflow_id} {tree.run.run_id}"
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    details = "".join(_html_run(run) for _, run in rows)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"content-security-policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(tree.run.workflow_id)}</h1><p>{len(rows)} runs: {escape(said)}</p>{as_svg(tree)}"
        f"<h2>Runs</h2>{details}</body></html>\n"
    )


def _html_run(run: ShownRun) -> str:
    color = _COLORS[run.status]
    head = f'<span style="color:{color}">{_MARKS[run.status]} {run.status}</span> {escape(run.workflow_id)}'
    return f"<details><summary>{head} <small>{escape(run.run_id)}</small></summary>{run_html(run)}</details>"


def run_html(run: ShownRun) -> str:
    """One run, as a piece of a page: in notebooks, too."""
    facts = {
        "status": run.status.value,
        "run": run.run_id,
        "invoked by": f"step {run.parent_step_id} of {run.parent_run_id}" if run.parent_run_id else "",
        "created": run.created_at.isoformat(),
        "ended": run.ended_at.isoformat() if run.ended_at else "",
        "attempt": str(run.attempt),
        "waits for": run.waiting_for,
        "reason": run.reason,
    }
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    payloads = "".join(
        f"<p>{name}</p><pre>{escape(_text(value))}</pre>"
        for name, value in (("input", run.input), ("result", run.result))
        if value is not None
    )
    error = ""
    if run.error is not None:
        text = run.error.traceback or f"{run.error.type}: {run.error.message}"
        error = f'<pre class="error">{escape(text)}</pre>'
    return f"<dl>{lines}</dl>{payloads}{error}"


def _text(value: Any) -> str:
    try:
        return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode()
    except Exception:
        return repr(value)


def _last(run: ShownRun) -> datetime:
    """Until when it is known to have been there; what still runs has only its beginning."""
    return run.ended_at or run.started_at or run.created_at


def _clipped(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


_EXPORTERS: Final[dict[str, Callable[[ShownTree], str]]] = {
    "html": as_html,
    "svg": as_svg,
    "mermaid": as_mermaid,
    "json": as_json,
}
