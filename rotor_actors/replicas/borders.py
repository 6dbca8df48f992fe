"""All that crosses the borders of one replica, put together: its mailroom, and who acts on which mail."""

from __future__ import annotations

from rotor_actors.finishing import Finishing
from rotor_actors.kernel import Kernel
from rotor_actors.records import MailKind
from rotor_actors.replicas.ends import Ends
from rotor_actors.replicas.mailroom import Mailroom
from rotor_actors.sharing import Sharing


class Borders:
    """Made by an engine whose store is shared. Whoever serves the replica serves its `mailroom`."""

    def __init__(self, kernel: Kernel, sharing: Sharing, finishing: Finishing) -> None:
        assert finishing.remote is not None
        self.remote = finishing.remote
        self.mailroom = Mailroom(kernel, sharing)
        ends = Ends(kernel, self.remote)
        sharing.handlers[MailKind.ENDED] = ends.handle
        sharing.preparers[MailKind.ENDED] = ends.prepare
