import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { get, type WorkflowStats } from "../api";
import { seconds } from "../format";
import { useLive } from "../live";
import { link } from "../router";
import { Loading, Problem } from "../ui";

export function WorkflowsView() {
  const loaded = useLive(() => get<{ workflows: WorkflowStats[]; minutes: number; of_newest: number }>("workflows"), []);
  if (loaded.value === null) return loaded.error ? <Problem text={loaded.error} /> : <Loading of="workflows" />;
  return (
    <>
      <h1>Workflows</h1>
      <p class="dim">
        Of the newest {loaded.value.of_newest.toLocaleString()} runs: counts, ends per minute over the last {loaded.value.minutes} minutes,
        and latencies of those that completed in them.
      </p>
      <div class="scroll">
        <table>
          <thead>
            <tr>
              <th scope="col">Workflow</th>
              <th scope="col">Started by</th>
              <th scope="col">Running</th>
              <th scope="col">Completed</th>
              <th scope="col">Failed</th>
              <th scope="col">Cancelled</th>
              <th scope="col">p50</th>
              <th scope="col">p95</th>
              <th scope="col">Ends per minute</th>
            </tr>
          </thead>
          <tbody>
            {loaded.value.workflows.map((each) => (
              <tr key={each.workflow_id}>
                <td>
                  <a href={link("runs", { workflow: each.workflow_id })}>{each.workflow_id}</a>
                  {!each.registered && <span class="mark">not registered here</span>}
                </td>
                <td class="dim">{each.trigger}</td>
                {(["running", "completed", "failed", "cancelled"] as const).map((status) => (
                  <td key={status} class="number">
                    <a href={link("runs", { workflow: each.workflow_id, status })}>{each.counts[status] ?? 0}</a>
                  </td>
                ))}
                <td class="number">{each.p50 === null ? "–" : seconds(each.p50)}</td>
                <td class="number">{each.p95 === null ? "–" : seconds(each.p95)}</td>
                <td>
                  <Rate values={each.per_minute} label={each.workflow_id} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

function Rate({ values, label }: { values: number[]; label: string }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const data: uPlot.AlignedData = [values.map((_, index) => index), values];
  useEffect(() => {
    plot.current = new uPlot(
      {
        width: 180,
        height: 36,
        cursor: { show: false },
        legend: { show: false },
        axes: [{ show: false }, { show: false }],
        scales: { x: { time: false } },
        series: [{}, { stroke: "#4a7dff", fill: "#4a7dff33", width: 1.5, points: { show: false } }],
      },
      data,
      box.current!,
    );
    return () => plot.current?.destroy();
  }, []);
  useEffect(() => plot.current?.setData(data), [values]);
  return <div ref={box} role="img" aria-label={`${label}: ${values.join(", ")} ends per minute, oldest first`} />;
}
