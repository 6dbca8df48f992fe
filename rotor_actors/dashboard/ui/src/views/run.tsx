import { useState } from "preact/hooks";
import { act, get, type Run, type RunDetail, type Session, type StepLine } from "../api";
import { took } from "../format";
import { useLive } from "../live";
import { go, link, runLink, type Route } from "../router";
import { Badge, Confirm, Loading, Payload, Problem, RunLink, Time, Took } from "../ui";
import { Actions } from "./actions";
import { TreeView } from "./tree";
import { WaterfallView } from "./waterfall";

const TABS = ["steps", "tree", "waterfall", "data"];

export function RunView({ route, session }: { route: Route; session: Session }) {
  const id = route.query.get("id") ?? "";
  const tab = route.query.get("tab") ?? "steps";
  const [limit, setLimit] = useState(200);
  const detail = useLive(() => get<RunDetail>("run", { id, steps: limit }), [id, limit]);
  if (detail.value === null) return detail.error ? <Problem text={detail.error} /> : <Loading of="the run" />;
  const { run, breadcrumb, why } = detail.value;
  return (
    <>
      <nav class="breadcrumb" aria-label="Invokers, from the root">
        {breadcrumb.map((above) => (
          <span key={above.run_id}>
            <RunLink run={above} label={above.workflow_id} /> <span aria-hidden="true">›</span>{" "}
          </span>
        ))}
        <span aria-current="page">{run.workflow_id}</span>
      </nav>
      <header class="run">
        <h1>{run.workflow_id}</h1>
        <Badge status={run.status} />
        {run.marks.map((mark) => (
          <span key={mark} class="mark">
            {mark}
          </span>
        ))}
        <Actions detail={detail.value} session={session} done={detail.reload} />
      </header>
      <Problem text={detail.error} />
      {why && <p class="why">{why}</p>}
      <Facts run={run} detail={detail.value} />
      {run.error && (
        <section class="error">
          <h2>
            {run.error.type}: {run.error.message}
          </h2>
          {run.error.traceback && <pre tabIndex={0}>{run.error.traceback}</pre>}
        </section>
      )}
      <nav class="tabs" aria-label="Views of the run">
        {TABS.map((name) => (
          <a key={name} href={link("run", { id, tab: name })} aria-current={tab === name ? "page" : undefined}>
            {name}
          </a>
        ))}
      </nav>
      {tab === "steps" && <Steps steps={detail.value.steps} run={run} session={session} />}
      {tab === "steps" && detail.value.steps_more > 0 && (
        <button type="button" onClick={() => setLimit(limit + 500)}>
          {detail.value.steps_more} more
        </button>
      )}
      {tab === "tree" && <TreeView id={id} />}
      {tab === "waterfall" && <WaterfallView id={id} />}
      {tab === "data" && (
        <>
          <Payload label="Input" text={detail.value.input} />
          <Payload label="Result" text={detail.value.result} />
          <Payload label="Headers" text={Object.keys(detail.value.headers).length ? JSON.stringify(detail.value.headers, null, 2) : ""} />
        </>
      )}
    </>
  );
}

function Facts({ run, detail }: { run: Run; detail: RunDetail }) {
  return (
    <dl class="facts">
      <dt>Run</dt>
      <dd class="mono">{run.run_id}</dd>
      <dt>Invoked by</dt>
      <dd>
        {run.parent_run_id ? (
          <a class="invoker" href={runLink(run.parent_run_id)}>
            step “{run.parent_step_id}” of {detail.breadcrumb.at(-1)?.workflow_id ?? run.parent_run_id}
          </a>
        ) : (
          "nobody: it was started"
        )}
      </dd>
      <dt>Created</dt>
      <dd>
        <Time at={run.created_at} />
      </dd>
      <dt>Began</dt>
      <dd>
        <Time at={run.started_at} />
        {run.attempt > 1 ? `, attempt ${run.attempt}` : ""}
      </dd>
      <dt>{run.ended_at === null ? "So far" : "Took"}</dt>
      <dd>
        <Took run={run} />
      </dd>
      {run.owner && (
        <>
          <dt>Owner</dt>
          <dd>replica {run.owner}</dd>
        </>
      )}
      <dt>Runs below</dt>
      <dd>{detail.below}</dd>
      {detail.progress && (
        <>
          <dt>Progress</dt>
          <dd>{detail.progress}</dd>
        </>
      )}
    </dl>
  );
}

interface StepsProps {
  steps: StepLine[];
  run: Run;
  session: Session;
}

function Steps({ steps, run, session }: StepsProps) {
  const [from, setFrom] = useState("");
  if (!steps.length) return <p class="dim">No step has an outcome yet.</p>;
  const canFork = run.ended_at !== null && !session.read_only && session.actions.includes("fork");
  const fork = async () => {
    const answer = await act<{ said: string; run_id?: string }>("fork", { run_id: run.run_id, from_step: from });
    if (answer.run_id) go("run", { id: answer.run_id });
    return answer.said;
  };
  return (
    <div class="scroll">
      <table>
        <thead>
          <tr>
            <th scope="col">Step</th>
            <th scope="col">Kind</th>
            <th scope="col">Status</th>
            <th scope="col">Child run</th>
            <th scope="col">Began</th>
            <th scope="col">Took</th>
            <th scope="col">Tries</th>
            {canFork && <th scope="col">Again</th>}
          </tr>
        </thead>
        <tbody>
          {steps.map((step, index) => (
            <tr key={`${step.step_id} ${index}`}>
              <td>{step.step_id}</td>
              <td class="dim">{step.kind}</td>
              <td>
                <Badge status={step.status} />
                {step.error && <span class="note"> {step.error}</span>}
              </td>
              <td class="mono">
                {step.child ? (
                  <a class="child" href={runLink(step.child.run_id)}>
                    {step.child.workflow_id} →
                  </a>
                ) : (
                  <span class="dim">–</span>
                )}
              </td>
              <td>
                <Time at={step.began_at} />
              </td>
              <td class="number">{took(step.began_at, step.ended_at)}</td>
              <td class="number">{step.attempts}</td>
              {canFork && (
                <td>
                  <button type="button" aria-label={`run again from ${step.step_id}`} onClick={() => setFrom(step.step_id)}>
                    from here…
                  </button>
                </td>
              )}
            </tr>
          ))}
        </tbody>
      </table>
      {from && (
        <Confirm title={`Run again from “${from}”?`} verb="Run again" onYes={fork} onClose={() => setFrom("")}>
          <p>A new run with the same input takes over what was recorded before this step, and executes the rest.</p>
        </Confirm>
      )}
    </div>
  );
}
