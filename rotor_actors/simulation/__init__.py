"""Seeded simulation: universes with virtual time, crashes and a faulty disk, for your workflows and for the engine."""

from rotor_actors.simulation.campaign import Campaign, Plan, Result
from rotor_actors.simulation.crashes import CrashPoint
from rotor_actors.simulation.decorator import simulate
from rotor_actors.simulation.errors import (
    DeadlockError,
    FaultNeverFiredError,
    InvariantError,
    LivelockError,
    NeverHeldError,
    RealWorldError,
    SimulationError,
    UniverseFailed,
)
from rotor_actors.simulation.everywhere import crash_everywhere
from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.loop import SimulationLoop
from rotor_actors.simulation.running import Outcome, run_universe
from rotor_actors.simulation.simulation import Simulation
from rotor_actors.simulation.universe import Settings, Universe

__all__ = [
    "Campaign",
    "CrashPoint",
    "DeadlockError",
    "FaultNeverFiredError",
    "Faults",
    "InvariantError",
    "LivelockError",
    "NeverHeldError",
    "Outcome",
    "Plan",
    "RealWorldError",
    "Result",
    "Settings",
    "Simulation",
    "SimulationError",
    "SimulationLoop",
    "Universe",
    "UniverseFailed",
    "crash_everywhere",
    "run_universe",
    "simulate",
]
