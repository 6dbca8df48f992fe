import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { get, type Session } from "./api";
import { live, useConnection } from "./live";
import { link, useRoute } from "./router";
import { Loading, Problem } from "./ui";
import { ReplicasView } from "./views/replicas";
import { RunView } from "./views/run";
import { RunsView } from "./views/runs";
import { SendView } from "./views/send";
import { ServicesView } from "./views/services";
import { WorkflowsView } from "./views/workflows";
import "uplot/dist/uPlot.min.css";
import "./style.css";

const SAID = {
  connecting: "connecting…",
  live: "live",
  lost: "disconnected: what you see may be old; trying again",
  paused: "paused",
};

function App() {
  const route = useRoute();
  const connection = useConnection();
  const [session, setSession] = useState<Session | null>(null);
  const [error, setError] = useState("");
  useEffect(() => {
    get<Session>("session")
      .then((loaded) => {
        setSession(loaded);
        live.start();
      })
      .catch((failure: Error) => setError(failure.message));
  }, []);
  const views = [
    ["runs", "Runs"],
    ["workflows", "Workflows"],
    ["services", "Runtime"],
    ...(session?.is_shared ? [["replicas", "Replicas"]] : []),
    ...(session && !session.read_only && session.actions.some((each) => each === "send" || each === "signal") ? [["send", "Send"]] : []),
  ] as const;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        Skip to content
      </a>
      <header class="top">
        <a class="brand" href={link("runs")}>
          rotor
        </a>
        <nav aria-label="Views">
          {views.map(([view, label]) => (
            <a key={view} href={link(view!)} aria-current={route.view === view ? "page" : undefined}>
              {label}
            </a>
          ))}
        </nav>
        <span class={`connection c-${connection}`} role="status">
          <span aria-hidden="true">{connection === "live" ? "●" : "○"}</span> {SAID[connection]}
        </span>
        {session?.read_only && <span class="mark">read-only</span>}
        {session?.user && <span class="dim">{session.user}</span>}
      </header>
      <main id="main" tabIndex={-1}>
        <Problem text={error} />
        {session === null && !error && <Loading of="the dashboard" />}
        {session && route.view === "runs" && <RunsView route={route} session={session} />}
        {session && route.view === "run" && <RunView key={route.query.get("id")} route={route} session={session} />}
        {session && route.view === "workflows" && <WorkflowsView />}
        {session && route.view === "services" && <ServicesView />}
        {session && route.view === "replicas" && <ReplicasView />}
        {session && route.view === "send" && <SendView session={session} />}
      </main>
    </>
  );
}

render(<App />, document.getElementById("app")!);
