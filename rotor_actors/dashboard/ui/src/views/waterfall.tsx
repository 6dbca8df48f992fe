import { useEffect, useState } from "preact/hooks";
import { get, type Span } from "../api";
import { seconds } from "../format";
import { useLive } from "../live";
import { runLink } from "../router";
import { Loading, Problem } from "../ui";
import { Rows } from "./rows";

const ROW = 26;

/** Waiting and working apart; each try of a step is a bar of its own. */
export function WaterfallView({ id }: { id: string }) {
  const loaded = useLive(() => get<{ spans: Span[]; now: number; left_out: number }>("timeline", { id }), [id]);
  const [zoom, setZoom] = useState(1);
  const [from, setFrom] = useState(0);
  const [skew, setSkew] = useState(0);
  const [, tick] = useState(0);
  const running = loaded.value?.spans.some((span) => span.ends === null) ?? false;
  useEffect(() => {
    if (loaded.value) setSkew(loaded.value.now - Date.now() / 1000);
  }, [loaded.value]);
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => tick((n) => n + 1), 500);
    return () => clearInterval(timer);
  }, [running]);
  if (loaded.value === null) return loaded.error ? <Problem text={loaded.error} /> : <Loading of="the waterfall" />;
  const spans = loaded.value.spans;
  const now = Date.now() / 1000 + skew;
  const start = Math.min(...spans.map((span) => span.waits_from));
  const end = Math.max(...spans.map((span) => span.ends ?? now), start + 0.001);
  const width = (end - start) / zoom;
  const left = start + from * (end - start - width);
  const at = (time: number) => `${Math.max(-5, Math.min(105, ((time - left) / width) * 100))}%`;
  const wide = (a: number, b: number) => `max(2px, ${Math.max(0, Math.min(110, ((Math.min(b, left + width) - Math.max(a, left)) / width) * 100))}%)`;
  return (
    <section class="waterfall">
      <div class="actions">
        <label>
          Zoom <input type="range" min="0" max="10" step="0.5" value={Math.log2(zoom)} onInput={(event) => setZoom(2 ** Number(event.currentTarget.value))} />
        </label>
        <label>
          Position <input type="range" min="0" max="1" step="0.005" value={from} disabled={zoom === 1} onInput={(event) => setFrom(Number(event.currentTarget.value))} />
        </label>
        <span class="legend">
          <i class="wait" /> waiting <i class="work f-completed" /> working <i class="work f-failed" /> failed
        </span>
        <button type="button" onClick={() => print()}>
          Print
        </button>
      </div>
      <div class="axis" aria-hidden="true">
        {[0, 0.25, 0.5, 0.75].map((part) => (
          <span key={part} style={{ left: `calc(var(--label) + (100% - var(--label)) * ${part})` }}>
            {seconds(left - start + width * part)}
          </span>
        ))}
      </div>
      <Rows height={ROW} count={spans.length} label="Waterfall" role="list">
        {(index) => {
          const span = spans[index]!;
          const ends = span.ends ?? now;
          const works = span.works_from ?? ends;
          const said = `${span.label}, ${span.kind}${span.attempt > 1 ? `, try ${span.attempt}` : ""}: waited ${seconds(works - span.waits_from)}, worked ${span.works_from === null ? "not yet" : seconds(ends - works)}, ${span.status}`;
          return (
            <div class="bar" role="listitem" key={index} title={said} aria-label={said}>
              <span class="barlabel">
                {span.run_id ? <a href={runLink(span.run_id)}>{span.label}</a> : span.label}
                {span.attempt > 1 ? <span class="dim"> try {span.attempt}</span> : null}
              </span>
              <span class="lane">
                {works > span.waits_from && <i class="wait" style={{ left: at(span.waits_from), width: wide(span.waits_from, works) }} />}
                {span.works_from !== null && <i class={`work f-${span.status}`} style={{ left: at(works), width: wide(works, ends) }} />}
              </span>
            </div>
          );
        }}
      </Rows>
      {loaded.value.left_out > 0 && <p class="dim">{loaded.value.left_out} bars left out.</p>}
    </section>
  );
}
