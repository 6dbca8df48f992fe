"""Steps on a Ray cluster: the extra `ray`. Ray is imported when the first step is executed."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio.to_thread

from rotor_actors.errors import StepRunnerError, WorkerLostError
from rotor_actors.runners.work import opened, perform
from rotor_actors.step_runner import StepCall, check_importable

__all__ = ["RayRunner"]

# Of a call that was ended by force: after that its end is not waited for any more.
_END_SECONDS = 5.0


class RayRunner:
    """Executes steps as tasks of a Ray cluster. Two of them with different options are two runners: "gpu", "cpu".

    Args:
        address: of the cluster, as `ray.init` takes it (`"auto"`, `"ray://head:10001"`); None: one on this machine, if
            none is connected to already.
        init: more arguments for `ray.init`.
        task_options: for each step's task, as `ray.remote` takes them: `num_cpus=2`, `num_gpus=1`, `memory=…`,
            `runtime_env={…}`.

    A function must be importable by name (save for those of the main script, which Ray carries over), and its module and
    this library be installed on the cluster's machines, or be brought by a `runtime_env`. Ray's own retries are off:
    those of the step are recorded, Ray's would not be.

    A step that is cancelled or times out has its task ended by force. A worker or a machine that dies fails the step
    with `WorkerLostError`. What a task gives that outlives its step, or its runtime, is nobody's: only the commit of
    the store's owner makes it an outcome. Ray does not say when a task begins, so the time that it waits for a place
    in the cluster counts for the step's `timeout`.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(
        self, address: str | None = None, *, init: Mapping[str, Any] | None = None, **task_options: Any
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ImportError("RayRunner needs Ray: pip install 'rotor-actors[ray]'")
        if "max_retries" in task_options or "retry_exceptions" in task_options:
            raise TypeError(
                "RayRunner: retries are the step's: step.run(…, retries=…); Ray would hide them from the record"
            )
        self._init = {**({} if address is None else {"address": address}), **(init or {})}
        self._task_options = task_options
        self._connecting: asyncio.Lock | None = None
        self._remote: Any = None
        self._is_ours = False
        self._refs: set[Any] = set()

    async def execute(self, call: StepCall, began: Callable[[], None]) -> Any:
        """See `StepRunner`."""
        check_importable(call)
        ray = await self._connected(call)
        ref = await _in_thread(partial(self._submit, ray, call))
        self._refs.add(ref)
        try:
            began()
            answer = await self._answer(ray, ref, call)
        finally:
            self._refs.discard(ref)
        return opened(answer, call)

    async def _connected(self, call: StepCall) -> Any:
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            try:
                return await _in_thread(self._connect)
            except Exception as error:
                raise WorkerLostError(
                    f"{call.where}: Ray cannot be reached: {type(error).__name__}: {error}"
                ) from error

    def _connect(self) -> Any:
        ray = importlib.import_module("ray")
        if not ray.is_initialized():
            ray.init(**self._init)
            self._is_ours, self._remote = True, None
        if self._remote is None:
            self._remote = ray.remote(max_retries=0, **self._task_options)(perform)
        return ray

    def _submit(self, ray: Any, call: StepCall) -> Any:
        try:
            request = ray.cloudpickle.dumps((call.fn, call.args))
        except Exception as error:
            raise StepRunnerError(
                f"{call.where}: what {call.fn!r} is called with cannot be pickled, and so not be handed to Ray: {error!r}"
            ) from error
        try:
            return self._remote.remote(request)
        except ray.exceptions.RayError as error:
            raise _lost(call, error) from error

    async def _answer(self, ray: Any, ref: Any, call: StepCall) -> bytes:
        future: asyncio.Future[bytes] = asyncio.wrap_future(ref.future())
        future.add_done_callback(_looked_at)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await _in_thread(partial(ray.cancel, ref, force=True))
            await asyncio.wait([future], timeout=_END_SECONDS)
            raise
        except ray.exceptions.RayTaskError as error:
            raise StepRunnerError(
                f"{call.where}: Ray's worker could not begin it; are rotor_actors and its dependencies installed there? {error}"
            ) from error
        except ray.exceptions.RayError as error:
            raise _lost(call, error) from error

    async def close(self) -> None:
        """See `StepRunner`. Ray itself is shut down if this runner has started it."""
        if self._remote is None:
            return
        self._remote = None
        await _in_thread(self._disconnect)

    def _disconnect(self) -> None:
        ray = importlib.import_module("ray")
        if ray.is_initialized():
            for ref in tuple(self._refs):
                ray.cancel(ref, force=True)
            if self._is_ours:
                ray.shutdown()
        self._is_ours = False


def _lost(call: StepCall, error: Exception) -> WorkerLostError:
    return WorkerLostError(
        f"{call.where}: Ray lost its worker ({type(error).__name__}: {error}); whether the step had its effect is not known; "
        f"it may be executed again (step.run(…, retries=…))"
    )


def _looked_at(future: asyncio.Future[bytes]) -> None:
    if not future.cancelled():
        future.exception()


async def _in_thread(function: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
