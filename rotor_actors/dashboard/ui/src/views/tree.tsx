import { useMemo, useState } from "preact/hooks";
import { get, type Status, type TreeNode } from "../api";
import { useLive } from "../live";
import { runLink } from "../router";
import { took } from "../format";
import { Badge, Loading, Problem } from "../ui";
import { Icicle } from "./icicle";
import { Rows } from "./rows";

const ROW = 28;

interface Line {
  index: number;
  depth: number;
}

interface Shape {
  children: number[][];
  counts: Partial<Record<Status, number>>[];
  below: number[];
}

/** Children of each node and status counts of each subtree. Parents come before their children in `nodes`. */
function shape(nodes: TreeNode[]): Shape {
  const children: number[][] = nodes.map(() => []);
  const counts: Partial<Record<Status, number>>[] = nodes.map(() => ({}));
  const below = nodes.map(() => 0);
  nodes.forEach((node, index) => node[1] >= 0 && children[node[1]]?.push(index));
  for (let index = nodes.length - 1; index >= 0; index -= 1) {
    const node = nodes[index]!;
    const own = counts[index]!;
    own[node[3]] = (own[node[3]] ?? 0) + 1;
    if (node[1] < 0) continue;
    below[node[1]]! += below[index]! + 1;
    const above = counts[node[1]]!;
    for (const [status, count] of Object.entries(own) as [Status, number][]) above[status] = (above[status] ?? 0) + count;
  }
  return { children, counts, below };
}

function visible(tree: Shape, open: (index: number, depth: number) => boolean): Line[] {
  const lines: Line[] = [];
  const todo: Line[] = tree.children.length ? [{ index: 0, depth: 0 }] : [];
  while (todo.length) {
    const line = todo.pop()!;
    lines.push(line);
    if (open(line.index, line.depth)) {
      const below = tree.children[line.index]!;
      for (let at = below.length - 1; at >= 0; at -= 1) todo.push({ index: below[at]!, depth: line.depth + 1 });
    }
  }
  return lines;
}

export function TreeView({ id }: { id: string }) {
  const loaded = useLive(() => get<{ nodes: TreeNode[]; left_out: number }>("tree", { id }), [id]);
  const [toggled, setToggled] = useState<Set<string>>(new Set());
  const [picture, setPicture] = useState(false);
  const nodes = loaded.value?.nodes ?? [];
  const tree = useMemo(() => shape(nodes), [nodes]);
  const big = nodes.length > 300;
  const isOpen = (index: number, depth: number) => (big ? depth < 1 : true) !== toggled.has(nodes[index]![0]);
  const lines = useMemo(() => visible(tree, isOpen), [tree, toggled]);
  if (loaded.value === null) return loaded.error ? <Problem text={loaded.error} /> : <Loading of="the tree" />;
  const toggle = (run: string) => {
    const next = new Set(toggled);
    if (!next.delete(run)) next.add(run);
    setToggled(next);
  };
  return (
    <>
      <div class="actions">
        <button type="button" aria-pressed={picture} onClick={() => setPicture(!picture)}>
          {picture ? "Show as list" : "Show as picture"}
        </button>
        <span class="dim">
          {nodes.length} runs{loaded.value.left_out ? `, ${loaded.value.left_out} left out` : ""}
        </span>
      </div>
      {picture ? (
        <Icicle nodes={nodes} />
      ) : (
        <Rows height={ROW} count={lines.length} label="Run tree" role="tree">
          {(at) => <Row key={at} line={lines[at]!} nodes={nodes} tree={tree} open={isOpen} toggle={toggle} />}
        </Rows>
      )}
    </>
  );
}

interface RowProps {
  line: Line;
  nodes: TreeNode[];
  tree: Shape;
  open: (index: number, depth: number) => boolean;
  toggle: (run: string) => void;
}

function Row({ line, nodes, tree, open, toggle }: RowProps) {
  const [run, , workflow, status, step, , started, ended, attempt] = nodes[line.index]!;
  const below = tree.below[line.index]!;
  const expanded = below ? open(line.index, line.depth) : undefined;
  return (
    <div class="treerow" role="treeitem" aria-level={line.depth + 1} aria-expanded={expanded} style={{ paddingLeft: `${line.depth * 18}px` }}>
      {below ? (
        <button type="button" class="twist" aria-label={expanded ? `collapse ${workflow}` : `expand ${workflow}`} onClick={() => toggle(run)}>
          {expanded ? "▾" : "▸"}
        </button>
      ) : (
        <span class="twist" />
      )}
      <Badge status={status} />
      <a href={runLink(run)} title={run}>
        {step ? `${step}: ${workflow}` : workflow}
      </a>
      <span class="dim number">{took(started, ended)}</span>
      {attempt > 1 && <span class="dim">attempt {attempt}</span>}
      {below > 0 && <Counts counts={tree.counts[line.index]!} below={below} />}
    </div>
  );
}

function Counts({ counts, below }: { counts: Partial<Record<Status, number>>; below: number }) {
  const said = Object.entries(counts)
    .map(([status, count]) => `${count} ${status}`)
    .join(", ");
  return (
    <span class="dim counts" title={`in all: ${said}`}>
      {below} below: {said}
    </span>
  );
}
