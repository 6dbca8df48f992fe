"""The dashboard: an ASGI app that shows the runs of a runtime, and steers them. Loaded when it is asked for."""

from rotor_actors.dashboard.app import Dashboard
from rotor_actors.dashboard.build import Exposition
from rotor_actors.dashboard.guard import Auth, Visitor
from rotor_actors.dashboard.shapes import Redact

__all__ = ["Auth", "Dashboard", "Exposition", "Redact", "Visitor"]
