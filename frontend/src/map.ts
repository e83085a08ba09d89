/** Latents in two dimensions, all of them: coloured by any column, chosen by drawing around them. */

import { binary } from "./api";
import type { Packed } from "./api";
import { h, link, percent, replace, untilLeft, words } from "./dom";
import { latentsOf, nameOf, surveyed } from "./latents";
import type { LatentsMeta } from "./latents";
import { ramp } from "./picture";
import { saveFile, savePng } from "./saving";

const SIZE = 720;
const MARGIN = 20;

export async function mapPage(page: HTMLElement, segmenter: string, query: URLSearchParams): Promise<void> {
  const of = query.get("of") === "codes" ? "codes" : "decoder";
  const reading = h("p", { class: "quiet", role: "status" }, "reading …");
  replace(page, reading);
  const [latents, map] = await Promise.all([
    latentsOf(segmenter),
    surveyed(segmenter, reading, binary<{ explained: number }>(`/segmenters/${segmenter}/map?of=${of}`, undefined, untilLeft(page))),
  ]);
  const places = map.arrays["places"]?.values as Float32Array;
  const n = places.length / 2;
  const points = scaled(places);
  const canvas = h("canvas", { width: SIZE, height: SIZE, role: "img", tabindex: 0, "aria-label": `map of ${n} latents; arrow keys go from point to point` });
  const numeric = Object.keys(latents.arrays).filter((name) => {
    const values = latents.arrays[name]?.values;
    return values instanceof Float32Array && values.some((value) => !Number.isNaN(value));
  });
  const colour = h("select", { id: "colour" }, ...numeric.map((name) => h("option", { value: name }, words(name))));
  const wanted = query.get("colour") ?? "inside";
  colour.value = numeric.includes(wanted) ? wanted : "mass"; // no latent may have that number (yet)
  const source = h(
    "select",
    { id: "of" },
    h("option", { value: "decoder" }, "decoder directions"),
    h("option", { value: "codes" }, "codes on slices"),
  );
  source.value = of;
  source.addEventListener("input", () => location.assign(`${location.pathname}?of=${source.value}`));
  const key = h("p", { class: "quiet" });
  const chosen = h("div", {}, h("p", { class: "quiet" }, "Draw around points to list them, or click one."));
  let ring: [number, number][] = [];
  let kept = new Set<number>();

  /** What a latent's point is filled with: the ramp between the 2nd and the 98th percentile. */
  const colours = (): { fill: (latent: number) => string; low: number; high: number } => {
    const values = latents.arrays[colour.value]?.values as Float32Array;
    const known = values.filter((value) => !Number.isNaN(value)).sort();
    const low = known[Math.floor(0.02 * known.length)] ?? 0;
    const high = known[Math.floor(0.98 * (known.length - 1))] ?? 1;
    const fill = (latent: number): string => {
      const value = values[latent] as number;
      return Number.isNaN(value) ? "#5b6570" : ramp((value - low) / Math.max(high - low, 1e-12));
    };
    return { fill, low, high };
  };

  const svg = (): void => {
    const { fill } = colours();
    const drawn: string[] = [];
    for (let latent = 0; latent < n; latent++) {
      const [x, y] = [points[2 * latent] as number, points[2 * latent + 1] as number];
      if (Number.isNaN(x)) continue;
      drawn.push(`<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${kept.has(latent) ? 4 : 2.5}" fill="${fill(latent)}"/>`);
    }
    const text = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${SIZE} ${SIZE}"><rect width="${SIZE}" height="${SIZE}" fill="#0d1116"/>${drawn.join("")}</svg>\n`;
    saveFile(new Blob([text], { type: "image/svg+xml" }), `map-${segmenter}.svg`);
  };
  const asSvg = h("button", { type: "button", click: svg, "aria-label": "save the map as SVG" }, "SVG");

  const paint = (): void => {
    const context = canvas.getContext("2d");
    if (!context) return;
    const { fill, low, high } = colours();
    context.fillStyle = "#0d1116";
    context.fillRect(0, 0, SIZE, SIZE);
    for (let latent = 0; latent < n; latent++) {
      const [x, y] = [points[2 * latent] as number, points[2 * latent + 1] as number];
      if (Number.isNaN(x)) continue;
      context.fillStyle = fill(latent);
      context.globalAlpha = kept.size && !kept.has(latent) ? 0.25 : 0.9;
      context.beginPath();
      context.arc(x, y, kept.has(latent) ? 4 : 2.5, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
    if (kept.size === 1) {
      const [only] = kept as Set<number>;
      context.strokeStyle = "#ffffff";
      context.beginPath();
      context.arc(points[2 * (only as number)] as number, points[2 * (only as number) + 1] as number, 9, 0, 2 * Math.PI);
      context.stroke();
    }
    if (ring.length > 1) {
      context.strokeStyle = "#ffffff";
      context.beginPath();
      for (const [at, [x, y]] of ring.entries()) at ? context.lineTo(x, y) : context.moveTo(x, y);
      context.closePath();
      context.stroke();
    }
    key.textContent = `${words(colour.value)}: ${low.toPrecision(2)} dark to ${high.toPrecision(2)} bright (2nd to 98th percentile); grey has none.`;
  };

  const at = (event: PointerEvent): [number, number] => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIZE, ((event.clientY - box.top) / box.height) * SIZE];
  };
  canvas.addEventListener("pointerdown", (event) => {
    ring = [at(event)];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    ring.push(at(event));
    paint();
  });
  canvas.addEventListener("pointerup", (event) => {
    const end = at(event);
    const span = Math.max(...ring.map(([x, y]) => Math.hypot(x - end[0], y - end[1])));
    kept = new Set(span < 5 ? nearest(points, end) : inside(points, ring));
    list(chosen, latents, segmenter, [...kept]);
    paint();
  });
  canvas.addEventListener("keydown", (event) => {
    const [only] = kept;
    if (event.key === "Enter" && kept.size === 1) chosen.querySelector("a")?.click();
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!way) return;
    event.preventDefault();
    const next = towards(points, only ?? -1, way as [number, number]);
    if (next < 0) return;
    ring = [];
    kept = new Set([next]);
    list(chosen, latents, segmenter, [next]);
    paint();
  });
  colour.addEventListener("input", paint);
  replace(
    page,
    h("p", {}, link(`/latents/${segmenter}`, `← latents of ${segmenter}`)),
    h("h1", {}, `Map of ${segmenter}`),
    h(
      "p",
      { class: "quiet" },
      `All ${n} latents along two principal components, which explain ${percent(map.meta.explained)} of the differences: `,
      "far apart means different, near each other may still differ in what is not drawn.",
    ),
    h("div", { class: "controls" }, h("label", {}, "Places by ", source), h("label", {}, "Colour by ", colour), savePng(canvas, `map-${segmenter}`), asSvg),
    h("div", { class: "columns" }, h("div", {}, canvas, key), h("section", {}, h("h2", {}, "Chosen"), chosen)),
  );
  paint();
}

function scaled(places: Float32Array): Float32Array {
  const points = new Float32Array(places.length);
  for (const axis of [0, 1]) {
    let [low, high] = [Infinity, -Infinity];
    for (let at = axis; at < places.length; at += 2) {
      const value = places[at] as number;
      if (Number.isNaN(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    for (let at = axis; at < places.length; at += 2) {
      points[at] = MARGIN + (((places[at] as number) - low) / Math.max(high - low, 1e-12)) * (SIZE - 2 * MARGIN);
    }
  }
  return points;
}

function nearest(points: Float32Array, [x, y]: [number, number]): number[] {
  let [best, distance] = [-1, 8];
  for (let at = 0; at < points.length; at += 2) {
    const own = Math.hypot((points[at] as number) - x, (points[at + 1] as number) - y);
    if (own < distance) [best, distance] = [at / 2, own];
  }
  return best < 0 ? [] : [best];
}

/** The nearest point in a direction (more that way than aside), from one point or from the middle; -1 where none is. */
function towards(points: Float32Array, from: number, [right, down]: [number, number]): number {
  const [x, y] = from < 0 ? [SIZE / 2, SIZE / 2] : [points[2 * from] as number, points[2 * from + 1] as number];
  let [best, distance] = [-1, Infinity];
  for (let at = 0; at < points.length; at += 2) {
    const [dx, dy] = [(points[at] as number) - x, (points[at + 1] as number) - y];
    const ahead = dx * right + dy * down;
    const aside = Math.abs(dx * down) + Math.abs(dy * right);
    const own = ahead + 2 * aside;
    if (ahead > 0 && aside <= ahead && at / 2 !== from && own < distance) [best, distance] = [at / 2, own];
  }
  return best;
}

/** Points inside a drawn ring: an odd number of its sides lies to their right. */
function inside(points: Float32Array, ring: [number, number][]): number[] {
  const found: number[] = [];
  for (let at = 0; at < points.length; at += 2) {
    const [x, y] = [points[at] as number, points[at + 1] as number];
    let odd = false;
    for (let one = 0, other = ring.length - 1; one < ring.length; other = one++) {
      const [[ax, ay], [bx, by]] = [ring[one] as [number, number], ring[other] as [number, number]];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
    }
    if (odd) found.push(at / 2);
  }
  return found;
}

function list(target: HTMLElement, latents: Packed<LatentsMeta>, segmenter: string, chosen: number[]): void {
  const mass = latents.arrays["mass"]?.values as Float32Array;
  chosen.sort((a, b) => (mass[b] as number) - (mass[a] as number));
  replace(
    target,
    h("p", { class: "quiet" }, chosen.length ? `${chosen.length} latents, by mass.` : "None."),
    h(
      "ul",
      { class: "offered scroll" },
      ...chosen.map((latent) => h("li", {}, link(`/latents/${segmenter}/${latent}`, latent), ` ${nameOf(latents, latent)}`)),
    ),
  );
}
