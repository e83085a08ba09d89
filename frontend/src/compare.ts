/** Two segmenters: which latents were matched, and how alike the two of a pair are. */

import { json } from "./api";
import { figure, h, link, replace } from "./dom";
import { latentsOf, nameOf } from "./latents";
import { LongTable } from "./table";
import type { Column } from "./table";

interface Pairs {
  pairs: { source: number; target: number; correlation: number; shared: boolean | null }[];
  unmatched_source: number[];
  unmatched_target: number[];
}

export async function comparePage(page: HTMLElement, one: string, other: string): Promise<void> {
  const [pairs, ofOne, ofOther] = await Promise.all([
    json<Pairs>(`/compare/${one}/${other}`),
    latentsOf(one),
    latentsOf(other),
  ]);
  const at = (row: number): Pairs["pairs"][number] => pairs.pairs[row] as Pairs["pairs"][number];
  const columns: Column[] = [
    {
      name: "source",
      title: one,
      explained: `latent of ${one}`,
      value: (row) => at(row).source,
      shown: (row) => link(`/latents/${one}/${at(row).source}`, `${at(row).source}: ${nameOf(ofOne, at(row).source)}`),
    },
    {
      name: "target",
      title: other,
      explained: `latent of ${other}`,
      value: (row) => at(row).target,
      shown: (row) => link(`/latents/${other}/${at(row).target}`, `${at(row).target}: ${nameOf(ofOther, at(row).target)}`),
    },
    {
      name: "correlation",
      title: "correlation",
      explained: "of their codes on common slices",
      value: (row) => at(row).correlation,
      shown: (row) => figure(at(row).correlation),
    },
    {
      name: "shared",
      title: "paired by weights too",
      explained: "whether the paper's criterion pairs the same two",
      value: (row) => Number(at(row).shared ?? false),
      shown: (row) => (at(row).shared === null ? "–" : at(row).shared ? "yes" : "no"),
    },
  ];
  const count = h("span", { role: "status" });
  const table = new LongTable(columns, pairs.pairs.length, "correlation", (shown) => {
    count.textContent = `${shown} pairs; without a partner: ${pairs.unmatched_source.length} of ${one}, ${pairs.unmatched_target.length} of ${other}`;
  });
  replace(
    page,
    h("h1", {}, `${one} and ${other}`),
    h("p", { class: "quiet" }, "Latents matched one to one by how alike they fire on common slices."),
    count,
    table.element,
  );
}
