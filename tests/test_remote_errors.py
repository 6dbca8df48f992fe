"""Exceptions as records and back: the same in the first execution as on replay in another process."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotor_actors.error_values import pack_value, unpack_value
from rotor_actors.errors import (
    ErrorInfo,
    NonRetriableError,
    PayloadError,
    RetryAfterError,
    StepFailedError,
    StepTimeoutError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.payload import Codecs
from rotor_actors.remote_errors import RecordedError, rebuild, record
from rotor_actors.retry import is_retriable, retry_after

CODECS = Codecs()


class Declined(Exception):
    """An `__init__` that args alone could not satisfy."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"declined with {code}")
        self.code = code
        self.hint = hint


@dataclass
class Coded(Exception):
    code: int


class Outer:
    class Inner(ValueError):
        pass


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class Picky(Exception):
    def __new__(cls, *, only: str) -> "Picky":
        return super().__new__(cls, only)

    def __init__(self, *, only: str) -> None:
        super().__init__(only)


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Cursed(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Moody(Exception):
    """Its text depends on more than its content."""

    def __str__(self) -> str:
        return f"at {id(self)}"


class FileGone(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "gone", path)


class Several(ExceptionGroup[Exception]):
    pass


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def members_of(error: Any) -> list[Exception]:
    assert issubclass(type(error), ExceptionGroup)
    return list(error.exceptions)


def stored(error: BaseException) -> RecordedError:
    """The record as a journal holds it."""
    blob = msgspec.msgpack.encode(record(error, CODECS))
    return msgspec.msgpack.decode(blob, type=RecordedError)


def back(error: BaseException) -> Exception:
    return rebuild(stored(raised(error)))


WORKFLOW_FAILED = WorkflowFailedError(run_id="r", workflow_id="w", error=ErrorInfo("ValueError", "no", "Traceback ..."))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ValueError(),
        KeyError(("a", 1)),
        KeyError(UUID(int=2**127 + 5)),
        LookupError(2**80, Decimal("1.10"), {1, 2}, frozenset({3}), b"x", [None, {"a": (1,)}]),
        OSError("plain"),
        FileNotFoundError(2, "gone", "file.txt"),
        ConnectionResetError(104, "reset"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ImportError("no", name="module", path="path"),
        TimeoutError(),
        asyncio.QueueFull(),
        json.JSONDecodeError("bad", "doc", 1),
        Declined(5, hint="ask"),
        Coded(3),
        Outer.Inner("x"),
        Picky(only="x"),
        FileGone("x"),
        NonRetriableError("stop"),
        RetryAfterError("later", "90s"),
        RetryAfterError("later", timedelta(minutes=2)),
        PayloadError("big"),
        StepTimeoutError("slow", step_id="s", timeout=5.0),
        StepFailedError("x", error=ErrorInfo("A", "b"), retriable=False),
        WORKFLOW_FAILED,
        WorkflowTimeoutError(run_id="r", workflow_id="w", timeout=5.0),
        WorkflowCancelledError(run_id="r", workflow_id="w", reason="because"),
    ],
    ids=repr,
)
def test_an_exception_comes_back_as_itself(error: Exception) -> None:
    found = back(error)
    assert type(found) is type(error)
    assert found.args == error.args
    assert str(found) == str(error)
    ours = {name: value for name, value in vars(error).items() if name != "__notes__"}
    assert {name: value for name, value in vars(found).items() if name != "__notes__"} == ours


def test_a_workflow_error_comes_back_equal() -> None:
    assert back(WORKFLOW_FAILED) == WORKFLOW_FAILED


def test_fields_that_builtin_classes_hold_themselves_survive() -> None:
    gone = back(FileNotFoundError(2, "gone", "file.txt"))
    assert isinstance(gone, FileNotFoundError)
    assert (gone.errno, gone.strerror, gone.filename) == (2, "gone", "file.txt")
    undecodable = back(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))
    assert isinstance(undecodable, UnicodeDecodeError)
    assert (undecodable.object, undecodable.reason) == (b"\xff", "bad")
    missing = back(ImportError("no", name="module", path="path"))
    assert isinstance(missing, ImportError)
    assert (missing.name, missing.path) == ("module", "path")


def test_the_original_traceback_is_a_note() -> None:
    def deep() -> NoReturn:
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise ValueError("effect") from cause

    try:
        deep()
    except ValueError as error:
        error.add_note("look here")
        found = rebuild(stored(error))
    (note,) = found.__notes__
    assert note.startswith("original traceback:\n")
    for expected in ("in deep", "KeyError: 'cause'", "ValueError: effect", "look here"):
        assert expected in note
    assert found.__traceback__ is None
    assert found.__cause__ is None


def test_frames_of_this_library_are_left_out_of_a_users_traceback() -> None:
    with pytest.raises(PayloadError) as caught:
        CODECS.of().round_trip(object())
    text = record(caught.value, CODECS).info.traceback
    assert "test_remote_errors" in text
    assert "payload.py" not in text


def test_texts_are_bounded() -> None:
    recorded = stored(raised(ValueError("x" * 100_000)))
    assert len(recorded.info.message) < 17_000
    assert len(recorded.info.traceback) < 9_000
    assert str(rebuild(recorded)) == "x" * 100_000


def test_arguments_above_the_payload_limit_leave_the_texts() -> None:
    recorded = record(ValueError("x" * 1000), Codecs(limit=100))
    assert isinstance(rebuild(recorded), StepFailedError)


def local_class() -> Exception:
    class Local(NonRetriableError):
        pass

    return Local("here")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (local_class(), "Local"),
        pytest.param(ValueError(object()), "ValueError", id="ValueError(object())-ValueError"),
        (ValueError("\ud800"), "ValueError"),
        (Slotted(1), "Slotted"),
        (Moody(), "Moody"),
        (StopIteration(1), "StopIteration"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError("why"), "asyncio.exceptions.CancelledError"),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), "BaseExceptionGroup"),
    ],
    ids=repr,
)
def test_what_cannot_be_built_again_becomes_a_step_failed_error(error: BaseException, kind: str) -> None:
    found = back(error)
    assert isinstance(found, StepFailedError)
    assert found.error.type.endswith(kind)
    assert str(found).split(":")[0] == found.error.type
    assert "original traceback" in found.__notes__[0]


def test_attributes_that_cannot_be_stored_make_a_step_failed_error() -> None:
    error = ValueError("x")
    error.response = object()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(back(error), StepFailedError)


def test_a_non_retriable_error_stays_non_retriable_when_it_cannot_be_built() -> None:
    assert not is_retriable(back(local_class()))
    assert not is_retriable(back(ExceptionGroup("g", [local_class()])))
    assert is_retriable(back(ValueError(object())))


def test_a_retry_after_error_still_says_when() -> None:
    assert retry_after(back(RetryAfterError("later", timedelta(minutes=2)))) == 120.0


@pytest.mark.parametrize("kind", [Silent, Cursed])
def test_recording_never_raises(kind: type[Exception]) -> None:
    assert type(back(kind("a"))) in (kind, StepFailedError)


def test_a_group_is_rebuilt_with_its_members() -> None:
    group = ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [KeyError("b"), Declined(1, hint="x")])])
    found = back(group)
    assert repr(found) == repr(group)
    with pytest.raises(ExceptionGroup) as caught:
        raise found
    assert caught.value.split(Declined)[0] is not None


def test_a_subclass_of_a_group_is_rebuilt_as_such() -> None:
    found = back(Several("g", [ValueError("a")]))
    assert type(found) is Several
    assert found.message == "g"


def test_a_member_that_cannot_be_built_is_replaced_alone() -> None:
    found = back(ExceptionGroup("g", [ValueError("a"), ValueError(object())]))
    assert [type(each) for each in members_of(found)] == [ValueError, StepFailedError]


def test_a_group_nested_beyond_reason_is_recorded_all_the_same() -> None:
    group: Any = ValueError("x")
    for _ in range(3000):
        group = ExceptionGroup("deeper", [group])
    found = rebuild(record(group, CODECS))
    depth = 0
    while isinstance(found, ExceptionGroup):
        depth += 1
        (found,) = members_of(found)
    assert depth > 30, "as far as anybody looks it is what it was"
    assert isinstance(found, StepFailedError)


def test_nothing_is_imported_to_rebuild() -> None:
    recorded = RecordedError(ErrorInfo("x", "m"), "ftplib", "Error", args=pack_value((), CODECS))
    before = "ftplib" in sys.modules
    assert isinstance(rebuild(recorded), StepFailedError) or before
    assert ("ftplib" in sys.modules) == before


@pytest.mark.parametrize(
    ("module", "qualname"),
    [("os", "system"), ("builtins", "int"), ("builtins", "SystemExit"), ("", ""), ("os", "path.join"), ("nope", "X")],
)
def test_only_exception_classes_are_ever_built(module: str, qualname: str) -> None:
    recorded = RecordedError(ErrorInfo("x", "m"), module, qualname, args=pack_value(("true",), CODECS))
    assert isinstance(rebuild(recorded), StepFailedError)


@pytest.mark.parametrize("damage", [b"\xc1", b"", pack_value(5, CODECS), pack_value("x", CODECS)])
def test_a_damaged_record_gives_a_step_failed_error(damage: bytes) -> None:
    recorded = RecordedError(ErrorInfo("ValueError", "m"), "builtins", "ValueError", args=damage)
    assert isinstance(rebuild(recorded), StepFailedError)


def test_each_call_builds_a_new_object() -> None:
    recorded = stored(ValueError("x"))
    assert rebuild(recorded) is not rebuild(recorded)


def test_another_process_rebuilds_the_same() -> None:
    errors = [Declined(5, hint="ask"), Outer.Inner("x"), Slotted(1), Moody(), FileGone("f"), WORKFLOW_FAILED]
    recorded = [record(error, CODECS) for error in errors]
    blobs = [msgspec.msgpack.encode(each).hex() for each in recorded]
    script = (
        "import sys, msgspec, test_remote_errors as t\n"
        "for blob in sys.argv[1:]:\n"
        "    e = t.rebuild(msgspec.msgpack.decode(bytes.fromhex(blob), type=t.RecordedError))\n"
        "    print(type(e).__name__, repr(e.args), sorted(vars(e)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", script, *blobs], env=environment, capture_output=True, text=True, check=True
    )
    here = [rebuild(each) for each in recorded]
    assert result.stdout.splitlines() == [f"{type(each).__name__} {each.args!r} {sorted(vars(each))}" for each in here]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.just(timezone(timedelta(hours=2)))).map(lambda each: each.replace(fold=0))
    | st.dates()
    | st.timedeltas(),
    lambda each: (
        st.lists(each, max_size=3)
        | st.tuples(each, each)
        | st.dictionaries(st.text("ab") | st.integers(0, 9), each, max_size=3)
    ),
)


@given(VALUES)
def test_the_values_inside_exceptions_come_back_exactly(value: object) -> None:
    found = unpack_value(pack_value(value, CODECS))
    assert found == value
    assert repr(found) == repr(value)


def test_values_of_other_types_are_refused() -> None:
    for value in (object(), bytearray(b"x"), [1j], {(1, UUID(int=1)): 1}, type(date), datetime):
        with pytest.raises(PayloadError):
            pack_value(value, CODECS)
