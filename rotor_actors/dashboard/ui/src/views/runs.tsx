import { useState } from "preact/hooks";
import { get, type Run, type Session } from "../api";
import { useLive } from "../live";
import { go, link, read, type Route } from "../router";
import { Badge, Loading, Problem, RunLink, Text, Time, Took } from "../ui";

interface Page {
  runs: Run[];
  next: string | null;
  counts: Record<string, number>;
}

const STATUSES = ["queued", "running", "completed", "failed", "cancelled"];
const SINCE = { "": "any time", "900": "last 15 minutes", "3600": "last hour", "86400": "last day", "604800": "last week" };

function filters(route: Route): Record<string, string> {
  return Object.fromEntries(
    ["status", "workflow", "age", "id", "error", "top", "after"].map((name) => [name, route.query.get(name) ?? ""]),
  );
}

function query(chosen: Record<string, string>): Record<string, string> {
  const { age, ...rest } = chosen;
  return age ? { ...rest, since: String(Math.floor(Date.now() / 1000) - Number(age)) } : rest;
}

export function RunsView({ route, session }: { route: Route; session: Session }) {
  const chosen = filters(route);
  const page = useLive(() => get<Page>("runs", query(chosen)), [JSON.stringify(chosen)]);
  const [back, setBack] = useState<string[]>([]);
  const set = (name: string, value: string) => {
    setBack([]);
    go("runs", { ...filters(read()), after: "", [name]: value });
  };
  const next = () => {
    setBack([...back, chosen.after ?? ""]);
    go("runs", { ...chosen, after: page.value?.next ?? "" });
  };
  const previous = () => {
    go("runs", { ...chosen, after: back.at(-1) ?? "" });
    setBack(back.slice(0, -1));
  };
  return (
    <>
      <h1>Runs</h1>
      <nav class="tabs" aria-label="Status">
        {["", ...STATUSES].map((status) => (
          <a
            key={status}
            href={link("runs", { ...chosen, after: "", status })}
            aria-current={chosen.status === status ? "page" : undefined}
          >
            {status || "all"} {status && page.value ? <b>{page.value.counts[status] ?? 0}</b> : null}
          </a>
        ))}
      </nav>
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <label>
          Workflow
          <Text list="workflows" value={chosen.workflow ?? ""} onCommit={(value) => set("workflow", value)} />
          <datalist id="workflows">
            {session.workflows.map((id) => (
              <option key={id} value={id} />
            ))}
          </datalist>
        </label>
        <label>
          Run id starts with
          <Text value={chosen.id ?? ""} onCommit={(value) => set("id", value.trim())} />
        </label>
        <label>
          Text in error
          <Text value={chosen.error ?? ""} onCommit={(value) => set("error", value)} />
        </label>
        <label>
          Created
          <select value={chosen.age} onChange={(event) => set("age", event.currentTarget.value)}>
            {Object.entries(SINCE).map(([value, label]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </select>
        </label>
        <label class="check">
          <input
            type="checkbox"
            checked={chosen.top === "1"}
            onChange={(event) => set("top", event.currentTarget.checked ? "1" : "")}
          />
          top-level only
        </label>
      </form>
      <Problem text={page.error} />
      {page.value === null ? <Loading of="runs" /> : <Table runs={page.value.runs} isShared={session.is_shared} />}
      <div class="actions">
        <button type="button" disabled={!chosen.after} onClick={previous}>
          ← Back
        </button>
        <button type="button" disabled={!page.value?.next} onClick={next}>
          More →
        </button>
      </div>
    </>
  );
}

function Table({ runs, isShared }: { runs: Run[]; isShared: boolean }) {
  if (!runs.length) return <p class="dim">No run fits. Start one, or widen the filters.</p>;
  return (
    <div class="scroll">
      <table>
        <thead>
          <tr>
            <th scope="col">Status</th>
            <th scope="col">Workflow</th>
            <th scope="col">Run</th>
            <th scope="col">Created</th>
            <th scope="col">Took</th>
            <th scope="col">Invoked by</th>
            {isShared && <th scope="col">Owner</th>}
            <th scope="col">Note</th>
          </tr>
        </thead>
        <tbody>
          {runs.map((run) => (
            <tr key={run.run_id}>
              <td>
                <Badge status={run.status} />
              </td>
              <td>{run.workflow_id}</td>
              <td class="mono">
                <RunLink run={run} label={run.run_id} />
              </td>
              <td>
                <Time at={run.created_at} />
              </td>
              <td class="number">
                <Took run={run} />
              </td>
              <td>
                {run.parent_run_id ? (
                  <RunLink run={{ run_id: run.parent_run_id, workflow_id: "" }} label={run.parent_step_id ?? "parent"} />
                ) : (
                  <span class="dim">–</span>
                )}
              </td>
              {isShared && <td>{run.owner || <span class="dim">{run.ended_at === null ? "nobody" : "–"}</span>}</td>}
              <td class="note">
                {run.error ? `${run.error.type}: ${run.error.message}` : run.reason || run.waiting_for}
                {run.attempt > 1 ? ` · attempt ${run.attempt}` : ""}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
