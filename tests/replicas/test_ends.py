"""A child ends with another replica than the one that owns its parent."""

from __future__ import annotations

import asyncio

import pytest
from engines import Sea, committed

from rotor_actors import Context, workflow
from rotor_actors.errors import NonRetriableError, WorkflowFailedError
from rotor_actors.records import EndSeen, Fact, MailKind, RunFlag
from rotor_actors.run import Run
from rotor_actors.stores.shared import Claim, ClaimQuery, Mail

pytestmark = pytest.mark.asyncio


@workflow(id="child")
async def child(ctx: Context, data: str) -> str:
    await ctx.step.sleep("a while", "1m")
    if data == "fail":
        raise NonRetriableError("no luck")
    return f"{data} done"


@workflow(id="parent")
async def parent(ctx: Context, names: list[str]) -> list[str]:
    async def one(name: str) -> str:
        try:
            return (await ctx.step.invoke(f"call {name}", workflow=child, data=name, timeout="1h")).result
        except WorkflowFailedError as error:
            return error.error.message

    return list(await asyncio.gather(*map(one, names)))


@workflow(id="mapper")
async def mapper(ctx: Context, names: list[str]) -> list[str]:
    return [each.body or "" async for each in ctx.step.map("all", workflow=child, items=names, timeout="1h")]


async def test_a_child_that_another_replica_took_ends_and_its_parent_goes_on() -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x"])
        await sea.settle()
        assert await b.take_in() == [sea.child_of("p", "call x").run_id]
        await sea.advance("2m")
        assert sea.result("p") == ["x done"]
        assert sea.database.office.letters == {}
        assert not sea.child_of("p", "call x").flags & RunFlag.UNSEEN
        assert len(a.tree) == len(b.tree) == 0


async def test_its_failure_reaches_the_parent_as_an_error_of_the_child() -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x", "fail"])
        await sea.settle()
        await b.take_in()
        await sea.advance("2m")
        assert sea.result("p") == ["x done", "no luck"]


async def test_the_end_has_a_place_in_the_order_of_the_parents_journal() -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x"])
        await sea.settle()
        b.journal.witness(10_000)
        await b.take_in()
        await sea.advance("2m")
        assert (sea.child_of("p", "call x").end_seq or 0) < 1_000, "its place is one of the parent's owner's entries"


async def test_until_its_parent_has_seen_the_end_the_child_runs_to_it() -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x"])
        await sea.settle()
        await b.take_in()
        sea.delivers = False
        await sea.advance("2m")
        row = sea.child_of("p", "call x")
        assert row.status.is_terminal
        assert row.flags & RunFlag.UNSEEN
        [known] = sea.database.histories([sea.row("p").n])[sea.row("p").n].children
        assert not known.status.is_terminal
        assert [letter.kind for letter in sea.database.office.letters.values()] == [MailKind.ENDED]


async def test_mail_that_comes_twice_ends_a_child_once() -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x", "y"])
        await sea.settle()
        await b.take_in(1)
        sea.delivers = False
        await sea.advance("2m")
        [letter] = sea.database.office.letters.values()
        sea.database.office.post(letter.to, letter.kind, letter.body)
        seen: list[Fact] = []
        a.store.before_commit = lambda entries: seen.extend(committed(entries, EndSeen))
        await a.mailroom.collect()
        await a.mailroom.collect()
        sea.delivers = True
        await sea.settle()
        assert len(seen) == 1
        assert sea.database.office.letters == {}
        await b.take_in()
        await sea.advance("2m")
        assert sea.result("p") == ["x done", "y done"]


async def test_the_ends_of_a_map_come_from_everywhere() -> None:
    async with Sea(mapper, child) as sea:
        a, b, c = await sea.replica(), await sea.replica(), await sea.replica()
        a.spills = {"child"}
        names = [str(each) for each in range(9)]
        await a.start(mapper, names)
        await sea.settle()
        assert len(await b.take_in(4)) == 4
        assert len(await c.take_in(4)) == 4
        assert len(await a.take_in(4)) == 1
        await sea.advance("2m")
        assert sorted(sea.result("p")) == sorted(f"{name} done" for name in names)


async def test_a_parent_at_rest_is_loaded_when_the_mail_comes() -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x"])
        await sea.settle()
        await b.take_in()
        await a.kill()
        c = await sea.replica()
        assert await c.take_in() == ["p"]
        await sea.advance("2m")
        assert sea.result("p") == ["x done"]


async def test_mail_of_an_unknown_kind_keeps_no_other_waiting() -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x"])
        await sea.settle()
        await b.take_in()
        sea.database.office.post(sea.row("p").n, MailKind.REPLY, b"what?")
        sea.database.office.post(-a.store.replica, MailKind.REPLY, b"what?")
        await sea.advance("2m")
        assert sea.result("p") == ["x done"]
        assert [letter.kind for letter in sea.database.office.letters.values()] == [MailKind.REPLY], (
            "that to the run is gone"
        )


async def test_a_handler_that_breaks_keeps_no_other_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x"])
        await sea.settle()
        await b.take_in()

        def broken(mail: Mail, run: Run | None) -> None:
            raise ZeroDivisionError

        assert a.sharing is not None
        a.sharing.handlers[MailKind.REPLY] = broken
        sea.database.office.post(-a.store.replica, MailKind.REPLY, None)
        await sea.advance("2m")
        assert sea.result("p") == ["x done"]
        assert sum("could not be acted on" in record.message for record in caplog.records) == 1


async def test_a_message_whose_look_up_breaks_keeps_no_other_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x"])
        await sea.settle()
        await b.take_in()
        acted_on: list[bytes | None] = []

        async def prepare(mails: list[Mail]) -> None:
            if any(mail.body == b"bad" for mail in mails):
                raise KeyError("a bug")

        assert a.sharing is not None
        a.sharing.preparers[MailKind.REPLY] = prepare
        a.sharing.handlers[MailKind.REPLY] = lambda mail, run: acted_on.append(mail.body)
        for body in (b"good", b"bad", b"better"):
            sea.database.office.post(-a.store.replica, MailKind.REPLY, body)
        await sea.advance("2m")
        assert acted_on == [b"good", b"better"]
        assert sea.result("p") == ["x done"]
        assert sum("could not be acted on" in record.message for record in caplog.records) == 1


async def test_of_many_ends_none_is_lost_when_the_look_up_of_another_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_mail(after: int, limit: int) -> list[Mail]:
        return []

    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x", "y", "z"])
        await sea.settle()
        await b.take_in()
        with monkeypatch.context() as patch:
            patch.setattr(a.store, "mail", no_mail)
            await sea.advance("2m")
        assert len(sea.database.office.letters) == 3
        sea.database.office.post(-a.store.replica, MailKind.ENDED, b"\xa1?")
        await sea.settle()
        assert sea.result("p") == ["x done", "y done", "z done"]
        assert len(sea.database.office.letters) == 1


async def test_mail_waits_while_its_run_is_being_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sea(parent, child) as sea:
        a, b = await sea.replica(), await sea.replica()
        a.spills = {"child"}
        await a.start(parent, ["x"])
        await sea.settle()
        claim = b.store.claim(ClaimQuery())
        [claimed] = claim.runs
        sea.database.office.post(claimed.live.row.n, MailKind.RELEASE, None)
        await sea.settle()
        assert len(sea.database.office.letters) == 1

        def the_same(query: ClaimQuery) -> Claim:
            return claim

        monkeypatch.setattr(b.store, "claim", the_same)
        await b.take_in()
        await sea.settle()
        assert not sea.database.office.letters


async def test_what_was_acted_on_is_not_acted_on_again_before_that_is_durable() -> None:
    async with Sea(parent, child) as sea:
        a = await sea.replica()
        told: list[bytes | None] = []

        def note(mail: Mail, run: Run | None) -> None:
            told.append(mail.body)

        assert a.sharing is not None
        a.sharing.handlers[MailKind.REPLY] = note
        sea.database.office.post(-a.store.replica, MailKind.REPLY, b"once")
        await a.mailroom.collect()
        await a.mailroom.collect()  # nothing was committed in between
        await sea.settle()
        assert told == [b"once"]
        assert sea.database.office.letters == {}
