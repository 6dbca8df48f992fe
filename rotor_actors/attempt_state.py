"""The state that an attempt of a run starts from."""

from __future__ import annotations

from rotor_actors.loading import Loaded
from rotor_actors.map_state import EndPages, Maps
from rotor_actors.run import Run
from rotor_actors.run_state import RunState


def state_of_attempt(run: Run, loaded: Loaded | None, is_replaying: bool, is_strict: bool) -> RunState:
    """Empty, from the record that a replay goes through, or from the memo that a new attempt finds."""
    if loaded is None:
        return RunState(run, strict=is_strict)
    if not is_replaying:
        maps = Maps(run.history_seq) if loaded.has_maps else None
        return RunState(run, memo={**loaded.recorded, **loaded.memo}, strict=is_strict, maps=maps)
    began = run.row.attempt_seq
    return RunState(run, memo=loaded.memo, record=loaded.record, recorded=loaded.recorded,
                    inherited=loaded.inherited, strict=is_strict, replaying=True,
                    maps=Maps(began) if loaded.has_maps else None,
                    pages=EndPages(b"", began, run.history_seq) if loaded.has_maps else None)  # fmt: skip
