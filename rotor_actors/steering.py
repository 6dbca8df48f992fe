"""Steering from outside the program: what the command line and the dashboard may ask of a runtime, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from rotor_actors import control
from rotor_actors.errors import InvokeTargetError, PayloadError
from rotor_actors.handle import RunHandle
from rotor_actors.messaging import Messaging
from rotor_actors.upkeep import Upkeep
from rotor_actors.workflows import Event, Workflow


class Steering(Upkeep, Messaging):
    """The methods of `Runtime` whose arguments come as JSON."""

    async def perform(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Do what `verb` says: `cancel`, `start`, `ping`, …; the answer is plain data.

        This is what the control socket beside the store's file answers with, for the command line and for programs of
        yours: `rotor_actors.control.ask(store, verb, **arguments)`.

        Raises:
            ControlError: no such verb, or an argument is missing. RotorError: what the verb itself raises.
        """
        known = self._verbs()
        if verb not in known:
            raise control.ControlError(f"unknown verb {verb!r}: one of {', '.join(sorted(known))}")
        return await known[verb](arguments)

    async def start_from_json(
        self, workflow: Workflow[Any, Any], data: object = None, *, run_id: str | None = None
    ) -> RunHandle[Any]:
        """Start a run whose input comes as JSON: it becomes what the workflow's annotation says.

        Raises:
            PayloadError: it does not fit. As `start` otherwise.
        """
        engine = self._accepting()
        engine.register(workflow)
        if not workflow.takes_data:
            return await self.start(workflow, data, run_id=run_id)
        codec = engine.registry.data_codec(workflow)
        try:
            typed = codec.decode(msgspec.msgpack.encode(data))
        except PayloadError as error:
            raise PayloadError(f"input of workflow {workflow.id!r}: {error}") from error
        return await self.start(workflow, typed, run_id=run_id)

    def _verbs(self) -> Mapping[str, control.Verb]:
        async def ping(_: Mapping[str, Any]) -> dict[str, Any]:
            return {"pid": os.getpid(), "workflows": sorted(each.id for each in self._open().registry.all())}

        async def start(arguments: Mapping[str, Any]) -> str:
            workflow = self._workflow(_text(arguments, "workflow"))
            handle = await self.start_from_json(workflow, arguments.get("data"), run_id=arguments.get("run_id"))
            return handle.run_id

        async def cancel(arguments: Mapping[str, Any]) -> Any:
            report = await self.cancel(_text(arguments, "run_id"), str(arguments.get("reason") or ""))
            return msgspec.to_builtins(report, enc_hook=str)

        async def send(arguments: Mapping[str, Any]) -> list[str]:
            event = Event(_text(arguments, "name"), data=arguments.get("data"), id=arguments.get("id") or None)
            return await self.send(event)

        async def signal(arguments: Mapping[str, Any]) -> None:
            await self.signal(_text(arguments, "name"), arguments.get("data"))

        async def restart(arguments: Mapping[str, Any]) -> str:
            return (await self.restart(_text(arguments, "run_id"))).run_id

        async def resume(arguments: Mapping[str, Any]) -> str:
            return (await self.resume(_text(arguments, "run_id"))).run_id

        async def fork(arguments: Mapping[str, Any]) -> str:
            handle = await self.fork(_text(arguments, "run_id"), from_step=_text(arguments, "from_step"))
            return handle.run_id

        async def delete(arguments: Mapping[str, Any]) -> int:
            return await self.delete(_text(arguments, "run_id"))

        async def prune(arguments: Mapping[str, Any]) -> Any:
            older_than, dry_run = _text(arguments, "older_than"), bool(arguments.get("dry_run"))
            return msgspec.to_builtins(await self.prune(older_than=older_than, dry_run=dry_run), enc_hook=str)

        async def pause(arguments: Mapping[str, Any]) -> None:
            await self.pause_key(_text(arguments, "key"))

        async def unpause(arguments: Mapping[str, Any]) -> None:
            await self.resume_key(_text(arguments, "key"))

        return {
            "ping": ping, "start": start, "cancel": cancel, "restart": restart, "resume": resume, "fork": fork,
            "delete": delete, "prune": prune, "send": send, "signal": signal, "pause_key": pause, "resume_key": unpause,
        }  # fmt: skip

    def _workflow(self, workflow_id: str) -> Workflow[Any, Any]:
        registry = self._open().registry
        workflow = registry.get(workflow_id)
        if workflow is None:
            raise InvokeTargetError(
                f"the process that has the store open does not know workflow {workflow_id!r}; it knows "
                f"{', '.join(registry.known_ids()) or 'none'}: give it to Runtime(workflows=…)"
            )
        return workflow


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise control.ControlError(f"the argument {name!r} must be a text, got {value!r}")
    return value
