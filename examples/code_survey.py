"""Survey a directory of Python sources: a run for the directory, one for each package, one for each file.

    python examples/code_survey.py [DIRECTORY] [--store FILE] [--fresh] [--limit N] [--json]

Interrupt it, or kill it with -9, and start it again: it goes on where it was, and parses no file again whose outcome
is in the journal. A file that does not parse is a failed run that its parent reports.

With CODE_SURVEY_TRACE=FILE in the environment a line is added to FILE for each file that is parsed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
import sysconfig
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rotor_actors import Context, RunStatus, Runtime, workflow
from rotor_actors.errors import NonRetriableError, RotorError
from survey.metrics import Metrics, NotPythonError, Unparsed, add_up, measure
from survey.packages import Package, find_packages
from survey.progress import Progress, count_ended
from survey.table import format_survey

# One at a time: parsing holds the interpreter anyway, and on CPython 3.11 two threads that parse at once can disturb each
# other (SystemError: "AST constructor recursion depth mismatch").
parser = threading.Lock()


@dataclass(frozen=True)
class Survey:
    directory: str
    limit: int | None = None


@dataclass(frozen=True)
class SurveyReport:
    total: Metrics
    packages: list[Metrics]


def parse(path: str) -> Metrics:
    """Measure one file, in a worker thread: steps that are no coroutines run in one."""
    with parser:
        if trace := os.environ.get("CODE_SURVEY_TRACE"):
            with open(trace, "a", encoding="utf-8") as file:
                file.write(f"{path}\n")
        try:
            return measure(path)
        except NotPythonError as error:
            raise NonRetriableError(str(error)) from error


@workflow(id="survey-file", retries=1)
async def survey_file(ctx: Context, path: str) -> Metrics:
    return await ctx.step.run("parse", parse, path)


@workflow(id="survey-package")
async def survey_package(ctx: Context, package: Package) -> Metrics:
    """Survey the files of one package; those whose runs fail are reported, and the package is none the worse."""
    paths = [os.path.join(package.directory, name) for name in package.files]
    outcomes = await asyncio.gather(*(ctx.invoke(path, workflow=survey_file, body=path, retries=1) for path in paths))
    measured = [outcome.body for outcome in outcomes if outcome.body is not None]
    unparsed = [
        Unparsed(path=path, error=outcome.error.message if outcome.error else "was cancelled")
        for path, outcome in zip(paths, outcomes, strict=True)
        if outcome.body is None
    ]
    return add_up(package.path, measured, unparsed)


@workflow(id="survey-directory")
async def survey_directory(ctx: Context, survey: Survey) -> SurveyReport:
    packages = await ctx.step.run("find packages", find_packages, survey.directory, survey.limit)
    surveys = [
        ctx.step.invoke(package.path, workflow=survey_package, data=package, timeout="24h") for package in packages
    ]
    reports = [invocation.result for invocation in await asyncio.gather(*surveys)]
    return SurveyReport(add_up("all", reports), reports)


async def run(survey: Survey, store: Path) -> SurveyReport:
    """Start the survey, or go on with it, and show how far it is until it has ended."""
    run_id = survey_run_id(survey)
    async with Runtime(store, workflows=[survey_directory, survey_package, survey_file], drain_timeout="2s") as runtime:
        before = await runtime.count(root=run_id)
        progress = Progress(sys.stderr, count_ended(before))
        progress.say(describe_start(survey, before))
        handle = await runtime.start(survey_directory, survey, run_id=run_id)
        watcher = asyncio.create_task(watch(runtime, run_id, progress))
        try:
            report = await handle.result()
        finally:
            watcher.cancel()
        if (after := await runtime.count(root=run_id)) != before:
            progress.finish(after)
        return report


def survey_run_id(survey: Survey) -> str:
    """The same survey has the same run id: this is how the next process finds what an earlier one left."""
    return "code-survey-" + hashlib.sha256(msgspec.json.encode(survey)).hexdigest()[:16]


def describe_start(survey: Survey, before: dict[RunStatus, int]) -> str:
    ended, known = count_ended(before), sum(before.values())
    if not known:
        return f"surveying {survey.directory}"
    if ended == known:
        return f"all {ended} runs taken from the journal (--fresh surveys again)"
    return f"going on with {survey.directory}: {ended} runs taken from the journal, {known - ended} unfinished"


async def watch(runtime: Runtime, run_id: str, progress: Progress) -> None:
    while True:
        await asyncio.sleep(0.2)
        progress.update(await runtime.count(root=run_id))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Survey a directory of Python sources, one durable run per file.")
    parser.add_argument("directory", nargs="?", help="default: the standard library of this interpreter")
    parser.add_argument("--store", type=Path, default=Path("code_survey.db"), help="default: %(default)s")
    parser.add_argument("--fresh", action="store_true", help="forget what the store has, and start over")
    parser.add_argument("--limit", type=int, help="survey no more than this many files")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    options = parser.parse_args(arguments)
    options.directory = os.path.realpath(options.directory or sysconfig.get_path("stdlib"))
    if not os.path.isdir(options.directory):
        parser.error(f"{options.directory} is not a directory")
    if options.limit is not None and options.limit < 1:
        parser.error("--limit takes a number of files, such as 100")
    return options


def remove_store(store: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        store.with_name(store.name + suffix).unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    warnings.simplefilter("ignore")  # about the sources that are surveyed, such as a "\d" in a string
    if options.fresh:
        remove_store(options.store)
    try:
        report = asyncio.run(run(Survey(options.directory, options.limit), options.store))
    except KeyboardInterrupt:
        print("\ninterrupted: start it again, and it goes on where it was", file=sys.stderr)
        return 130
    except RotorError as error:
        print(f"code_survey: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        print(format_survey(report.packages, report.total))
    return 0


if __name__ == "__main__":
    sys.exit(main())
