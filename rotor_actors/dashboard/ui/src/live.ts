import { useEffect, useRef, useState } from "preact/hooks";
import { base } from "./api";

export type Connection = "connecting" | "live" | "lost" | "paused";
type Listener = () => void;

// One stream for the page. The server ends it every few seconds, so that an open tab never keeps it from stopping; the
// browser comes back by itself. While the tab is hidden there is none.
class Live {
  private source: EventSource | null = null;
  private readonly listeners = new Set<Listener>();
  private readonly watchers = new Set<(state: Connection) => void>();
  private lastSeq = "";
  private retry = 0;
  state: Connection = "connecting";

  start(): void {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.pause() : this.connect()));
    if (!document.hidden) this.connect();
    else this.set("paused");
  }

  subscribe(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  watch(watcher: (state: Connection) => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  private connect(): void {
    this.close();
    const source = new EventSource(`${base()}api/changes`);
    this.source = source;
    source.onopen = () => this.set("live");
    source.onmessage = (event: MessageEvent<string>) => {
      this.set("live");
      if (event.data !== this.lastSeq) {
        this.lastSeq = event.data;
        for (const listener of this.listeners) listener();
      }
    };
    source.addEventListener("bye", () => this.again(50));
    source.onerror = () => {
      this.set("lost");
      this.again(1000);
    };
  }

  private again(delay: number): void {
    this.close();
    this.retry = window.setTimeout(() => !document.hidden && this.connect(), delay);
  }

  private pause(): void {
    this.close();
    this.set("paused");
  }

  private close(): void {
    clearTimeout(this.retry);
    this.source?.close();
    this.source = null;
  }

  private set(state: Connection): void {
    if (state === this.state) return;
    this.state = state;
    for (const watcher of this.watchers) watcher(state);
  }
}

export const live = new Live();

export function useConnection(): Connection {
  const [state, set] = useState(live.state);
  useEffect(() => live.watch(set), []);
  return state;
}

export interface Loaded<T> {
  value: T | null;
  error: string;
  reload: () => void;
}

/** Load, and load again when something has changed: at most once a second, never twice at a time. What was asked for
 *  under other keys is dropped, whenever it comes. */
export function useLive<T>(load: () => Promise<T>, keys: unknown[]): Loaded<T> {
  const [value, setValue] = useState<T | null>(null);
  const [error, setError] = useState("");
  const reload = useRef<() => void>(() => {});
  useEffect(() => {
    let over = false;
    let busy = false;
    let owed = false;
    let began = 0;
    let timer = 0;
    const run = () => {
      if (over) return;
      if (busy) {
        owed = true;
        return;
      }
      busy = true;
      began = Date.now();
      load()
        .then((loaded) => over || (setValue(loaded), setError("")))
        .catch((failure: Error) => over || setError(failure.message))
        .finally(() => {
          busy = false;
          if (owed) soon();
          owed = false;
        });
    };
    const soon = () => {
      clearTimeout(timer);
      timer = window.setTimeout(run, Math.max(0, 1000 - (Date.now() - began)));
    };
    reload.current = run;
    run();
    const unsubscribe = live.subscribe(soon);
    return () => {
      over = true;
      clearTimeout(timer);
      unsubscribe();
    };
  }, keys);
  return { value, error, reload: () => reload.current() };
}
