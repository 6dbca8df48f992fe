"""`rotor demo`: surveys Python sources, one durable run for each file, with the dashboard open on it."""

from __future__ import annotations

import argparse
import ast
import asyncio
import os
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rotor_actors.cli.live import follow
from rotor_actors.cli.main import DONE, UsageError
from rotor_actors.cli.serving import serve_app
from rotor_actors.cli.stopping import stopping
from rotor_actors.context import Context
from rotor_actors.define import workflow
from rotor_actors.errors import NonRetriableError
from rotor_actors.retry import RetryPolicy
from rotor_actors.runtime import Runtime
from rotor_actors.workflows import Workflow

_FILES_PER_PACKAGE = 25


@dataclass
class Survey:
    """What is surveyed."""

    directory: str
    limit: int


@dataclass
class Size:
    """Lines and functions of a file, or of many."""

    lines: int = 0
    functions: int = 0
    unparsed: int = 0


def find_files(survey: Survey) -> list[str]:
    """The sources, the first ones by name."""
    return sorted(str(path) for path in Path(survey.directory).rglob("*.py"))[: survey.limit]


async def parse(path: str) -> Size:
    """Measure one file; slowly enough that people can watch."""
    await asyncio.sleep(0.05)
    try:
        text = await asyncio.to_thread(Path(path).read_text, encoding="utf-8")
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise NonRetriableError(f"{path} is no Python of this version: {error}") from error
    functions = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree))
    return Size(text.count("\n"), functions)


@workflow(id="demo-file", retries=0)
async def survey_file(ctx: Context, path: str) -> Size:
    """One file."""
    return await ctx.step.run("parse", parse, path, retries=RetryPolicy(1, initial="1s"))


@workflow(id="demo-package")
async def survey_package(ctx: Context, paths: list[str]) -> Size:
    """Some files; one that does not parse fails alone."""
    total = Size()
    for batch in batches(paths, 5):
        ends = await asyncio.gather(
            *(ctx.invoke(Path(path).name, workflow=survey_file, body=path, retries=0) for path in batch)
        )
        for end in ends:
            size = end.body or Size(unparsed=1)
            total = Size(total.lines + size.lines, total.functions + size.functions, total.unparsed + size.unparsed)
    return total


@workflow(id="demo-survey")
async def survey_all(ctx: Context, survey: Survey) -> Size:
    """All files, package by package."""
    paths = await ctx.step.run("find files", find_files, survey)
    ends = await asyncio.gather(
        *(
            ctx.step.invoke(f"package {number}", workflow=survey_package, data=batch, timeout="1h")
            for number, batch in enumerate(batches(paths, _FILES_PER_PACKAGE), start=1)
        )
    )
    sizes = [end.result for end in ends]
    return Size(sum(s.lines for s in sizes), sum(s.functions for s in sizes), sum(s.unparsed for s in sizes))


def batches(paths: list[str], size: int) -> Iterator[list[str]]:
    """The paths, some at a time."""
    return (paths[at : at + size] for at in range(0, len(paths), size))


def demo(options: argparse.Namespace) -> int:
    """Survey, show, and keep showing until Ctrl-C."""
    directory = os.path.realpath(options.directory or sysconfig.get_path("stdlib"))
    if not os.path.isdir(directory):
        raise UsageError(f"{directory} is not a directory")
    with tempfile.TemporaryDirectory(prefix="rotor-demo-") as place:
        asyncio.run(_demo(Survey(directory, options.limit), options, f"{place}/demo.db"))
    return DONE


async def _demo(survey: Survey, options: argparse.Namespace, store: str) -> None:
    workflows: list[Workflow[Any, Any]] = [survey_all, survey_package, survey_file]
    async with stopping() as stop, Runtime(store, workflows=workflows, drain_timeout=0) as runtime:
        serving = asyncio.create_task(serve_app(runtime.dashboard(), "127.0.0.1", options.port, stop))
        handle = await runtime.start(survey_all, survey)
        following = asyncio.create_task(follow(runtime, handle.run_id, plain=True))
        try:
            await asyncio.wait({serving, following}, return_when=asyncio.FIRST_COMPLETED)
            if following.done() and not serving.done():
                size = (await runtime.info(handle.run_id)).result
                print(f"{size.lines} lines, {size.functions} functions, {size.unparsed} files unparsed", flush=True)
                if options.once:
                    stop.set()
                else:
                    print("the dashboard stays open; Ctrl-C ends", file=sys.stderr, flush=True)
            await serving
        finally:  # it looks at the runtime, which closes now
            following.cancel()
            await asyncio.wait({following})
