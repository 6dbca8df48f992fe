"""What is sent to runs from outside: events and signals."""

from __future__ import annotations

from collections.abc import Sequence

from rotor_actors.access import Access
from rotor_actors.errors import PayloadError
from rotor_actors.step_events import checked_name, event_records, payload_annotation
from rotor_actors.workflows import Event


class Messaging(Access):
    """The methods of `Runtime` that send something to runs."""

    async def send(self, event: Event | Sequence[Event]) -> list[str]:
        """Send one event, or several in their order. All that follows from them is durable when this returns.

        In one act an event cancels the runs whose workflow says so (`cancel_on`), resumes each step that waits for it
        (`step.wait_for_event`), and starts a run of every registered workflow with `on=` its name. It is not kept for
        those who begin to wait later.

        Args:
            event: with an `id`, it is delivered once within `Runtime(remember_event_ids=…)`; without one, each time.

        Returns:
            The ids of the runs that were started. For an event that was sent before: of those started then.

        Raises:
            PayloadError: the data of an event cannot be stored; none of them was sent.
            StoreFullError, StoreError, RuntimeStateError: nothing is accepted now.
            AnswerTimeoutError: many replicas: it is recorded, and nobody has delivered it yet; do not send it again.
            NoReplicaError: the same, where a command sent it and no replica is alive; the message says whether it is
                recorded.

        Data that does not fit the annotation of a workflow fails the run that was started, by name (`PayloadError`),
        and no other. Cancelling the caller leaves open whether the events were sent: give them ids and send again.
        """
        engine = self._accepting()
        return await engine.sending.send(event_records(event, engine.codec_of), self._accepting)

    async def signal(self, signal: str, data: object = None) -> None:
        """Give `data` to the step that waits for this signal. That it has it is durable when this returns.

        Raises:
            SignalNotFoundError: no step waits for it now; a signal is not kept for later.
            PayloadError: the data cannot be stored.
            StoreFullError, StoreError, RuntimeStateError: nothing is accepted now.
            AnswerTimeoutError, NoReplicaError: as with `send`, of the replica that owns the run.
        """
        engine = self._accepting()
        try:
            blob, _ = engine.codec_of(payload_annotation(data)).round_trip(data)
        except PayloadError as error:
            raise PayloadError(f"data of signal {signal!r}: {error}") from error
        await engine.journal.durable(await engine.signals.deliver(checked_name(signal, "a signal"), blob))
