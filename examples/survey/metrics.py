"""Measure one Python file: size and cyclomatic complexity. Pure but for reading the file."""

from __future__ import annotations

import ast
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# The nodes that open one further path through their function, as McCabe counts them; two more are in `_decisions`.
BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.Assert,
    ast.ExceptHandler,
    ast.match_case,
)


@dataclass(frozen=True, kw_only=True)
class Unparsed:
    """A file that is counted as a file and nothing more."""

    path: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What was measured: of a file, of a package, or of everything. `seconds` is CPU time."""

    path: str
    files: int
    lines: int
    code_lines: int
    functions: int
    classes: int
    max_complexity: int
    total_complexity: int
    seconds: float
    unparsed: list[Unparsed] = field(default_factory=list[Unparsed])


class NotPythonError(Exception):
    """The file is not Python source that this interpreter can parse: no retry will change that."""


def measure(path: str) -> Metrics:
    """Parse the file and count. Raises `NotPythonError` where it does not parse, `OSError` where it is gone."""
    source = Path(path).read_bytes()
    # This thread's CPU time: what the file costs, and not how long others held the interpreter meanwhile.
    started = time.thread_time()
    complexities, classes = _walk(_parse(path, source))
    lines = source.splitlines()
    return Metrics(
        path=path,
        files=1,
        lines=len(lines),
        code_lines=sum(1 for line in map(bytes.strip, lines) if line and not line.startswith(b"#")),
        functions=len(complexities),
        classes=classes,
        max_complexity=max(complexities, default=0),
        total_complexity=sum(complexities),
        seconds=time.thread_time() - started,
    )


def add_up(path: str, parts: Sequence[Metrics], unparsed: Sequence[Unparsed] = ()) -> Metrics:
    """Return the whole of which these are the parts; `unparsed` are the files that are no part for not being parsed."""
    return Metrics(
        path=path,
        files=sum(part.files for part in parts) + len(unparsed),
        lines=sum(part.lines for part in parts),
        code_lines=sum(part.code_lines for part in parts),
        functions=sum(part.functions for part in parts),
        classes=sum(part.classes for part in parts),
        max_complexity=max((part.max_complexity for part in parts), default=0),
        total_complexity=sum(part.total_complexity for part in parts),
        seconds=sum(part.seconds for part in parts),
        unparsed=[*unparsed, *(file for part in parts for file in part.unparsed)],
    )


def _parse(path: str, source: bytes) -> ast.Module:
    try:
        return ast.parse(source, filename=path)
    except SyntaxError as error:
        raise NotPythonError(f"line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; nested too deeply, which can be either
        raise NotPythonError(f"{type(error).__name__}: {error}") from None


def _walk(tree: ast.Module) -> tuple[list[int], int]:
    """Return the complexity of each function, nested ones on their own account, and the number of classes.

    A stack of our own instead of `ast.NodeVisitor`: some sources nest deeper than the interpreter recurses.
    """
    complexities = [0]  # the first is the module's own and belongs to no function
    classes = 0
    todo: list[tuple[ast.AST, int]] = [(tree, 0)]
    while todo:
        node, owner = todo.pop()
        if isinstance(node, FUNCTIONS):
            owner = len(complexities)
            complexities.append(1)
        elif isinstance(node, ast.ClassDef):
            classes += 1
        complexities[owner] += _decisions(node)
        todo.extend((child, owner) for child in ast.iter_child_nodes(node))
    return complexities[1:], classes


def _decisions(node: ast.AST) -> int:
    if isinstance(node, BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0
