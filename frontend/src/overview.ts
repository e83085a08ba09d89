/** The run at a glance: every figure leads to the thing itself. */

import { json, once } from "./api";
import { figure, h, link, percent, replace, table, words } from "./dom";

interface Summary {
  study: string;
  seed: number;
  cohorts: { name: string; n_patients?: number; n_slices?: number }[];
  segmenters: {
    name: string;
    architecture: string;
    trained_on: string;
    scores: Record<string, { dice_pooled: Record<string, number | null> }>;
    effects?: { hookpoint: string; class: string; dice_before: number | null; dice_ablated: number | null }[];
  }[];
  dictionaries: {
    name: string;
    hookpoint: string;
    n_latents: number;
    k: number;
    explained_variance: number | null;
    control_explained_variance: number | null;
    dead_share: number | null;
    dice_kept: number | null;
  }[];
  alignments: {
    source: string;
    target: string;
    shared: number | null;
    floor: number | null;
    ceiling: number | null;
    calibrated: number | null;
    functional: { matched_by_function: number | null; floor: number | null; ceiling?: number | null };
  }[];
}

export interface Overview {
  summary: Summary;
  segmenters: string[];
  cohorts: string[];
}

export const overview = (): Promise<Overview> => once("overview", () => json<Overview>("/overview"));

export async function overviewPage(page: HTMLElement): Promise<void> {
  const { summary, segmenters, cohorts } = await overview();
  /** A segmenter's name, which leads to its latents where it has any. */
  const named = (name: string): HTMLElement | string =>
    segmenters.includes(name) ? link(`/latents/${name}`, name) : name;
  const scored = cohorts.filter((cohort) => summary.segmenters.some((own) => cohort in own.scores));
  replace(
    page,
    h("h1", {}, summary.study),
    h("p", { class: "quiet" }, `Seed ${summary.seed}. Choose a segmenter's latents, or a slice of a cohort.`),
    h(
      "ul",
      { class: "cards" },
      ...segmenters.map((name) => {
        const own = summary.dictionaries.find((dictionary) => dictionary.name === name);
        const about = own ? `${own.n_latents} latents at ${own.hookpoint}, k ${own.k}` : "";
        return h("li", {}, link(`/latents/${name}`, h("strong", {}, name), h("span", {}, about)));
      }),
    ),
    h("h2", {}, "Scores"),
    h("p", { class: "quiet" }, "Foreground Dice pooled over the test slices, by the cohort that is segmented."),
    table(
      ["segmenter", "trained on", ...scored],
      summary.segmenters.map((own) => [
        named(own.name),
        own.trained_on,
        ...scored.map((cohort) => {
          const dice = figure(own.scores[cohort]?.dice_pooled["foreground"]);
          const opens = cohort in own.scores && segmenters.includes(own.name);
          return opens ? link(`/case/${cohort}?segmenter=${encodeURIComponent(own.name)}`, dice) : dice;
        }),
      ]),
    ),
    h("h2", {}, "Dictionaries"),
    h(
      "p",
      { class: "quiet" },
      "Explained variance proves nothing by itself: beside it stands that of an untrained network's dictionary. ",
      "Dice kept is what remains of Dice with the reconstruction in place, above the mean-ablated floor.",
    ),
    table(
      ["segmenter", "hookpoint", "explained variance", "untrained network", "dead", "Dice kept"],
      summary.dictionaries.map((own) => [
        named(own.name),
        own.hookpoint,
        figure(own.explained_variance, 3),
        figure(own.control_explained_variance, 3),
        percent(own.dead_share),
        figure(own.dice_kept, 3),
      ]),
    ),
    h("h2", {}, "What mean ablation at each hookpoint does"),
    effectsTable(summary, named),
    h("h2", {}, "What pairs of segmenters share"),
    h(
      "p",
      { class: "quiet" },
      "The paper's share at tau between its floor (one side rotated) and its ceiling (one model, other token order); ",
      "calibrated = (shared - floor) / (ceiling - floor). By function: mean correlation of matched codes on common slices.",
    ),
    sharedMatrix(summary, segmenters),
    h("h3", {}, "Pair by pair"),
    table(
      ["pair", "floor", "shared", "ceiling", "calibrated", "by function", "its floor", "its ceiling"],
      summary.alignments.map((pair) => [
        link(`/compare/${pair.source}/${pair.target}`, `${pair.source} – ${pair.target}`),
        percent(pair.floor),
        percent(pair.shared),
        percent(pair.ceiling),
        figure(pair.calibrated),
        figure(pair.functional.matched_by_function),
        figure(pair.functional.floor),
        figure(pair.functional.ceiling),
      ]),
    ),
    h("h2", {}, "For programs"),
    h(
      "p",
      {},
      link("/api", "The API, described"),
      " · ",
      h("a", { href: "/api/openapi.json", download: "openapi.json" }, "/api/openapi.json"),
    ),
  );
}

function effectsTable(summary: Summary, named: (segmenter: string) => HTMLElement | string): HTMLElement {
  const places = [
    ...new Set(summary.segmenters.flatMap((own) => (own.effects ?? []).map((effect) => effect.hookpoint))),
  ];
  return table(
    ["segmenter", ...places.map(words)],
    summary.segmenters.map((own) => [
      named(own.name),
      ...places.map((place) => {
        const effect = own.effects?.find((one) => one.hookpoint === place && one.class === "foreground");
        return effect ? `${figure(effect.dice_before)} → ${figure(effect.dice_ablated)}` : "–";
      }),
    ]),
    "Foreground Dice before and after",
  );
}

/** Segmenter by segmenter; a cell leads to the pair's latents. */
function sharedMatrix(summary: Summary, segmenters: string[]): HTMLElement {
  const cell = (one: string, other: string): HTMLElement | string => {
    const pair = summary.alignments.find(
      ({ source, target }) => (source === one && target === other) || (source === other && target === one),
    );
    if (!pair) return "";
    const said =
      pair.shared === null
        ? `r ${figure(pair.functional.matched_by_function)}`
        : `${percent(pair.shared)} (${percent(pair.floor)} to ${percent(pair.ceiling)})`;
    return link(`/compare/${one}/${other}`, said);
  };
  return table(
    ["segmenter", ...segmenters],
    segmenters.map((one) => [h("strong", {}, one), ...segmenters.map((other) => cell(one, other))]),
    "Shared (floor to ceiling); r, by function, where spaces differ and weights cannot be compared",
  );
}
