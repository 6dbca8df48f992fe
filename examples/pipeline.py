"""Pipeline: one child after the other, each given what the one before it returned.

python examples/pipeline.py
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from rotor_actors import Context, Runtime, workflow

ARTICLE = "  Actors have a mailbox.  Actors share nothing.   A supervisor looks after   actors. "


@dataclass(frozen=True)
class Text:
    title: str
    sentences: list[str]


@dataclass(frozen=True)
class Summary:
    title: str
    sentence: str
    words: int


def download(url: str) -> str:
    """Stand-in for a request. It is a step, so that a restart does not download again."""
    return ARTICLE if url else ""


@workflow(id="fetch", retries=2)
async def fetch(ctx: Context, url: str) -> str:
    return await ctx.step.run("download", download, url)


@workflow(id="clean")
async def clean(ctx: Context, raw: str) -> Text:
    # Pure computation needs no step: it gives the same result when it is run again.
    sentences = [" ".join(part.split()) for part in raw.split(".") if part.strip()]
    return Text(title=sentences[0], sentences=sentences)


@workflow(id="summarise")
async def summarise(ctx: Context, text: Text) -> Summary:
    words = sum(len(sentence.split()) for sentence in text.sentences)
    return Summary(title=text.title, sentence=text.sentences[-1], words=words)


@workflow(id="digest")
async def digest(ctx: Context, url: str) -> Summary:
    raw = await ctx.step.invoke("fetch", workflow=fetch, data=url, timeout="1m")
    text = await ctx.step.invoke("clean", workflow=clean, data=raw.result, timeout="1m")
    summary = await ctx.step.invoke("summarise", workflow=summarise, data=text.result, timeout="1m")
    return summary.result


async def main(store: str | os.PathLike[str] = ":memory:") -> Summary:
    """Run the pipeline once. With a file as store it would survive a crash between any two stages."""
    async with Runtime(store, workflows=[digest, fetch, clean, summarise]) as runtime:
        summary = await runtime.execute(digest, "https://example.org/actors")
    print(f"{summary.title}: {summary.words} words, ends with {summary.sentence!r}")
    return summary


if __name__ == "__main__":
    asyncio.run(main())
