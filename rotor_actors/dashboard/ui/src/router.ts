import { useEffect, useState } from "preact/hooks";

// Addresses live behind the '#': the server has one page, whatever it is mounted at.
export interface Route {
  view: string;
  query: URLSearchParams;
}

/** Where the page is now, be it rendered already or not. */
export function read(): Route {
  const [view = "", search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { view: view || "runs", query: new URLSearchParams(search) };
}

export function useRoute(): Route {
  const [route, set] = useState(read);
  useEffect(() => {
    const changed = () => {
      set(read());
      document.getElementById("main")?.focus({ preventScroll: true });
      scrollTo(0, 0);
    };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

export function link(view: string, query: Record<string, string> = {}): string {
  const kept = Object.entries(query).filter(([, value]) => value !== "");
  const search = new URLSearchParams(kept).toString();
  return `#/${view}${search ? `?${search}` : ""}`;
}

export function go(view: string, query: Record<string, string> = {}): void {
  location.hash = link(view, query);
}

export const runLink = (id: string) => link("run", { id });
