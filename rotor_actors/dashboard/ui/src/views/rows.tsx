import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";

interface Props {
  height: number;
  count: number;
  label: string;
  role: "tree" | "list";
  children: (index: number) => ComponentChildren;
}

/** A long list of rows of one height, of which only those in sight are in the page. */
export function Rows({ height, count, label, role, children }: Props) {
  const [top, setTop] = useState(0);
  const box = useRef<HTMLDivElement>(null);
  const shown = Math.ceil((box.current?.clientHeight ?? 640) / height) + 2;
  const first = Math.max(0, Math.min(Math.floor(top / height) - 1, count - shown));
  const last = Math.min(count, first + shown + 2);
  const indexes = Array.from({ length: Math.max(0, last - first) }, (_, at) => first + at);
  return (
    <div class="rows" ref={box} tabIndex={0} role={role} aria-label={label} onScroll={(event) => setTop(event.currentTarget.scrollTop)}>
      <div style={{ height: `${first * height}px` }} />
      {indexes.map(children)}
      <div style={{ height: `${(count - last) * height}px` }} />
    </div>
  );
}
