import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Run } from "./api";
import { iso, short, time, took } from "./format";
import { runLink } from "./router";

// A mark beside each colour: colour is never the only signal.
const MARKS: Record<string, string> = {
  queued: "◷",
  running: "▶",
  completed: "✓",
  failed: "✕",
  cancelled: "⊘",
  timed_out: "◔",
};

export function Badge({ status }: { status: string }) {
  return (
    <span class={`badge s-${status}`}>
      <span aria-hidden="true">{MARKS[status] ?? "·"}</span> {status.replace("_", " ")}
    </span>
  );
}

export function Time({ at }: { at: number | null }) {
  return (
    <time dateTime={iso(at)} title={iso(at)}>
      {time(at)}
    </time>
  );
}

/** How long a run has worked; ticks while it does. */
export function Took({ run }: { run: Pick<Run, "started_at" | "ended_at" | "status"> }) {
  const [, tick] = useState(0);
  const goes = run.ended_at === null && run.started_at !== null;
  useEffect(() => {
    if (!goes) return;
    const timer = setInterval(() => tick((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, [goes]);
  return <>{took(run.started_at, run.ended_at)}</>;
}

export function RunLink({ run, label }: { run: Pick<Run, "run_id" | "workflow_id">; label?: string }) {
  return (
    <a href={runLink(run.run_id)} title={run.run_id}>
      {label ?? `${run.workflow_id} ${short(run.run_id)}`}
    </a>
  );
}

export function Payload({ label, text }: { label: string; text: string }) {
  const [whole, show] = useState(false);
  if (!text) return null;
  const long = text.length > 4000;
  return (
    <section class="payload">
      <h3>{label}</h3>
      <pre tabIndex={0}>{whole || !long ? text : `${text.slice(0, 4000)}…`}</pre>
      {long && (
        <button type="button" onClick={() => show(!whole)}>
          {whole ? "show less" : `show all ${text.length} characters`}
        </button>
      )}
    </section>
  );
}

export function Problem({ text }: { text: string }) {
  return text ? (
    <p class="problem" role="alert">
      {text}
    </p>
  ) : null;
}

export function Loading({ of }: { of: string }) {
  return <p class="dim">Loading {of}…</p>;
}

interface ConfirmProps {
  title: string;
  verb: string;
  danger?: boolean;
  children?: ComponentChildren;
  onYes: () => Promise<string>;
  onClose: () => void;
}

/** Asks before anything is changed, then says what came of it. */
export function Confirm({ title, verb, danger, children, onYes, onClose }: ConfirmProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [said, say] = useState("");
  const [failed, fail] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => dialog.current?.showModal(), []);
  const yes = () => {
    setBusy(true);
    fail("");
    onYes()
      .then(say)
      .catch((error: Error) => fail(error.message))
      .finally(() => setBusy(false));
  };
  return (
    <dialog ref={dialog} onClose={onClose} aria-labelledby="confirm-title">
      <h2 id="confirm-title">{title}</h2>
      {said ? <p role="status">{said}</p> : children}
      <Problem text={failed} />
      <div class="actions">
        <button type="button" onClick={() => dialog.current?.close()}>
          {said ? "Close" : "Keep as it is"}
        </button>
        {!said && (
          <button type="button" class={danger ? "danger" : "primary"} disabled={busy} onClick={yes}>
            {busy ? "…" : verb}
          </button>
        )}
      </div>
    </dialog>
  );
}

interface TextProps {
  value: string;
  list?: string;
  onCommit: (value: string) => void;
}

/** A field whose text counts when it is left, or on Enter. What is being typed outlives updates of the page. */
export function Text({ value, list, onCommit }: TextProps) {
  const [draft, setDraft] = useState(value);
  useEffect(() => setDraft(value), [value]);
  return (
    <input
      list={list}
      value={draft}
      onInput={(event) => setDraft(event.currentTarget.value)}
      onChange={(event) => onCommit(event.currentTarget.value)}
    />
  );
}
