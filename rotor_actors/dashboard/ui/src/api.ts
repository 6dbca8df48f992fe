// What the server answers, and how it is asked. Every address is relative to the page, whatever it is mounted at.

export type Status = "queued" | "running" | "completed" | "failed" | "cancelled";

export interface RunError {
  type: string;
  message: string;
  traceback: string;
}

export interface Run {
  run_id: string;
  workflow_id: string;
  status: Status;
  attempt: number;
  depth: number;
  parent_run_id: string | null;
  parent_step_id: string | null;
  root_run_id: string;
  created_at: number;
  started_at: number | null;
  ended_at: number | null;
  waiting_for: string;
  marks: string[];
  error: RunError | null;
  reason: string;
  owner: string;
}

export interface StepLine {
  step_id: string;
  kind: string;
  status: string;
  attempts: number;
  began_at: number | null;
  ended_at: number | null;
  child: Run | null;
  error: string;
}

export interface RunDetail {
  run: Run;
  input: string;
  result: string;
  headers: Record<string, string>;
  why: string;
  breadcrumb: Run[];
  steps: StepLine[];
  steps_more: number;
  below: number;
  progress: string;
}

/** Node: id, index of its parent (-1 for the top), workflow, status, step, created, started, ended, attempt. */
export type TreeNode = [string, number, string, Status, string, number, number | null, number | null, number];

export interface Span {
  label: string;
  kind: string;
  status: string;
  waits_from: number;
  works_from: number | null;
  ends: number | null;
  attempt: number;
  run_id: string | null;
}

export interface WorkflowStats {
  workflow_id: string;
  registered: boolean;
  trigger: string;
  counts: Partial<Record<Status, number>>;
  per_minute: number[];
  p50: number | null;
  p95: number | null;
}

export interface Service {
  id: string;
  status: string;
  restarts: number;
  restart: string;
}

export interface Replica {
  number: number;
  label: string;
  began_at: number;
  lease_until: number;
  declared: { workflow_id: string; versions: string[] | null }[];
  is_coordinator: boolean;
  is_draining: boolean;
  owned: number;
}

/** Runs of a workflow and version that no replica owns. */
export interface Unowned {
  workflow_id: string;
  version: string | null;
  unowned: number;
  parked: number;
  is_declared: boolean;
}

export interface Session {
  user: string;
  read_only: boolean;
  version: string;
  workflows: string[];
  actions: string[];
  is_shared: boolean;
}

export interface AuditEntry {
  at: number;
  user: string;
  action: string;
  target: string;
  outcome: string;
}

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

/** The page may be served without a trailing slash: then relative addresses would point beside it. */
export function base(): string {
  const path = location.pathname;
  return path.endsWith("/") ? path : `${path}/`;
}

async function ask<T>(path: string, init?: RequestInit): Promise<T> {
  const response = await fetch(base() + path, { credentials: "same-origin", ...init });
  const text = await response.text();
  let body: unknown = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    throw new ApiError(`the server answered ${response.status} with something that is not JSON`, response.status);
  }
  if (!response.ok) throw new ApiError((body as { error?: string })?.error ?? `status ${response.status}`, response.status);
  return body as T;
}

export function get<T>(path: string, query: Record<string, string | number | undefined> = {}): Promise<T> {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== "") search.set(name, String(value));
  const text = search.toString();
  return ask<T>(`api/${path}${text ? `?${text}` : ""}`);
}

/** A header of our own: a page of another site cannot send it without being allowed to, which it never is. */
export function act<T>(action: string, body: Record<string, unknown>): Promise<T> {
  return ask<T>("api/act", {
    method: "POST",
    headers: { "content-type": "application/json", "x-rotor-action": action },
    body: JSON.stringify({ action, ...body }),
  });
}
