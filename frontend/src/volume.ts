/** A whole volume in three planes that are linked, and its way to and from the slices that the run holds. */

import { bytes, newest } from "./api";
import { cohortOf } from "./cases";
import type { SliceEntry } from "./cases";
import { h, link, replace, untilLeft, words } from "./dom";
import { classColour } from "./picture";
import type { Label, Voxel } from "./viewer";

const VIEWER = "/static/viewer.js";
const AXES = [
  ["right", "To the patient's right"],
  ["front", "To the front"],
  ["top", "To the top"],
] as const;
const STEPS = 256;

export async function volumePage(page: HTMLElement, cohortName: string, row: number, query: URLSearchParams): Promise<void> {
  if (!document.createElement("canvas").getContext("webgl2")) {
    throw new Error("This browser has no WebGL 2, by which volumes are drawn; slices need none.");
  }
  const cohort = await cohortOf(cohortName, query.get("segmenter") ?? "");
  const entry = cohort.slices[row];
  if (!entry) throw new Error(`${cohortName} has slices 0 to ${cohort.slices.length - 1}, not ${row}`);
  const own = cohort.slices.filter((slice) => slice.case === entry.case);
  const path = `/cohorts/${cohortName}/volumes/${encodeURIComponent(entry.case)}`;
  const labels: Label[] = Object.entries(cohort.labels)
    .map(([value, name]) => ({ value: Number(value), name: words(name), colour: classColour(Number(value)) }))
    .filter(({ value }) => value > 0);
  const [{ Viewer, VIEWS }, mask] = await Promise.all([
    import(VIEWER) as Promise<typeof import("./viewer")>,
    bytes(`${path}/mask`),
  ]);

  const sequence = h("select", { id: "sequence" }, ...cohort.sequences.map((name) => h("option", { value: name }, name)));
  const wanted = query.get("sequence");
  if (wanted && cohort.sequences.includes(wanted)) sequence.value = wanted;
  const view = h("select", { id: "view" }, ...Object.keys(VIEWS).map((name) => h("option", { value: name }, name)));
  const opacity = h("input", { type: "range", id: "opacity", min: 0, max: 1, step: 0.05, value: 0.5 });
  const black = h("input", { type: "range", id: "black", min: 0, max: STEPS, step: 1, value: 0 });
  const white = h("input", { type: "range", id: "white", min: 0, max: STEPS, step: 1, value: STEPS });
  const places = AXES.map(([id]) => h("input", { type: "range", id, min: 0, step: 1, value: 0 }));
  const canvas = h("canvas", {
    role: "img",
    tabindex: 0,
    "aria-label": "axial, coronal and sagittal slices through the crosshair, with the mask in colours",
  });
  const here = h("p", { id: "here" });
  const told = h("p", { role: "status", class: "quiet" }, "Reading the volume …");

  const caseLink = ({ row: to, position }: SliceEntry, text: string): HTMLAnchorElement => {
    const kept = new URLSearchParams([...query].filter(([name]) => name === "segmenter" || name === "latents"));
    return link(`/case/${cohortName}/${to}${kept.size ? `?${kept}` : ""}`, `${text} ${position}`);
  };
  const moved = (voxel: Voxel, values: number[]): void => {
    for (const [axis, place] of places.entries()) place.value = String(voxel[axis]);
    const nearest = [...own].sort((a, b) => Math.abs(a.position - voxel[2]) - Math.abs(b.position - voxel[2]))[0];
    if (!nearest) return;
    const label = labels.find(({ value }) => value === Math.round(values[1] ?? 0));
    replace(
      here,
      `Crosshair at column ${voxel[0]}, row ${voxel[1]}, slice ${voxel[2]}: ${Number((values[0] ?? 0).toFixed(3))}`,
      label ? `, ${label.name}. ` : ". ",
      nearest.position === voxel[2]
        ? caseLink(nearest, "As the network sees it: slice")
        : caseLink(nearest, `The run holds no slice ${voxel[2]} of this volume; the nearest is`),
    );
  };

  replace(
    page,
    h("p", {}, caseLink(entry, "← slice")),
    h("h1", {}, `${entry.case} `, h("small", {}, `${cohortName}, the whole volume`)),
    h(
      "div",
      { class: "controls" },
      h("label", {}, "Sequence ", sequence),
      h("label", {}, "View ", view),
      h("label", {}, "Mask ", opacity),
      h("label", {}, "Black ", black),
      h("label", {}, "White ", white),
    ),
    h("div", { class: "controls" }, ...AXES.map(([, title], axis) => h("label", {}, `${title} `, places[axis]))),
    h(
      "figure",
      {},
      h("div", { class: "volume" }, canvas),
      h(
        "figcaption",
        {},
        "Radiological convention, by the file's own affine: seen from the feet and from the front, so in the axial and ",
        "the coronal picture the patient's right (R) is at the left and the patient's left (L) at the right. In the ",
        "sagittal picture the front (A) is at the left.",
      ),
    ),
    h("ul", { class: "chips" }, ...labels.map(({ name, colour }) => h("li", {}, swatch(colour), name, " "))),
    here,
    told,
  );
  if (!page.isConnected) return; // it was left meanwhile
  const viewer = new Viewer(canvas, moved);
  untilLeft(page).addEventListener("abort", () => viewer.close()); // it gives back what the graphics card holds
  await viewer.open(mask, labels, Number(opacity.value));

  let range: [number, number] = [0, 1];
  const turn = newest();
  const show = async (): Promise<void> => {
    const current = turn();
    const image = await bytes(`${path}/images/${encodeURIComponent(sequence.value)}`);
    if (!current()) return;
    const shown = await viewer.show(image);
    range = shown.range;
    const steps = STEPS / (range[1] - range[0] || 1);
    black.value = String((shown.window[0] - range[0]) * steps);
    white.value = String((shown.window[1] - range[0]) * steps);
    page.dataset["sequence"] = sequence.value;
  };
  await show();
  replace(told);
  const size = viewer.size();
  for (const [axis, place] of places.entries()) place.max = String((size[axis] as number) - 1);
  viewer.place(viewer.middle(entry.position));

  sequence.addEventListener("input", () => {
    const kept = new URLSearchParams(location.search);
    kept.set("sequence", sequence.value);
    history.replaceState(null, "", `${location.pathname}?${kept}`);
    show().then(
      () => replace(told),
      (error: Error) => replace(told, error.message),
    );
  });
  view.addEventListener("input", () => viewer.view(view.value as keyof typeof VIEWS));
  opacity.addEventListener("input", () => viewer.opacity(Number(opacity.value)));
  const step = (): number => (range[1] - range[0]) / STEPS;
  const drawWindow = (): void => {
    const low = range[0] + step() * Number(black.value);
    viewer.window(low, Math.max(range[0] + step() * Number(white.value), low + step()));
  };
  let waiting = false;
  for (const control of [black, white]) {
    control.addEventListener("input", () => {
      // once a frame, or without a graphics card the pictures come long after the hand
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        drawWindow();
      });
    });
  }
  for (const place of places) {
    place.addEventListener("input", () => viewer.place(places.map((own) => Number(own.value)) as Voxel));
  }
}

function swatch(colour: string): HTMLElement {
  const own = h("span", { class: "swatch" });
  own.style.background = colour;
  return own;
}
