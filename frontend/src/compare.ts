/** Two segmenters: which latents were matched, and how alike the two of a pair are. */

import { binary, json, newest } from "./api";
import type { Packed } from "./api";
import { figure, h, link, replace } from "./dom";
import { latentsOf, nameOf } from "./latents";
import type { LatentsMeta } from "./latents";
import { draw } from "./picture";
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
      width: "minmax(320px, 3fr)",
      value: (row) => at(row).source,
      shown: (row) => link(`/latents/${one}/${at(row).source}`, `${at(row).source}: ${nameOf(ofOne, at(row).source)}`),
    },
    {
      name: "target",
      title: other,
      explained: `latent of ${other}`,
      width: "minmax(320px, 3fr)",
      value: (row) => at(row).target,
      shown: (row) => link(`/latents/${other}/${at(row).target}`, `${at(row).target}: ${nameOf(ofOther, at(row).target)}`),
    },
    {
      name: "correlation",
      title: "correlation",
      explained: "of their codes on common slices",
      width: "140px",
      value: (row) => at(row).correlation,
      shown: (row) =>
        h("button", { type: "button", title: "both on one slice", click: () => void both(row) }, `${figure(at(row).correlation)} ◉`),
    },
    {
      name: "shared",
      title: "paired by weights too",
      explained: "whether the paper's criterion pairs the same two",
      width: "200px",
      value: (row) => Number(at(row).shared ?? false),
      shown: (row) => (at(row).shared === null ? "–" : at(row).shared ? "yes" : "no"),
    },
  ];
  const seen = h("div", { class: "pictures", "aria-live": "polite" }, h("p", { class: "quiet" }, "◉ shows both latents of a pair on one slice."));
  const turn = newest();
  const both = async (row: number): Promise<void> => {
    const current = turn();
    const { source, target } = at(row);
    const strongest = await binary<{ cohort: string; slices: { row: number; case: string }[] }>(
      `/segmenters/${one}/latents/${source}/examples`,
    );
    const slice = strongest.meta.slices[0];
    if (!slice) return;
    const pictures = [];
    for (const [name, latent] of [[one, source], [other, target]] as const) {
      const canvas = h("canvas", { role: "img", "aria-label": `latent ${latent} of ${name} on ${slice.case}` });
      await drawn(canvas, name, latent, strongest.meta.cohort, slice.row);
      const to = `/case/${strongest.meta.cohort}/${slice.row}?segmenter=${encodeURIComponent(name)}&latents=${latent}`;
      pictures.push(h("figure", {}, link(to, canvas), h("figcaption", {}, `${name}, latent ${latent} on ${slice.case}`)));
    }
    if (current()) replace(seen, ...pictures);
  };
  const count = h("p", { role: "status" });
  const table = new LongTable(columns, pairs.pairs.length, "correlation", (shown) => {
    count.textContent = `${shown} pairs; without a partner: ${pairs.unmatched_source.length} of ${one}, ${pairs.unmatched_target.length} of ${other}`;
  });
  replace(
    page,
    h("h1", {}, `${one} and ${other}`),
    h("p", { class: "quiet" }, "Latents matched one to one by how alike they fire on common slices."),
    seen,
    count,
    table.element,
    h("h2", {}, "Without a partner"),
    h(
      "div",
      { class: "columns" },
      alone(one, ofOne, pairs.unmatched_source),
      alone(other, ofOther, pairs.unmatched_target),
    ),
  );
}

/** The latents of a segmenter that were matched with none, those with most mass first. */
function alone(segmenter: string, latents: Packed<LatentsMeta>, unmatched: number[]): HTMLElement {
  const mass = latents.arrays["mass"]?.values as Float32Array;
  const heavy = (latent: number): number => mass[latent] || 0; // dead ones have none
  const sorted = [...unmatched].sort((a, b) => heavy(b) - heavy(a));
  return h(
    "section",
    {},
    h("h3", {}, `${sorted.length} of ${segmenter}`),
    h(
      "ul",
      { class: "offered scroll", tabindex: 0, "aria-label": `latents of ${segmenter} without a partner` },
      ...sorted.map((latent) => h("li", {}, link(`/latents/${segmenter}/${latent}`, latent), ` ${nameOf(latents, latent)}`)),
    ),
  );
}

async function drawn(canvas: HTMLCanvasElement, segmenter: string, latent: number, cohort: string, row: number): Promise<void> {
  const [slice, heat] = await Promise.all([
    binary(`/cohorts/${cohort}/slices/${row}`),
    binary<{ scale: number }>(`/segmenters/${segmenter}/slices/${cohort}/${row}/heat/${latent}`),
  ]);
  const [images, mask, map] = [slice.arrays["images"], slice.arrays["mask"], heat.arrays["map"]];
  if (!images || !mask || !map) return;
  const size = images.shape.slice(1) as [number, number];
  draw(canvas, {
    grey: images.values.subarray(0, size[0] * size[1]) as Uint8Array,
    size,
    outlines: [{ mask: mask.values as Uint8Array, solid: true }],
    heat: { map: map.values as Float32Array, grid: map.shape as [number, number], scale: heat.meta.scale, opacity: 0.6 },
  });
}
