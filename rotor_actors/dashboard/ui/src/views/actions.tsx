import { useState } from "preact/hooks";
import { act, type RunDetail, type Session } from "../api";
import { go } from "../router";
import { Confirm } from "../ui";

interface Done {
  said: string;
  run_id?: string;
}

const ENDED = ["completed", "failed", "cancelled"];

export function Actions({ detail, session, done }: { detail: RunDetail; session: Session; done: () => void }) {
  const [asked, ask] = useState("");
  const [reason, setReason] = useState("");
  const { run, below } = detail;
  const can = (action: string) => !session.read_only && session.actions.includes(action);
  const perform = async () => {
    const answer = await act<Done>(asked, { run_id: run.run_id, reason });
    done();
    if (answer.run_id && answer.run_id !== run.run_id) go("run", { id: answer.run_id });
    return answer.said;
  };
  const ended = ENDED.includes(run.status);
  return (
    <span class="actions">
      {can("cancel") && !ended && (
        <button type="button" class="danger" onClick={() => ask("cancel")}>
          Cancel…
        </button>
      )}
      {can("resume") && (run.status === "failed" || run.status === "cancelled") && (
        <button type="button" onClick={() => ask("resume")}>
          Resume…
        </button>
      )}
      {can("restart") && ended && (
        <button type="button" onClick={() => ask("restart")}>
          Restart…
        </button>
      )}
      <a class="button" href={`api/export?format=html&id=${encodeURIComponent(run.run_id)}`} download>
        Export
      </a>
      {asked === "cancel" && (
        <Confirm title={`Cancel ${run.workflow_id}?`} verb="Cancel the run" danger onYes={perform} onClose={() => ask("")}>
          <p>
            It has <b>{below}</b> {below === 1 ? "run" : "runs"} below it; those that have not ended are cancelled with it.
          </p>
          <label>
            Reason <input value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
          </label>
        </Confirm>
      )}
      {asked === "resume" && (
        <Confirm title={`Resume ${run.workflow_id}?`} verb="Resume" onYes={perform} onClose={() => ask("")}>
          <p>It goes on from the step that failed; what was recorded is kept.</p>
        </Confirm>
      )}
      {asked === "restart" && (
        <Confirm title={`Restart ${run.workflow_id}?`} verb="Restart" onYes={perform} onClose={() => ask("")}>
          <p>A run with the same input begins from zero: every step is executed again.</p>
        </Confirm>
      )}
    </span>
  );
}
