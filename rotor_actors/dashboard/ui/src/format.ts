export function seconds(value: number): string {
  if (value < 0.001) return "0 ms";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} m ${Math.floor(value % 60)} s`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} m`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

export function time(value: number | null): string {
  if (value === null) return "–";
  const date = new Date(value * 1000);
  const today = new Date().toDateString() === date.toDateString();
  return today ? date.toLocaleTimeString() : date.toLocaleString();
}

export function iso(value: number | null): string {
  return value === null ? "" : new Date(value * 1000).toISOString();
}

export function took(from: number | null, to: number | null, now = Date.now() / 1000): string {
  return from === null ? "–" : seconds(Math.max(0, (to ?? now) - from));
}

export function short(id: string): string {
  return id.length > 16 ? `${id.slice(0, 13)}…` : id;
}
