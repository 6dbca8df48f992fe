"""All that crosses the borders of one replica, put together: its mailroom, and who acts on which mail."""

from __future__ import annotations

from rotor_actors.finishing import Finishing
from rotor_actors.kernel import Kernel
from rotor_actors.records import COORDINATOR, MailKind
from rotor_actors.replicas.ends import Ends
from rotor_actors.replicas.mailroom import Mailroom
from rotor_actors.replicas.requests import Requests
from rotor_actors.replicas.sweeping import Sweeps
from rotor_actors.run import Run
from rotor_actors.sharing import Sharing
from rotor_actors.stores.shared import Mail


class Borders:
    """Made by an engine whose store is shared. Whoever serves the replica serves its `mailroom`."""

    def __init__(self, kernel: Kernel, sharing: Sharing, finishing: Finishing) -> None:
        assert finishing.remote is not None
        self.remote = finishing.remote
        self.mailroom = Mailroom(kernel, sharing)
        ends = Ends(kernel, self.remote)
        sharing.handlers[MailKind.ENDED] = ends.handle
        sharing.preparers[MailKind.ENDED] = ends.prepare
        self.requests = Requests(kernel, finishing)
        self._sweeps = Sweeps(kernel)
        sharing.handlers[MailKind.RELEASE] = self.requests.release
        sharing.handlers[MailKind.CANCEL] = self._cancel
        sharing.preparers[MailKind.CANCEL] = self._prepare_cancel

    def _cancel(self, mail: Mail, run: Run | None) -> bool | None:
        if run is None:
            return self._sweeps.handle(mail)
        self.requests.cancel(run, mail)
        return None

    async def _prepare_cancel(self, mails: list[Mail]) -> None:
        await self._sweeps.prepare([mail for mail in mails if mail.to == COORDINATOR])
