import { get, type AuditEntry, type Service } from "../api";
import { useLive } from "../live";
import { Loading, Problem, Time } from "../ui";

interface State {
  services: Service[];
  facts: [string, string][];
  audit: AuditEntry[];
}

export function ServicesView() {
  const loaded = useLive(() => get<State>("services"), []);
  if (loaded.value === null) return loaded.error ? <Problem text={loaded.error} /> : <Loading of="services" />;
  const { services, facts, audit } = loaded.value;
  return (
    <>
      <h1>Runtime</h1>
      <dl class="facts">
        {facts.map(([name, value]) => (
          <>
            <dt key={name}>{name}</dt>
            <dd>{value}</dd>
          </>
        ))}
      </dl>
      <h2>Supervised services</h2>
      <table>
        <thead>
          <tr>
            <th scope="col">Service</th>
            <th scope="col">Status</th>
            <th scope="col">Restart</th>
            <th scope="col">Restarts</th>
          </tr>
        </thead>
        <tbody>
          {services.map((service) => (
            <tr key={service.id}>
              <td>{service.id}</td>
              <td>{service.status}</td>
              <td class="dim">{service.restart}</td>
              <td class="number">{service.restarts}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <h2>What was done from here</h2>
      {audit.length ? (
        <table>
          <thead>
            <tr>
              <th scope="col">When</th>
              <th scope="col">Who</th>
              <th scope="col">What</th>
              <th scope="col">To</th>
              <th scope="col">Outcome</th>
            </tr>
          </thead>
          <tbody>
            {audit.map((entry, index) => (
              <tr key={index}>
                <td>
                  <Time at={entry.at} />
                </td>
                <td>{entry.user}</td>
                <td>{entry.action}</td>
                <td class="mono">{entry.target}</td>
                <td>{entry.outcome}</td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <p class="dim">Nothing yet.</p>
      )}
    </>
  );
}
