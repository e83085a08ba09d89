/** All latents of a segmenter: a table that sorts and filters here, in the page. */

import { binary, json, once } from "./api";
import type { Packed } from "./api";
import { figure, h, link, percent, replace, words } from "./dom";
import { LongTable } from "./table";
import type { Column } from "./table";

export interface LatentsMeta {
  columns: Record<string, { words?: string[] }>;
  given: Record<string, string>;
  labels: string[];
  /** Other segmenters that its latents are compared with by weight; a column `partner_NAME` each. */
  partners: string[];
  /** Whose unseen slices the latents were measured on, and on how many of them their effects on Dice are compared. */
  cohort: string;
  compared_on: number;
  /** Latents whose effects are known by now, though of a class that is nowhere there is none. */
  measured: number[];
  hookpoint: string;
  dictionary: string;
}

export const latentsOf = (segmenter: string): Promise<Packed<LatentsMeta>> =>
  once(`latents/${segmenter}`, () => binary<LatentsMeta>(`/segmenters/${segmenter}/latents`));

/** A latent's name: the one that a person gave, or the one by rule. */
export function nameOf(latents: Packed<LatentsMeta>, latent: number): string {
  const given = latents.meta.given[String(latent)];
  if (given) return given;
  const code = latents.arrays["name"]?.values[latent] ?? 0;
  return latents.meta.columns["name"]?.words?.[code - 1] ?? "never fires";
}

interface Change {
  latent: number;
  dice: Record<string, number | null>;
}

const SURVEY_MILLISECONDS = 500;
const EFFECT = "effect_";
const MEASURED = 48;
const MEASURED_AT_ONCE = 4;

/** An answer that needs every latent on many slices: until it comes, `told` says on how many they have been computed. */
export async function surveyed<T>(segmenter: string, told: HTMLElement, answer: Promise<T>): Promise<T> {
  let waits = true;
  const tell = async (): Promise<void> => {
    for (;;) {
      await new Promise((after) => setTimeout(after, SURVEY_MILLISECONDS));
      if (!waits) return;
      const { done, of } = await json<{ done: number; of: number }>(`/segmenters/${segmenter}/latents/survey`);
      // where the answer has overtaken this one, `told` shows it by now
      if (waits && of && done < of) told.textContent = `running the network over slices: ${done} of ${of} …`;
    }
  };
  void tell();
  try {
    return await answer;
  } finally {
    waits = false;
  }
}

export async function latentsPage(page: HTMLElement, segmenter: string, query: URLSearchParams): Promise<void> {
  const latents = await latentsOf(segmenter);
  const n = latents.arrays["latent"]?.shape[0] ?? 0;
  const names = Array.from({ length: n }, (_, latent) => nameOf(latents, latent).toLowerCase());
  const count = h("span", { role: "status" });
  let sorted = query.get("sort") ?? "mass";
  let descending = query.get("order") !== "up";
  const table = new LongTable(
    columnsOf(latents, segmenter),
    n,
    sorted,
    (shown) => {
      count.textContent = `${shown} of ${n} latents`;
    },
    descending,
    (by, down) => {
      [sorted, descending] = [by, down];
      keep();
    },
  );
  const search = h("input", {
    type: "search",
    id: "search",
    placeholder: "name or number",
    value: query.get("search") ?? "",
  });
  const classes = h(
    "select",
    { id: "class" },
    h("option", { value: "" }, "any class"),
    ...latents.meta.labels.map((label) => h("option", { value: label }, words(label))),
  );
  classes.value = query.get("class") ?? "";
  const dead = h("input", { type: "checkbox", id: "dead", checked: query.has("dead") });
  const kindWords = latents.meta.columns["kind"]?.words ?? [];
  const kindOf = latents.arrays["kind"]?.values;
  const kinds = h(
    "select",
    { id: "kind" },
    h("option", { value: "" }, "any"),
    ...kindWords.map((kind) => h("option", { value: kind }, kind)),
  );
  kinds.value = query.get("kind") ?? "";
  /** The address leads back to what is shown, filter and order. */
  const keep = (): void => {
    if (!page.isConnected) return; // it was left meanwhile
    const kept = new URLSearchParams();
    if (search.value.trim()) kept.set("search", search.value.trim());
    if (classes.value) kept.set("class", classes.value);
    if (kinds.value) kept.set("kind", kinds.value);
    if (dead.checked) kept.set("dead", "");
    if (sorted !== "mass" || !descending) kept.set("sort", sorted);
    if (!descending) kept.set("order", "up");
    history.replaceState(null, "", `${location.pathname}${kept.size ? `?${kept}` : ""}`);
  };
  const topClass = latents.arrays["top_class"]?.values;
  const topWords = latents.meta.columns["top_class"]?.words ?? [];
  const isDead = latents.arrays["dead"]?.values;
  const apply = (): void => {
    const text = search.value.trim().toLowerCase();
    const number = /^\d+$/.test(text) ? Number(text) : null;
    const code = classes.value ? topWords.indexOf(classes.value) + 1 : null;
    const kind = kinds.value ? kindWords.indexOf(kinds.value) + 1 : null;
    const took = table.filter(
      (row) =>
        (dead.checked || !isDead?.[row]) &&
        (code === null || topClass?.[row] === code) &&
        (kind === null || kindOf?.[row] === kind) &&
        (text === "" || (number === null ? (names[row] as string).includes(text) : row === number)),
    );
    page.dataset["filterMilliseconds"] = took.toFixed(1);
    keep();
  };
  for (const control of [search, classes, kinds, dead]) control.addEventListener("input", apply);
  replace(
    page,
    h("h1", {}, `Latents of ${segmenter}`),
    h("p", { class: "quiet" }, `${n} latents at ${latents.meta.hookpoint}. Measured on slices that nothing was trained on.`),
    h(
      "div",
      { class: "controls" },
      h("label", {}, "Search ", search),
      h("label", {}, "Class ", classes),
      kindWords.length ? h("label", {}, "Shared ", kinds) : null,
      h("label", {}, dead, " dead ones too"),
      count,
      link(`/map/${segmenter}`, "as a map"),
      ...["csv", "json", "parquet"].map((form) =>
        h("a", { href: `/api/segmenters/${segmenter}/export?form=${form}`, download: `latents-${segmenter}.${form}` }, form),
      ),
    ),
    h("div", { class: "controls" }, ...measuring(page, table, latents, segmenter)),
    table.element,
  );
  apply();
}

/**
 * A button that measures the effect of the first rows shown on Dice, a few at a time, and what is said of it: each
 * latent takes a pass over every compared slice, so not all are measured unasked.
 */
function measuring(page: HTMLElement, table: LongTable, latents: Packed<LatentsMeta>, segmenter: string): HTMLElement[] {
  const { cohort, compared_on: slices, measured } = latents.meta;
  const told = h("span", { role: "status", class: "quiet" });
  let running = false;
  const say = (more: string): void => {
    told.textContent = `Δ Dice: when the latent is zeroed, on ${slices} unseen slices of ${cohort}, the same for all; measured for ${measured.length} of ${table.n} latents${more}.`;
  };
  const measure = async (): Promise<void> => {
    const wanted = table.shown().filter((row) => !measured.includes(row)).slice(0, MEASURED);
    for (let at = 0; at < wanted.length && running && page.isConnected; at += MEASURED_AT_ONCE) {
      say(`, now ${at} of the next ${wanted.length}`);
      const asked = wanted.slice(at, at + MEASURED_AT_ONCE).map((latent) => `latents=${latent}`);
      for (const { latent, dice } of await json<Change[]>(`/segmenters/${segmenter}/effects?${asked.join("&")}`)) {
        if (!measured.includes(latent)) measured.push(latent);
        for (const [label, change] of Object.entries(dice)) {
          const values = latents.arrays[`${EFFECT}${label}`]?.values;
          if (values) values[latent] = change ?? NaN;
        }
      }
      table.redraw();
    }
    say("");
  };
  const button = h("button", { type: "button" });
  const label = (): void => {
    button.textContent = running ? "Stop" : `Measure Δ Dice of the first ${MEASURED} shown`;
  };
  button.addEventListener("click", () => {
    button.disabled = running; // it stops after the latents that are being measured
    if (running) {
      running = false;
      return;
    }
    running = true;
    label();
    void measure()
      .catch((error: Error) => {
        told.textContent = error.message;
      })
      .finally(() => {
        running = button.disabled = false;
        label();
        if (table.sorting.startsWith(EFFECT)) table.sort();
      });
  });
  label();
  say("");
  return [button, told];
}

function columnsOf(latents: Packed<LatentsMeta>, segmenter: string): Column[] {
  const number = (name: string, title: string, explained: string, shown: (value: number) => string): Column => {
    const values = latents.arrays[name]?.values ?? new Float32Array();
    return {
      name,
      title,
      explained,
      width: "minmax(110px, 1fr)",
      value: (row) => values[row] as number,
      shown: (row) => shown(values[row] as number),
    };
  };
  const lifts = latents.meta.labels
    .filter((label) => `lift_${label}` in latents.arrays && label !== "background")
    .map((label) =>
      number(`lift_${label}`, `lift ${words(label)}`, `share of its mass on ${words(label)} over that of all pixels`, (v) =>
        figure(v, 1),
      ),
    );
  const effects = Object.keys(latents.arrays)
    .filter((name) => name.startsWith(EFFECT))
    .map((name) => {
      const label = words(name.slice(EFFECT.length));
      return number(name, `Δ Dice ${label}`, `change of pooled Dice of ${label} when the latent is zeroed; – where it was not measured yet, or the class is in neither mask nor prediction`, (v) =>
        Number.isNaN(v) ? "–" : `${v > 0 ? "+" : ""}${v.toFixed(4)}`,
      );
    });
  const kindCodes = latents.arrays["kind"]?.values;
  const kindWords = latents.meta.columns["kind"]?.words ?? [];
  const kindName = (row: number): string => kindWords[(kindCodes?.[row] ?? 0) - 1] ?? "–";
  const kinds: Column[] = kindCodes
    ? [
        {
          name: "kind",
          title: "shared",
          explained: "universal: paired by weight in every pair of segmenters of one space; specific: alive and not universal",
          width: "110px",
          value: kindName,
          shown: kindName,
        },
      ]
    : [];
  const partners = latents.meta.partners.map((other): Column => {
    const values = latents.arrays[`partner_${other}`]?.values ?? new Float32Array();
    const partner = (row: number): number => values[row] as number;
    return {
      name: `partner_${other}`,
      title: `in ${other}`,
      explained: `its partner in ${other} by the paper's criterion, by weight`,
      value: partner,
      shown: (row) => (Number.isNaN(partner(row)) ? "–" : link(`/latents/${other}/${partner(row)}`, partner(row))),
    };
  });
  return [
    {
      name: "latent",
      title: "latent",
      explained: "number in the dictionary",
      width: "70px",
      value: (row) => row,
      shown: (row) => link(`/latents/${segmenter}/${row}`, row),
    },
    {
      name: "name",
      title: "name",
      explained: "by rule from what was measured, or given by a person",
      width: "minmax(280px, 3fr)",
      value: (row) => nameOf(latents, row),
      shown: (row) => nameOf(latents, row),
    },
    number("mass", "mass", "sum of its codes over all slices", (v) => figure(v, 0)),
    number("firing_rate", "fires at", "share of tokens at which it fires", (v) => `${(100 * v).toFixed(2)}%`),
    number("mean_activation", "strength", "mean code where it fires", (v) => figure(v)),
    ...lifts,
    ...effects,
    number("inside", "inside", "share of its mass inside the lesion", percent),
    number("boundary", "boundary", "share of its mass on a border of labels", percent),
    number("edge", "brain edge", "share of its mass at the edge of the brain", percent),
    number("depth", "depth", "0 superficial, 1 deepest in the brain", (v) => figure(v)),
    ...kinds,
    ...partners,
  ];
}
