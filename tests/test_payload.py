"""Payloads: equal in type and value after their round trip, or refused with a reason."""

import asyncio
import enum
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NoReturn,
    Optional,
    TypedDict,
    TypeVar,
    cast,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotor_actors.errors import PayloadError
from rotor_actors.payload import MISSING, Codecs, annotations_of, to_json

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    ANN = "ann"


class Tuples(enum.Enum):
    PAIR = (1, 2)


@dataclass
class Company:
    name: str
    founded: date
    tags: set[str] = field(default_factory=set[str])


@dataclass
class BigCompany(Company):
    branches: int = 0


@dataclass
class Firm(Company):
    """The same fields, another class."""


@dataclass(frozen=True, slots=True)
class Box(Generic[T]):
    content: T


@dataclass
class Tree:
    value: int
    children: list["Tree"] = field(default_factory=list["Tree"])


@dataclass
class Loose:
    anything: Any
    ratio: float = 0.0


@dataclass(eq=False)
class Identity:
    x: float


@dataclass
class ById:
    id: int
    note: str = field(default="", compare=False)


@dataclass
class Shouting:
    word: str

    def __post_init__(self) -> None:
        self.word += "!"


@attrs.define
class Point:
    x: int
    y: int


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    depth: int


class Reading(msgspec.Struct):
    at: datetime
    value: float


class Ok(msgspec.Struct, tag=True):
    value: int


class Err(msgspec.Struct, tag=True):
    text: str


class Person(pydantic.BaseModel):
    id: UUID
    born: datetime
    blob: bytes
    seen: set[tuple[int, ...]] = set()
    big: int = 0
    score: float = 0.0
    nick: str = pydantic.Field(default="", alias="nickName")


class Team(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    lead: Person
    members: list[Person]
    id: UUID


class Anything(pydantic.BaseModel):
    anything: Any = None
    _cache: int = 0


@dataclass
class Office:
    team: Team
    by_floor: dict[int, Person | None]


CODECS = Codecs()
AN_ID = UUID("5c1cf22f-5ce1-4d4a-8a8b-6a2d40b0e7c9")
BERLIN = datetime(2024, 7, 1, 12, 30, 15, 42, tzinfo=ZoneInfo("Europe/Berlin"))
PERSON = Person(id=AN_ID, born=BERLIN, blob=b"\xff\x00", seen={(1, 2), ()}, big=2**80, nickName="bo")
TEAM = Team(lead=PERSON, members=[PERSON], id=AN_ID)


def round_trip(annotation: object, value: object) -> Any:
    """The decoded value, having checked that a replay in another process sees the same."""
    blob, decoded = CODECS.of(annotation).round_trip(value)
    assert CODECS.of(annotation).encode(value) == blob
    again = Codecs().of(annotation).decode(blob)
    assert type(again) is type(decoded)
    assert repr(again) == repr(decoded) or again == decoded
    return decoded


def told_apart(sample: object) -> str:
    """A test's name that is the same in each process: no address, no order of hashes."""
    text = type(sample).__name__ if type(sample) in (set, frozenset) else str(sample)
    return re.sub(r" at 0x[0-9a-f]+", "", text)[:40]


SAMPLES: list[tuple[object, object]] = [
    (None, None),
    (int, 5),
    (int, 2**64),
    (int, -(2**63) - 1),
    (int, 10**400),
    (float, -0.0),
    (float, float("inf")),
    (bool, True),
    (str, "ü\x00"),
    (bytes, b"\xff"),
    (bytearray, bytearray(b"x")),
    (Company, Company("a", date(2024, 1, 2), {"x", "y", "z"})),
    (list[Company], [Company("a", date(2024, 1, 2))]),
    (Box[int], Box(1)),
    (Box[list[UUID]], Box([AN_ID])),
    (Box[Box[tuple[int, str]]], Box(Box((1, "a")))),
    (Tree, Tree(1, [Tree(2), Tree(3, [Tree(4)])])),
    (Point, Point(1, 2)),
    (Pair, Pair(1, "a")),
    (Options, {"depth": 3}),
    (Reading, Reading(datetime(2024, 1, 1, tzinfo=UTC), 1.5)),
    (Ok | Err, Err("x")),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (Name, Name.ANN),
    (dict[Colour, Level], {Colour.RED: Level.LOW}),
    (UUID, AN_ID),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("1E+400")),
    (datetime, datetime(2024, 1, 1, 12, 30)),
    (datetime, datetime(2024, 1, 1, 12, 30, tzinfo=UTC)),
    (datetime, datetime(2024, 1, 1, 12, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
    (date, date(1, 1, 1)),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(days=-3, microseconds=1)),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a", "b"})),
    (dict[int, str], {1: "a"}),
    (dict[tuple[int, int], bytes], {(1, 2): b"x"}),
    (dict[UUID, datetime], {AN_ID: datetime(2024, 1, 1, tzinfo=UTC)}),
    (dict[str, int], {"big": 2**100}),
    (Literal["a", 1], 1),
    (Optional[Company], None),  # noqa: UP045
    (int | str, "a"),
    (Annotated[int, msgspec.Meta(gt=0)], 3),
    (Annotated[list[int], []], [1]),
    (Person, PERSON),
    (Person | None, PERSON),
    (list[Person], [PERSON]),
    (Team, TEAM),
    (Office, Office(TEAM, {1: PERSON, 2: None})),
    (Loose, Loose({"a": [1, None, 2.5, b"x"]})),
    (Any, {"a": [1, None, 2.5, True, "x", b"x", {1: {}}], (1, 2): 2**70}),
    (object, [1]),
    (MISSING, 2**70),
    (NoReturn, None),
]


@pytest.mark.parametrize(("annotation", "value"), SAMPLES, ids=told_apart)
def test_a_value_comes_back_equal_in_type_and_value(annotation: object, value: object) -> None:
    decoded = round_trip(annotation, value)
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value"), [(list[int], [1]), (Company, Company("a", date(1, 1, 1))), (Any, [[1]]), (Person, PERSON)]
)
def test_what_comes_back_is_never_the_callers_own_object(annotation: object, value: object) -> None:
    assert round_trip(annotation, value) is not value


def test_a_datetime_keeps_its_hour_and_offset() -> None:
    for annotation, value in ((datetime, BERLIN), (Reading, Reading(BERLIN, 1.0))):
        decoded = round_trip(annotation, value)
        found = decoded if isinstance(decoded, datetime) else cast("Reading", decoded).at
        assert found.isoformat() == BERLIN.isoformat()


def test_a_local_time_that_a_change_of_clocks_skips_or_repeats_comes_back() -> None:
    for when in (datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30), datetime(2024, 10, 27, 2, 30, fold=1)):
        local = when.replace(tzinfo=ZoneInfo("Europe/Berlin"))
        decoded = round_trip(Reading, Reading(local, 1.0)).at
        assert decoded.isoformat() == local.isoformat()


@pytest.mark.parametrize("annotation", [float, MISSING, list[float], Identity, Person])
def test_nan_stays_nan(annotation: object) -> None:
    nan = float("nan")
    value: object = nan
    if annotation == list[float]:
        value = [nan]
    elif annotation is Identity:
        value = Identity(nan)
    elif annotation is Person:
        value = PERSON.model_copy(update={"score": nan})
    assert "nan" in repr(
        cast("object", getattr(round_trip(annotation, value), "__dict__", round_trip(annotation, value)))
    )


def test_an_integer_for_a_float_comes_back_as_the_equal_float() -> None:
    assert type(round_trip(float, 3)) is float
    assert type(round_trip(Loose, Loose([], 3)).ratio) is float
    with pytest.raises(PayloadError, match="would come back"):
        CODECS.of(float).round_trip(2**53 + 1)


def test_the_annotation_chooses_between_list_and_tuple() -> None:
    assert round_trip(Sequence[int], (1, 2)) == [1, 2]
    assert round_trip(tuple[int, ...], [1, 2]) == (1, 2)


REFUSED: list[tuple[object, object, str]] = [
    (Any, (1, 2), r"\(tuple\) would come back as list; annotate the return type"),
    (Any, {"a": [{1}]}, r"at \['a'\]\[0\] \(set\) would come back as list"),
    (Any, Colour.RED, "annotate the return type"),
    (Any, Level.LOW, "would come back as int"),
    (Any, [Name.ANN], r"at \[0\].*would come back as str"),
    (Any, Company("a", date(1, 1, 1)), "annotate the return type"),
    (Any, AN_ID, "UUID"),
    (Any, datetime(2024, 1, 1), "would come back as str"),
    (Any, BERLIN, "would come back as"),
    (Any, {Level.LOW: 1}, "key"),
    (Any, bytearray(b"x"), "would come back as bytes"),
    (Loose, Loose((1, 2)), r"at \.anything \(tuple\)"),
    (Anything, Anything(anything=(1, 2)), r"at \.anything \(tuple\)"),
    (dict[str, Any], {"a": AN_ID}, r"at \['a'\]"),
    (list[object], [(1,)], r"at \[0\] \(tuple\)"),
    (Company, BigCompany("a", date(1, 1, 1), branches=2), r"test_payload\.BigCompany\) would come back as .*Company"),
    (Company, Firm("a", date(1, 1, 1)), "Firm"),
    (list[Company], [Firm("a", date(1, 1, 1))], r"at \[0\]"),
    (Options, {"depth": 1, "other": 2}, "would come back"),
    (int, "5", "does not fit its annotation int"),
    (int, None, "does not fit its annotation int: Expected `int`, got"),
    (Company, {"name": 5}, r"does not fit.*Company"),
    (Shouting, Shouting("a"), r"at \.word would come back as 'a!!'"),
    (str, "\ud800", "lone surrogate"),
    (Any, ["\ud800"], "lone surrogate"),
    (Any, 1j, r"type complex cannot be stored; use plain data"),
    (complex, 1j, "complex cannot be stored"),
    (Any, lambda: 1, "function cannot be stored"),
    (Callable[[], int], lambda: 1, "cannot be stored"),
    (Iterable[int], [1], r"Iterable(\[int\])? cannot be built"),
    (Any, {"n": cast("Any", type("Text", (str,), {}))("a")}, r"subclass of str.*pass str\(value\)"),
    (dict[int, int], {2**70: 1}, r"use str\(key\)"),
    (dict[str, str], {1: "a"}, "does not fit"),
]


@pytest.mark.parametrize(("annotation", "value", "reason"), REFUSED, ids=told_apart)
def test_what_would_be_altered_or_cannot_be_stored_is_refused(annotation: object, value: object, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        CODECS.of(annotation).round_trip(value)


def test_a_socket_is_refused_with_a_remedy() -> None:
    with (
        socket.socket() as held,
        pytest.raises(PayloadError, match=r"socket\.socket cannot be stored.*inside the step"),
    ):
        CODECS.of().round_trip({"a": held})


def test_a_coroutine_is_refused_with_the_advice_to_await_it() -> None:
    async def work() -> None: ...

    coroutine = work()
    with pytest.raises(PayloadError, match="await it"):
        CODECS.of().round_trip(coroutine)
    coroutine.close()


@pytest.mark.parametrize("annotation", [Any, list[Any]])
def test_what_refers_to_itself_is_refused(annotation: object) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(PayloadError, match="refers to itself"):
        CODECS.of(annotation).round_trip(loop)


def test_a_typed_value_that_refers_to_itself_is_refused() -> None:
    tree = Tree(1)
    tree.children.append(tree)
    with pytest.raises(PayloadError, match="refers to itself"):
        CODECS.of(Tree).round_trip(tree)


@pytest.mark.parametrize("annotation", [datetime | str, Company | Point, Tuples, list[tuple[int] | list[int]], "Nope"])
def test_an_annotation_that_can_never_be_stored_is_refused_by_name(annotation: object) -> None:
    with pytest.raises(PayloadError, match=r"values annotated .* cannot be stored: .*annotate with one class"):
        CODECS.of(annotation)


def test_a_model_whose_private_part_would_be_lost_is_refused() -> None:
    model = Anything()
    model._cache = 5  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(PayloadError, match="__pydantic_private__"):
        CODECS.of(Anything).round_trip(model)


def test_a_model_of_another_class_is_refused() -> None:
    class Other(Anything):
        pass

    with pytest.raises(PayloadError, match=r"Other.* would come back as .*Anything"):
        CODECS.of(Anything).round_trip(Other())


def test_an_invalid_model_says_what_pydantic_says() -> None:
    with pytest.raises(PayloadError, match="does not fit"):
        CODECS.of(Person).round_trip(Person.model_construct(id="x"))


def test_fields_left_out_of_a_comparison_are_compared_all_the_same() -> None:
    assert round_trip(ById, ById(1, "x")).note == "x"


def test_a_value_above_the_limit_is_refused_with_sizes_and_remedies() -> None:
    codec = Codecs(limit=10).of(str)
    assert codec.round_trip("a" * 9)[1] == "a" * 9
    with pytest.raises(PayloadError, match=r"takes 11 bytes, the limit is 10; .*pass a reference.*payload_limit"):
        codec.round_trip("a" * 10)
    with pytest.raises(PayloadError, match="the limit is 10"):
        codec.encode("a" * 10)


def test_stored_bytes_that_no_longer_fit_are_refused_on_decoding() -> None:
    blob = CODECS.of(str).encode("a")
    with pytest.raises(PayloadError, match="the stored value does not fit int: Expected `int`, got `str`"):
        CODECS.of(int).decode(blob)
    with pytest.raises(PayloadError, match="does not fit"):
        CODECS.of(int).decode(b"\xc1")


def test_a_new_field_with_a_default_reads_old_bytes() -> None:
    assert CODECS.of(ById).decode(CODECS.of().encode({"id": 1})) == ById(1)


def test_a_codec_is_made_once_per_annotation() -> None:
    assert CODECS.of(list[int]) is CODECS.of(list[int])
    unhashable = Annotated[int, []]
    assert CODECS.of(unhashable) is CODECS.of(unhashable)


def test_classes_of_the_same_name_do_not_share_a_codec() -> None:
    def make() -> Any:
        @dataclass
        class Local:
            x: int

        return Local

    first, second = make(), make()
    assert type(round_trip(first, first(1))) is first
    assert type(round_trip(second, second(1))) is second


def test_the_cache_of_codecs_is_bounded() -> None:
    codecs = Codecs()
    for number in range(5000):
        codecs.of(Literal[number])
    assert len(codecs._codecs) <= 4096  # pyright: ignore[reportPrivateUsage]


def test_pydantic_is_not_imported_by_us() -> None:
    script = (
        "import sys, dataclasses, rotor_actors.payload as p\n"
        "p.Codecs().of(complex)\n"
        "try: p.Codecs().of().encode(object())\n"
        "except p.PayloadError: pass\n"
        "sys.exit('pydantic' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
PLAIN = st.recursive(ATOMS, lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text("ab"), each, max_size=4))


@given(PLAIN)
def test_plain_data_round_trips_untyped(value: Any) -> None:
    assert repr(round_trip(Any, value)) == repr(value)


ANYTHING = st.recursive(
    ATOMS | st.uuids() | st.decimals() | st.dates() | st.sampled_from([Colour.RED, Level.LOW, Name.ANN]) | st.text(),
    lambda each: st.lists(each, max_size=3) | st.tuples(each, each) | st.dictionaries(st.text("ab"), each, max_size=3),
)


@given(ANYTHING)
def test_untyped_data_comes_back_exactly_or_is_refused(value: Any) -> None:
    try:
        _, decoded = CODECS.of().round_trip(value)
    except PayloadError:
        return
    assert repr(decoded) == repr(value)


@dataclass
class Record:
    number: int
    ratio: float
    text: str
    when: datetime
    delta: timedelta
    amount: Decimal
    key: UUID
    blob: bytes
    pairs: list[tuple[int, str]]
    index: dict[int, frozenset[int]]
    maybe: date | None


MOMENTS = st.datetimes() | st.datetimes(min_value=datetime(1980, 1, 1), timezones=st.timezones())
RECORDS = st.builds(
    Record,
    ratio=st.floats(allow_nan=False),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    when=MOMENTS,
    amount=st.decimals(allow_nan=False),
    pairs=st.lists(st.tuples(st.integers(), st.text("ab")), max_size=3),
    index=st.dictionaries(st.integers(-(2**63), 2**64 - 1), st.frozensets(st.integers(0, 9)), max_size=3),
)


@given(RECORDS)
def test_any_record_round_trips_typed(value: Record) -> None:
    decoded = round_trip(Record, value)
    assert decoded.when.isoformat() == value.when.isoformat()
    assert replace(decoded, when=value.when) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\xff", "base64:/w=="),
        (float("nan"), "nan"),
        (2**53, str(2**53)),
        (2**80, str(2**80)),
        (12, 12),
        ({1: "a", "b": None}, {"1": "a", "b": None}),
        ([True, 1.5, "x"], [True, 1.5, "x"]),
    ],
)
def test_stored_bytes_are_shown_as_json(value: object, shown: object) -> None:
    found = to_json(CODECS.of().encode(value))
    assert found == shown
    json.dumps(found, allow_nan=False)


def test_a_timestamp_is_shown_as_iso_text() -> None:
    assert to_json(CODECS.of().encode(datetime(2024, 1, 1, tzinfo=UTC))) == "2024-01-01T00:00:00+00:00"


@given(st.binary(max_size=40))
def test_any_bytes_can_be_shown(blob: bytes) -> None:
    json.dumps(to_json(blob), allow_nan=False)


async def _typed(ctx: object, company: Company) -> Point:
    raise NotImplementedError


def _awaitable(x: int) -> Awaitable[Point]:
    raise NotImplementedError


def _coroutine(x: int) -> Coroutine[Any, Any, Point]:
    raise NotImplementedError


def _future(x: int) -> "asyncio.Future[Point]":
    raise NotImplementedError


def _either(x: int) -> Point | Awaitable[Point]:
    raise NotImplementedError


def _text(ctx: object, company: "Company") -> "Point":
    raise NotImplementedError


def _mentions_nowhere(ctx: object, company: "Company") -> object:
    raise NotImplementedError


_mentions_nowhere.__annotations__["return"] = "Nowhere"
_bare: Any = eval("lambda ctx, company: None")


def _nothing(ctx: object) -> None: ...


class _Caller:
    def method(self, ctx: object, company: Company) -> Point:
        raise NotImplementedError

    def __call__(self, ctx: object, company: "Company") -> Point:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("fn", "data", "returns"),
    [
        (_typed, Company, Point),
        (_text, Company, Point),
        (_Caller().method, Company, Point),
        (_Caller(), Company, Point),
        (partial(_typed, object()), None, Point),
        (_awaitable, None, Point),
        (_coroutine, None, Point),
        (_future, None, Point),
        (_either, None, Point),
        (_nothing, None, None.__class__),
        (_bare, MISSING, MISSING),
        (lambda ctx, x: x, MISSING, MISSING),  # pyright: ignore
        (print, None, MISSING),
        (max, MISSING, MISSING),
        (Point, int, Point),
        (int, None, int),
    ],
)
def test_a_function_says_what_it_takes_and_gives(fn: Any, data: object, returns: object) -> None:
    found = annotations_of(fn)
    assert found.returns in (returns, None if returns is type(None) else returns)
    if fn not in (print, int):
        assert found.data == data
    assert found.unresolved == ()


def test_names_that_cannot_be_found_count_as_missing_and_do_not_take_the_others() -> None:
    found = annotations_of(_mentions_nowhere)
    assert found == (Company, MISSING, ("Nowhere",))


def test_a_class_local_to_a_function_is_found_when_the_body_uses_it() -> None:
    class Local:
        pass

    def make(x: int) -> "Local":
        return Local()

    assert annotations_of(make).returns is Local


def test_an_async_function_that_gives_an_awaitable_means_the_awaitable() -> None:
    async def odd(x: int) -> Awaitable[int]:
        raise NotImplementedError

    assert annotations_of(odd).returns == Awaitable[int]
