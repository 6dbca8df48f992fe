"""The commands and their options. What they do stands in modules of their own."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

DONE, FAILED, USAGE, CANCELLED = 0, 1, 2, 3
LAST_PORT = 65_535

_EPILOG = """exit status: 0 done, 1 the run failed or the command did, 2 usage, 3 the run was cancelled.
Only data goes to stdout, everything else to stderr."""


class UsageError(Exception):
    """The command was called in a way that cannot work."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point of `rotor`. Gives the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.version:
        from importlib.metadata import version  # seldom needed, and felt on import

        print(f"rotor-actors {version('rotor-actors')}")
        return DONE
    if not hasattr(options, "module"):
        parser.print_help(sys.stderr)
        return USAGE
    try:
        command = getattr(importlib.import_module(f"rotor_actors.cli.{options.module}"), options.function)
        status: int = command(options)
        sys.stdout.flush()
    except UsageError as error:
        print(f"rotor: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has enough: `rotor runs ls | head`
        return DONE
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not _is_ours(error):
            raise
        print(f"rotor: {_name(error)}: {error}", file=sys.stderr)
        return FAILED
    return status


def _is_ours(error: Exception) -> bool:
    from rotor_actors.errors import RotorError

    return isinstance(error, RotorError)


def _name(error: Exception) -> str:
    """Of the error's class; of one in the process that was asked, of its class there."""
    from rotor_actors.control import ControlError

    return error.error if isinstance(error, ControlError) and error.error else type(error).__name__


def make_parser() -> argparse.ArgumentParser:
    """All commands."""
    parser = argparse.ArgumentParser(
        prog="rotor", description="Durable workflows: run, look, steer.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="store_true", help="print the version of rotor-actors")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_run(commands)
    _add_serve(commands)
    _add_runs(commands)
    _add_telling(commands)
    _add_dashboard(commands)
    _add_others(commands)
    return parser


class _Given(argparse.Action):
    """Keeps in mind that it was said, and is no default."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        setattr(namespace, self.dest, values)
        namespace.store_given = True


def _command(commands: Any, name: str, module: str, function: str, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(module=module, function=function, store_given=False)
    parser.add_argument(
        "--store", default=os.environ.get("ROTOR_STORE", "rotor.db"), metavar="STORE", action=_Given,
        help="the store: a file, or a URL (default: $ROTOR_STORE, or rotor.db)",
    )  # fmt: skip
    return parser


def _with_output(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "jsonl"), default="table", help="how data is printed"
    )
    return parser


def _with_data(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--data", default=None, metavar="JSON", help="the data, as JSON; @FILE reads it from a file")
    return parser


def port(text: str) -> int:
    """What `--port` takes."""
    number = int(text)
    if not 0 <= number <= LAST_PORT:
        raise argparse.ArgumentTypeError(f"a port is 0 to {LAST_PORT}, got {number}")
    return number


def _add_run(commands: Any) -> None:
    run = _with_data(_command(commands, "run", "running", "run", "run a workflow to its end and print its result"))
    run.add_argument("workflow", metavar="MODULE:WORKFLOW", help="e.g. shop.orders:place_order")
    run.add_argument("--run-id", metavar="ID", help="an id of your choice: the same again gives the same run")
    run.add_argument(
        "--app", metavar="MODULE:APP", help="whose step runners it uses; else those of a Runtime beside it"
    )
    run.add_argument("--plain", action="store_true", help="lines instead of a live tree")


def _add_serve(commands: Any) -> None:
    serve = _command(commands, "serve", "serving", "serve", "keep a runtime open until it is told to stop")
    serve.add_argument("app", metavar="MODULE:APP", help="a Runtime, a function that makes one, or workflows")
    serve.add_argument("--host", default="127.0.0.1", help="where the dashboard listens (default: this machine only)")
    serve.add_argument(
        "--port", type=port, default=None,
        help="serve the dashboard and the probes there; with --replicas the second one at the next port, and so on",
    )  # fmt: skip
    serve.add_argument(
        "--replicas", type=int, default=None, metavar="N",
        help="keep N processes of it alive, over one store that they share",
    )  # fmt: skip
    serve.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)  # stop at the end of the input


def _add_runs(commands: Any) -> None:
    runs = commands.add_parser("runs", help="look at runs, and steer them")
    below = runs.add_subparsers(title="commands", metavar="COMMAND", required=True)
    ls = _with_output(_command(below, "ls", "looking", "ls", "list runs, newest first"))
    ls.add_argument("--status", action="append", help="queued, running, completed, failed, cancelled; may be repeated")
    ls.add_argument("--workflow", metavar="ID")
    ls.add_argument("--root", metavar="RUN", help="only the tree of this root")
    ls.add_argument("--parent", metavar="RUN", help="only children of this run")
    ls.add_argument("--since", metavar="WHEN", help="created since: 2026-01-31, 2026-01-31T12:00+01:00, or 2h ago: 2h")
    ls.add_argument("--until", metavar="WHEN", help="created before")
    ls.add_argument("--id", metavar="PREFIX", help="run ids that begin so")
    ls.add_argument("--error", metavar="TEXT", help="with this text in their error")
    ls.add_argument("--limit", type=int, default=50)
    ls.add_argument("--after", metavar="RUN", help="continue after this run, the last of the page before")
    for name, help in (
        ("show", "show all about a run"),
        ("tree", "show a run and all below it"),
    ):
        _with_output(_command(below, name, "looking", name, help)).add_argument("run_id", metavar="RUN")
    watch = _command(below, "watch", "watching", "watch", "follow a run until it ends")
    watch.add_argument("run_id", metavar="RUN")
    watch.add_argument("--plain", action="store_true", help="lines instead of a live tree")
    cancel = _with_output(_command(below, "cancel", "steering", "cancel", "cancel a run and all that runs below it"))
    cancel.add_argument("run_id", metavar="RUN")
    cancel.add_argument("--reason", default="")
    for name, help in (
        ("restart", "run it again from zero"),
        ("resume", "let a failed or cancelled run go on from the step that failed"),
    ):
        again = _with_output(_command(below, name, "steering", name, help))
        again.add_argument("run_id", metavar="RUN")
        again.add_argument(
            "--app",
            metavar="MODULE:APP",
            help="its workflows, where no process has the store open, or replicas share it",
        )
    fork = _with_output(
        _command(below, "fork", "steering", "fork", "run it again from a step, with what came before it")
    )
    fork.add_argument("run_id", metavar="RUN")
    fork.add_argument("--from", dest="from_step", required=True, metavar="STEP", help="the first step that runs again")
    fork.add_argument(
        "--app", metavar="MODULE:APP", help="its workflows, where no process has the store open, or replicas share it"
    )
    delete = _command(below, "delete", "steering", "delete", "delete a run that has ended, with its whole tree")
    delete.add_argument("run_id", metavar="RUN")
    prune = _with_output(_command(below, "prune", "steering", "prune", "delete the trees that ended long ago"))
    prune.add_argument("--older-than", required=True, metavar="AGE", help="e.g. 30d")
    prune.add_argument("--dry-run", action="store_true", help="say what would go, and delete nothing")
    export = _command(below, "export", "looking", "export", "write a run's tree as one file")
    export.add_argument("run_id", metavar="RUN")
    export.add_argument("--format", choices=("html", "svg", "mermaid", "json"), default="html")
    export.add_argument("--to", metavar="FILE", help="where to (default: stdout)")


def _add_telling(commands: Any) -> None:
    send = _with_output(_with_data(_command(commands, "send", "steering", "send", "send an event")))
    send.add_argument("event", metavar="EVENT", help="its name")
    send.add_argument("--id", help="a repeated id is delivered once")
    signal = _with_data(_command(commands, "signal", "steering", "signal", "signal the run that waits for it"))
    signal.add_argument("signal", metavar="NAME")
    for parser in (send, signal):
        parser.add_argument(
            "--app",
            metavar="MODULE:APP",
            help="its workflows, where no process has the store open, or replicas share it",
        )


def _add_dashboard(commands: Any) -> None:
    dashboard = _command(commands, "dashboard", "serving", "dashboard", "serve the dashboard of a store")
    dashboard.add_argument("--host", default="127.0.0.1")
    dashboard.add_argument("--port", type=port, default=8080)
    dashboard.add_argument(
        "--insecure", action="store_true", help="answer other machines, too, without asking who it is"
    )
    demo = commands.add_parser("demo", help="survey the standard library, and open a dashboard on it")
    demo.set_defaults(module="demo", function="demo")
    demo.add_argument("directory", nargs="?", help="another directory of Python sources")
    demo.add_argument("--port", type=port, default=8080)
    demo.add_argument("--limit", type=int, default=400, help="how many files")
    demo.add_argument("--once", action="store_true", help="stop when the survey is done")


def _add_others(commands: Any) -> None:
    check = commands.add_parser("check", help="which unfinished runs would break under the code of today?")
    check.set_defaults(module="checking", function="check")
    check.add_argument("target", metavar="MODULE[:NAME]", help="where the workflows are")
    check.add_argument("--store", default=os.environ.get("ROTOR_STORE", "rotor.db"), metavar="FILE")
    check.add_argument("--json", action="store_true", help="the report as JSON")
    for name, help in (("pause", "let no run of a flow-control key begin"), ("unpause", "let them begin again")):
        _command(commands, name, "steering", name, help).add_argument("key", metavar="KEY")
    _with_output(
        _command(
            commands, "replicas", "replicas", "replicas", "list the replicas of a shared store, and what nobody owns"
        )
    )
    _with_output(_command(commands, "doctor", "doctor", "doctor", "look whether everything is as it should be"))
