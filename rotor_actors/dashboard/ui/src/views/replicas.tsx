import { get, type Replica, type Unowned } from "../api";
import { seconds } from "../format";
import { useLive } from "../live";
import { link } from "../router";
import { Loading, Problem, Time } from "../ui";

interface State {
  replicas: Replica[];
  unowned: Unowned[];
  now: number;
}

export function ReplicasView() {
  const loaded = useLive(() => get<State>("replicas"), []);
  if (loaded.value === null) return loaded.error ? <Problem text={loaded.error} /> : <Loading of="replicas" />;
  const { replicas, unowned, now } = loaded.value;
  return (
    <>
      <h1>Replicas</h1>
      <Problem text={loaded.error} />
      {replicas.length ? (
        <div class="scroll">
          <table>
            <thead>
              <tr>
                <th scope="col">Replica</th>
                <th scope="col">Number</th>
                <th scope="col">Since</th>
                <th scope="col">Lease</th>
                <th scope="col">Runs</th>
                <th scope="col">Role</th>
                <th scope="col">Workflows</th>
              </tr>
            </thead>
            <tbody>
              {replicas.map((replica) => (
                <tr key={replica.number}>
                  <td>{replica.label}</td>
                  <td class="number">{replica.number}</td>
                  <td>
                    <Time at={replica.began_at} />
                  </td>
                  <td class="number">
                    {replica.lease_until > now ? `${seconds(replica.lease_until - now)} left` : <span class="mark">run out</span>}
                  </td>
                  <td class="number">{replica.owned}</td>
                  <td>
                    {replica.is_coordinator && <span class="mark">coordinator</span>}
                    {replica.is_draining && <span class="mark">draining</span>}
                  </td>
                  <td class="note">
                    {replica.declared.map((each) => each.workflow_id + (each.versions ? `@${each.versions.join("|")}` : "")).join(", ")}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : (
        <p class="problem">No replica has the store open: runs stand still.</p>
      )}
      <h2>Runs that nobody owns</h2>
      {unowned.length ? (
        <table>
          <thead>
            <tr>
              <th scope="col">Workflow</th>
              <th scope="col">Version</th>
              <th scope="col">Runs</th>
              <th scope="col">Of them parked</th>
              <th scope="col">Note</th>
            </tr>
          </thead>
          <tbody>
            {unowned.map((each) => (
              <tr key={`${each.workflow_id} ${each.version}`}>
                <td>
                  <a href={link("runs", { workflow: each.workflow_id })}>{each.workflow_id}</a>
                </td>
                <td>{each.version ?? "–"}</td>
                <td class="number">{each.unowned}</td>
                <td class="number">{each.parked}</td>
                <td>
                  {each.is_declared ? "whichever replica has room claims them" : <span class="mark">no replica can run them</span>}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <p class="dim">None.</p>
      )}
    </>
  );
}
