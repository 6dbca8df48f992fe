import { hierarchy, partition, type HierarchyRectangularNode } from "d3-hierarchy";
import { useMemo } from "preact/hooks";
import type { TreeNode } from "../api";
import { go } from "../router";

const WIDTH = 1200;
const LEVEL = 26;
const LEAST = 1.5;

interface Datum {
  node: TreeNode;
  children: Datum[];
}

/** The whole tree at one glance: each run is as wide as what it has below it. */
export function Icicle({ nodes }: { nodes: TreeNode[] }) {
  const root = useMemo(() => {
    const data: Datum[] = nodes.map((node) => ({ node, children: [] }));
    nodes.forEach((node, index) => node[1] >= 0 && data[node[1]]?.children.push(data[index]!));
    const tree = hierarchy(data[0]!).count();
    return partition<Datum>().size([WIDTH, (tree.height + 1) * LEVEL])(tree);
  }, [nodes]);
  const seen = root.descendants().filter((rect) => rect.x1 - rect.x0 >= LEAST);
  const hidden = nodes.length - seen.length;
  return (
    <>
      <svg class="icicle" viewBox={`0 0 ${WIDTH} ${(root.height + 1) * LEVEL}`} role="img" aria-label={`Tree of ${nodes.length} runs`}>
        {seen.map((rect) => (
          <Cell key={rect.data.node[0]} rect={rect} />
        ))}
      </svg>
      {hidden > 0 && <p class="dim">{hidden} runs are too narrow to be drawn; the list shows them.</p>}
    </>
  );
}

function Cell({ rect }: { rect: HierarchyRectangularNode<Datum> }) {
  const [run, , workflow, status, step] = rect.data.node;
  const width = rect.x1 - rect.x0;
  return (
    <g class="cell" onClick={() => go("run", { id: run })}>
      <title>{`${step ? `${step}: ` : ""}${workflow} · ${status}`}</title>
      <rect class={`f-${status}`} x={rect.x0} y={rect.y0} width={Math.max(1, width - 1)} height={LEVEL - 2} />
      {width > 60 && (
        <text x={rect.x0 + 4} y={rect.y0 + 16}>
          {(step || workflow).slice(0, Math.floor(width / 8))}
        </text>
      )}
    </g>
  );
}
