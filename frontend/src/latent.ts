/** One latent: what was measured, where it fires, what it resembles, what it is called. */

import { binary, forget, json, newest, send } from "./api";
import { figure, h, link, percent, put, replace, table, untilLeft, words } from "./dom";
import { surveyed } from "./latents";
import { draw } from "./picture";
import { savePng } from "./saving";

interface Given {
  name: string;
  who: string;
  confidence: number;
  when: string;
}

interface Page {
  segmenter: string;
  latent: number;
  hookpoint: string;
  facts: Record<string, number | string | boolean | null>;
  base_rates: Record<string, number>;
  given: Given | null;
  neighbours: { latent: number; cosine: number; name: string }[];
  partners: { segmenter: string; latent: number; correlation: number; shared_by_weight: boolean | null }[];
}

interface Examples {
  cohort: string;
  slices: { row: number; case: string }[];
  scale: number;
}

interface Strength {
  counts: number[];
  edges: number[];
  fires_in: number;
  of: number;
}

interface Effects {
  n_slices: number;
  classes: { label: string; before: number | null; after: number | null }[];
}

export async function latentPage(page: HTMLElement, segmenter: string, latent: number): Promise<void> {
  const place = `/segmenters/${segmenter}/latents/${latent}`;
  const left = untilLeft(page);
  const about = await json<Page>(place);
  const number = (name: string): number | null => about.facts[name] as number | null;
  const title = h("h1", {}, `${about.given?.name ?? String(about.facts["name"] ?? "never fires")} `);
  title.append(h("small", {}, `latent ${latent} of ${segmenter}`));
  const gallery = h("div", { class: "gallery", "aria-live": "polite" });
  const kinds = h(
    "fieldset",
    { class: "choice" },
    h("legend", {}, "Examples"),
    ...(["top", "middle", "random"] as const).map((kind) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name: "kind", value: kind, checked: kind === "top", input: () => void show(kind) }),
        { top: " strongest", middle: " from the middle of its range", random: " any slices" }[kind],
      ),
    ),
  );
  const turn = newest();
  const show = async (kind: string): Promise<void> => {
    const current = turn();
    const reading = h("p", { class: "quiet" }, "reading …");
    replace(gallery, reading);
    const answer = examples(segmenter, latent, kind, left);
    const waited = kind === "middle" ? surveyed(segmenter, reading, answer) : answer;
    const shown = await waited.catch((error: Error) => [error.message]);
    if (current()) replace(gallery, ...shown);
  };
  const effects = h("div", { class: "quiet" }, "running the network without it …");
  const strength = h("div", { class: "quiet" }, "measuring how strongly it fires …");
  replace(
    page,
    h("p", {}, link(`/latents/${segmenter}`, `← latents of ${segmenter}`)),
    title,
    naming(about),
    kinds,
    gallery,
    h(
      "div",
      { class: "columns" },
      h(
        "section",
        {},
        h("h2", {}, "Measured"),
        table(
          ["class", "share of its mass", "of all pixels", "lift"],
          Object.entries(about.base_rates).map(([label, rate]) => [
            words(label),
            percent(number(`p_${label}`)),
            percent(rate),
            figure(number(`lift_${label}`), 1),
          ]),
        ),
        table(
          ["measure", "value"],
          [
            ["fires at (share of tokens)", `${(100 * (number("firing_rate") ?? 0)).toFixed(2)}%`],
            ["mean code where it fires", figure(number("mean_activation"))],
            ["inside the lesion", percent(number("inside"))],
            ["on a border of labels", percent(number("boundary"))],
            ["at the edge of the brain", percent(number("edge"))],
            ["depth (0 superficial, 1 deepest)", figure(number("depth"))],
            ["spatial entropy (nats)", figure(number("entropy"))],
            ["side", String(about.facts["side"] ?? "–")],
          ],
        ),
      ),
      h(
        "section",
        {},
        h("h2", {}, "Without it"),
        effects,
        h("h2", {}, "How strongly"),
        strength,
        h("h2", {}, "Partners in other segmenters"),
        h("p", { class: "quiet" }, "Matched by the correlation of codes on common slices."),
        table(
          ["segmenter", "latent", "correlation", "paired by weights too"],
          about.partners.map((partner) => [
            partner.segmenter,
            link(`/latents/${partner.segmenter}/${partner.latent}`, partner.latent),
            figure(partner.correlation),
            partner.shared_by_weight === null ? "does not apply" : partner.shared_by_weight ? "yes" : "no",
          ]),
        ),
        h("h2", {}, "Nearest here"),
        h("p", { class: "quiet" }, "By the cosine of decoder directions."),
        table(
          ["latent", "name", "cosine"],
          about.neighbours.map((other) => [
            link(`/latents/${segmenter}/${other.latent}`, other.latent),
            other.name,
            figure(other.cosine),
          ]),
        ),
      ),
    ),
  );
  put(
    page,
    h("h2", {}, "Share"),
    h("p", { class: "quiet" }, "As one HTML file that needs no explorer and no network (several latents by commas):"),
    h("pre", { class: "sideways", tabindex: 0 }, `seglens explore RUN --save latents.html --latents '${segmenter}:${latent}'`),
  );
  await show("top");
  if (!page.isConnected) return; // it was left meanwhile
  void later(segmenter, place, strength, effects, left); // they run the network over many slices; the rest can be looked at meanwhile
}

async function later(
  segmenter: string,
  place: string,
  strength: HTMLElement,
  effects: HTMLElement,
  left: AbortSignal,
): Promise<void> {
  try {
    const lost = await json<Effects>(`${place}/effects`, left);
    effects.className = "";
    replace(
      effects,
      table(
        ["class", "Dice with it", "zeroed"],
        lost.classes.map((own) => [words(own.label), figure(own.before, 3), figure(own.after, 3)]),
        `Pooled over the ${lost.n_slices} slices where it is strongest`,
      ),
    );
    const fires = await surveyed(segmenter, strength, json<Strength>(`${place}/strength`, left));
    strength.className = "";
    replace(strength, histogram(fires));
  } catch (error) {
    for (const part of [effects, strength]) if (!part.querySelector("figure, table")) replace(part, (error as Error).message);
  }
}

/** Slices with the latent's heat map. */
async function examples(segmenter: string, latent: number, kind: string, left: AbortSignal): Promise<HTMLElement[]> {
  const path = `/segmenters/${segmenter}/latents/${latent}/examples?kind=${kind}`;
  const { arrays, meta } = await binary<Examples>(path, undefined, left);
  const [images, masks, maps] = [arrays["images"], arrays["masks"], arrays["maps"]];
  if (!images || !masks || !maps || !meta.slices.length) {
    return [h("p", { class: "quiet" }, "It fires in none of these slices.")];
  }
  const [, rows, columns] = images.shape as [number, number, number];
  const [, high, wide] = maps.shape as [number, number, number];
  return meta.slices.map((slice, place) => {
    const canvas = h("canvas", { role: "img", "aria-label": `${slice.case}, heat map of latent ${latent}` });
    draw(
      canvas,
      {
        grey: images.values.subarray(place * rows * columns, (place + 1) * rows * columns) as Uint8Array,
        size: [rows, columns],
        outlines: [
          { mask: masks.values.subarray(place * rows * columns, (place + 1) * rows * columns) as Uint8Array, solid: true },
        ],
        heat: {
          map: maps.values.subarray(place * high * wide, (place + 1) * high * wide) as Float32Array,
          grid: [high, wide],
          scale: meta.scale,
          opacity: 0.6,
        },
      },
      2,
    );
    const target = `/case/${meta.cohort}/${slice.row}?segmenter=${encodeURIComponent(segmenter)}&latents=${latent}`;
    return h("figure", {}, link(target, canvas), h("figcaption", {}, `${slice.case} `, savePng(canvas, `${segmenter}-${latent}-${slice.case}-${slice.row}`)));
  });
}

function histogram(strength: Strength): HTMLElement {
  const most = Math.max(...strength.counts, 1);
  const bars = strength.counts.map((count, bin) => {
    const bar = h("span", { title: `${count} slices from ${figure(strength.edges[bin])}` });
    bar.style.height = `${(100 * count) / most}%`;
    return bar;
  });
  const last = strength.edges[strength.edges.length - 1];
  return h(
    "figure",
    {},
    h("div", { class: "bars", role: "img", "aria-label": "Histogram of its mass by slice" }, ...bars),
    h("figcaption", {}, `Sum of codes a slice, 0 to ${figure(last)}; fires in ${strength.fires_in} of ${strength.of} slices.`),
  );
}

function naming(about: Page): HTMLElement {
  const name = h("input", { id: "name", maxlength: 120, value: about.given?.name ?? "" });
  const who = h("input", { id: "who", maxlength: 120, value: about.given?.who ?? "" });
  const sure = h("input", { id: "sure", type: "range", min: 0, max: 1, step: 0.1, value: about.given?.confidence ?? 0.8 });
  const told = h("span", { role: "status" });
  const path = `/segmenters/${about.segmenter}/latents/${about.latent}/name`;
  const save = async (event: Event): Promise<void> => {
    event.preventDefault();
    try {
      if (name.value.trim()) {
        await send("PUT", path, { name: name.value.trim(), who: who.value.trim(), confidence: Number(sure.value) });
        told.textContent = "kept in the run's names.json";
      } else {
        await send("DELETE", path);
        told.textContent = "back to the name by rule";
      }
      forget(`latents/${about.segmenter}`);
    } catch (error) {
      told.textContent = (error as Error).message;
    }
  };
  return h(
    "details",
    {},
    h(
      "summary",
      {},
      about.given
        ? `Named by ${about.given.who || "somebody"}, ${about.given.when.slice(0, 10)}, sure to ${percent(about.given.confidence)}`
        : "Named by rule; give it a name",
    ),
    h(
      "form",
      { class: "controls", submit: (event) => void save(event) },
      h("label", {}, "Name ", name),
      h("label", {}, "By ", who),
      h("label", {}, "Sure ", sure),
      h("button", {}, "Keep"),
      told,
    ),
  );
}
