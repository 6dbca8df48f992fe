import pytest
from kit import World, with_a_crash_after_each_entry
from rotor_actors import Context, workflow
pytestmark = pytest.mark.asyncio
async def one(x: int) -> int:
    return x + 1
@workflow(id="child")
async def child(ctx: Context, x: int) -> int:
    await ctx.step.sleep("s", "1h")
    return await ctx.step.run("one", one, x)
@workflow(id="root")
async def root(ctx: Context, x: int) -> int:
    a = await ctx.step.invoke("c", workflow=child, data=x, timeout="2h")
    b = await ctx.step.invoke("c", workflow=child, data=a.result, timeout="2h")
    return b.result
async def test_it():
    async with World(root, child) as world:
        assert await world.execute(root, 1) == 3
        print(world.clock.now()-1_700_000_000)
async def test_crash():
    out = await with_a_crash_after_each_entry(lambda: World(root, child), root, 1)
    print(out)
    assert len(out) > 5 and all(o == 3 for o in out)
