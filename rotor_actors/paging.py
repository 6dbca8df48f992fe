"""Reading what is recorded of a run's maps, page by page: a million ends are never in memory at once."""

from __future__ import annotations

import msgspec

from rotor_actors.ending import Ending
from rotor_actors.errors import ErrorInfo, StoreCorruptedError, StoreError
from rotor_actors.kernel import Kernel
from rotor_actors.map_state import EndPages
from rotor_actors.records import RunStatus
from rotor_actors.run import Phase, Run
from rotor_actors.run_actor import RunActor
from rotor_actors.stores.base import EndsQuery, place_of

ROWS_PER_PAGE = 500


class Paging:
    """Fetches pages of the ends of map children for actors that stand still until they come."""

    def __init__(self, kernel: Kernel, ending: Ending) -> None:
        self._kernel = kernel
        self._ending = ending

    def fetch(self, run: Run, pages: EndPages) -> None:
        """Read the next page, and hand it to the run's actor. All of it is durable: the loader waited for that."""
        self._kernel.in_background(self._fetch(run, pages), run)

    async def _fetch(self, run: Run, pages: EndPages) -> None:
        kernel, actor = self._kernel, run.actor
        query = EndsQuery(run.row.n, pages.after, pages.upto_seq, pages.prefix, ROWS_PER_PAGE)
        try:
            rows = await kernel.ports.reader.call(lambda: kernel.ports.store.child_ends(query))
        except StoreCorruptedError as error:
            self._fail(run, error)
        except StoreError as error:
            kernel.journal.fail(error)
        else:
            if run.actor is actor and isinstance(actor, RunActor):
                actor.page_came(rows, place_of(rows[-1]) if len(rows) == query.limit else None)

    def _fail(self, run: Run, error: StoreCorruptedError) -> None:
        """A damaged memo must not stop the others: the run fails, by name, and nothing is replayed from it."""
        if run.phase is not Phase.ENDED and not run.is_doomed:
            if isinstance(run.actor, RunActor):
                run.actor.shut_down()
            info = ErrorInfo(type(error).__name__, f"{run.where}: {error}")
            self._ending.end(run, RunStatus.FAILED, error=msgspec.msgpack.encode(info))
            self._kernel.journal.kick()
