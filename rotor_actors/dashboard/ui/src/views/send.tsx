import { useState } from "preact/hooks";
import { act, type Session } from "../api";
import { Confirm } from "../ui";

interface Done {
  said: string;
}

export function SendView({ session }: { session: Session }) {
  const [asked, ask] = useState("");
  const [name, setName] = useState("");
  const [data, setData] = useState("null");
  if (session.read_only) return <p class="dim">This dashboard is read-only.</p>;
  const kinds = ["send", "signal"].filter((kind) => session.actions.includes(kind));
  const perform = async () => (await act<Done>(asked, { name, data: JSON.parse(data) as unknown })).said;
  return (
    <>
      <h1>Send</h1>
      <form class="stack" onSubmit={(event) => event.preventDefault()}>
        <label>
          Name of the event, or of the signal
          <input value={name} onInput={(event) => setName(event.currentTarget.value)} />
        </label>
        <label>
          Data, as JSON
          <textarea rows={6} value={data} onInput={(event) => setData(event.currentTarget.value)} />
        </label>
        <div class="actions">
          {kinds.map((kind) => (
            <button key={kind} type="button" disabled={!name} onClick={() => ask(kind)}>
              {kind === "send" ? "Send event…" : "Signal…"}
            </button>
          ))}
        </div>
      </form>
      {asked && (
        <Confirm title={`${asked === "send" ? "Send event" : "Signal"} “${name}”?`} verb={asked === "send" ? "Send" : "Signal"} onYes={perform} onClose={() => ask("")}>
          <p>{asked === "send" ? "It starts every workflow on it and wakes every run that waits for it." : "It wakes the one run that waits for it."}</p>
        </Confirm>
      )}
    </>
  );
}
