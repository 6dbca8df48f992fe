"""Sub-agents: an agent delegates parts of its task to other agents, itself among them.

    python examples/sub_agents.py

The "model" is a few lines of Python, so that the example needs no network. What matters is the shape: each agent is a
run with an id, its own retries and its own journal, and cancelling the first one would cancel them all.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from rotor_actors import Context, Runtime, workflow

QUESTION = "what is an actor, and what is a supervisor, and which of them restarts which"


@dataclass(frozen=True)
class Task:
    question: str


@dataclass(frozen=True)
class Answer:
    text: str
    agents: int  # how many agents worked on it


@dataclass(frozen=True)
class Draft:
    question: str
    parts: list[str]


async def plan(question: str) -> list[str]:
    """Stand-in for a model that splits a question in two, or returns it as it is when it is simple."""
    first, found, rest = question.partition(", and ")
    return [first, rest] if found else [question]


async def look_up(question: str) -> str:
    """Stand-in for a model with a search tool."""
    return f"[{question}: see OTP]"


async def compose(parts: list[str]) -> str:
    return " ".join(parts)


@workflow(id="writer", retries=1)
async def writer(ctx: Context, draft: Draft) -> str:
    return await ctx.step.run("compose", compose, draft.parts)


@workflow(id="researcher", retries=2)
async def researcher(ctx: Context, task: Task) -> Answer:
    """Answer a simple question; split any other one, give the parts to sub-agents, and let a writer join them."""
    questions = await ctx.step.run("plan", plan, task.question)
    if len(questions) == 1:
        return Answer(await ctx.step.run("look up", look_up, task.question), agents=1)
    delegated = [
        ctx.step.invoke(f"research {question}", workflow=researcher, data=Task(question), timeout="10m")
        for question in questions
    ]
    answers = [invocation.result for invocation in await asyncio.gather(*delegated)]
    draft = Draft(task.question, [answer.text for answer in answers])
    text, _ = await ctx.step.invoke("write", workflow=writer, data=draft, timeout="10m")
    return Answer(text, agents=2 + sum(answer.agents for answer in answers))


async def main(store: str | os.PathLike[str] = ":memory:") -> Answer:
    """Ask one question. `max_depth` is what stops an agent that would delegate to itself for ever."""
    async with Runtime(store, workflows=[researcher, writer], max_depth=10) as runtime:
        handle = await runtime.start(researcher, Task(QUESTION))
        answer = await handle.result()
        print(f"{answer.agents} agents: {answer.text}")
        for info in await runtime.runs(root=handle.run_id):
            print(f"  {'  ' * info.depth}{info.workflow_id} {info.parent_step_id or ''}: {info.status}")
    return answer


if __name__ == "__main__":
    asyncio.run(main())
