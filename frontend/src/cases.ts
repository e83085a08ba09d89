/** Slices: what the network sees and says there, and what it would say with latents changed. */

import { binary, json, newest, once } from "./api";
import type { Packed } from "./api";
import { figure, h, link, replace, table, words } from "./dom";
import { latentsOf, nameOf } from "./latents";
import { overview } from "./overview";
import { classColour, draw } from "./picture";
import type { Layers } from "./picture";
import { saveFile, savePng } from "./saving";

export interface SliceEntry {
  row: number;
  case: string;
  position: number;
  split: string;
  dice: number | null;
}

interface Cohort {
  name: string;
  sequences: string[];
  labels: Record<string, string>;
  size: [number, number];
  slices: SliceEntry[];
}

interface ClassFigures {
  label: string;
  value: number;
  said: number;
  true: number | null;
  dice: number | null;
}

interface Prediction {
  classes: ClassFigures[];
  grid: [number, number];
  latents: { latent: number; name: string; mass: number; usual: number }[];
}

interface Steered {
  before: ClassFigures[];
  after: ClassFigures[];
  changed: number;
  edits: unknown[];
}

interface Firing {
  latent: number;
  name: string;
  value: number;
  usual: number;
}

interface Turn {
  latents: number[];
  operation: "multiply" | "add" | "zero";
  value: number;
  where?: "everywhere" | "active";
}

interface Proposal extends Turn {
  stage: string;
  chosen_by: string;
  edit: string;
}

const NEUTRAL = { multiply: 1, add: 0, zero: 0 } as const;

export const cohortOf = (name: string, segmenter: string): Promise<Cohort> =>
  once(`cohort/${name}/${segmenter}`, () => json<Cohort>(`/cohorts/${name}?segmenter=${encodeURIComponent(segmenter)}`));

async function segmenterFor(cohort: string, query: URLSearchParams): Promise<string> {
  const { segmenters, summary } = await overview();
  const own = summary.segmenters.find((one) => one.trained_on === cohort && segmenters.includes(one.name));
  return query.get("segmenter") ?? own?.name ?? (segmenters[0] as string);
}

/** The slices that were scored, by Dice. */
function worstFirst(cohort: Cohort): SliceEntry[] {
  const scored = cohort.slices.filter((slice) => slice.dice !== null);
  return scored.sort((a, b) => (a.dice as number) - (b.dice as number));
}

export async function cohortPage(page: HTMLElement, name: string, query: URLSearchParams): Promise<void> {
  const segmenter = await segmenterFor(name, query);
  const cohort = await cohortOf(name, segmenter);
  const scored = worstFirst(cohort);
  const worst = scored.slice(0, 60);
  const entry = (slice: SliceEntry): HTMLElement =>
    h(
      "li",
      {},
      link(
        `/case/${name}/${slice.row}?segmenter=${encodeURIComponent(segmenter)}`,
        `${slice.case}, slice ${slice.position}`,
        h("span", { class: "quiet" }, slice.dice === null ? ` ${slice.split}` : ` Dice ${figure(slice.dice)}`),
      ),
    );
  replace(
    page,
    h("h1", {}, `Slices of ${name}`),
    h("p", { class: "quiet" }, `Seen by ${segmenter}. Dice of a slice is the mean over foreground classes; absent in both counts as 1.`),
    worst.length ? h("h2", {}, `The ${worst.length} worst of ${scored.length} scored slices`) : null,
    worst.length ? h("ol", { class: "slices" }, ...worst.map(entry)) : null,
    h("h2", {}, "All"),
    h("ul", { class: "slices" }, ...cohort.slices.map(entry)),
  );
}

export async function casePage(page: HTMLElement, name: string, row: number, query: URLSearchParams): Promise<void> {
  const segmenter = await segmenterFor(name, query);
  const [{ segmenters }, cohort, latents, proposed, slice, said] = await Promise.all([
    overview(),
    cohortOf(name, segmenter),
    latentsOf(segmenter),
    once(`proposals/${segmenter}`, () => json<Proposal[]>(`/segmenters/${segmenter}/proposals`)),
    binary<{ case: string; position: number; split: string; volume: boolean; labelled: boolean; sequences: string[] }>(`/cohorts/${name}/slices/${row}`),
    binary<Prediction>(`/segmenters/${segmenter}/slices/${name}/${row}`),
  ]);
  const size = cohort.size;
  const pixels = size[0] * size[1];
  const images = slice.arrays["images"]?.values as Uint8Array;
  const truth = slice.arrays["mask"]?.values as Uint8Array;
  const before = said.arrays["mask"]?.values as Uint8Array;
  let after = before;
  let heat: Layers["heat"];
  let cursor: [number, number] | undefined;
  let chosen = (query.get("latents") ?? "").split(",").filter(Boolean).map(Number);
  let turn: Turn = { latents: chosen, operation: "multiply", value: 1 };
  const done: Turn[] = [];

  const sequence = h("select", { id: "sequence" }, ...slice.meta.sequences.map((own, at) => h("option", { value: at }, own)));
  const showTruth = h("input", { type: "checkbox", id: "truth", checked: slice.meta.labelled });
  const showSaid = h("input", { type: "checkbox", id: "said", checked: true });
  const level = range("level", 0, 255, 1, 128);
  const width = range("width", 2, 510, 2, 255);
  const opacity = range("opacity", 0, 1, 0.05, 0.6);
  const left = h("canvas", { role: "img", tabindex: 0, "aria-label": "the slice with mask, prediction and heat map; arrow keys go to a place, Enter lists what fires there" });
  const right = h("canvas", { role: "img", "aria-label": "the slice with the changed prediction" });
  const here = h("div", {}, h("p", { class: "quiet" }, "Click the left picture: which latents fire there?"));
  const figures = h("div", {});
  const chips = h("ul", { class: "chips" });
  const operation = h(
    "select",
    { id: "operation" },
    ...(["multiply", "add", "zero"] as const).map((own) => h("option", { value: own }, own)),
  );
  const value = range("value", -4, 8, 0.1, 1);
  const shownValue = h("output", { for: "value" }, "1.0");
  const told = h("p", { role: "status", class: "quiet" });

  const paint = (): void => {
    const at = Number(sequence.value);
    const grey = images.subarray(at * pixels, (at + 1) * pixels);
    const window: [number, number] = [Number(level.value) - Number(width.value) / 2, Number(level.value) + Number(width.value) / 2];
    const outlines = (mask: Uint8Array): Layers["outlines"] => [
      ...(showTruth.checked ? [{ mask: truth, solid: true }] : []),
      ...(showSaid.checked ? [{ mask, solid: false }] : []),
    ];
    draw(left, {
      grey,
      size,
      window,
      outlines: outlines(before),
      ...(heat ? { heat: { ...heat, opacity: Number(opacity.value) } } : {}),
    });
    if (cursor) cross(left, cursor, size);
    draw(right, { grey, size, window, outlines: outlines(after), differs: [before, after] });
  };

  const report = (now: ClassFigures[], then: ClassFigures[], changed: number): void => {
    replace(
      figures,
      table(
        ["class", "pixels true", "said", "now", "Dice", "now"],
        then.map((own, at) => {
          const swatch = h("span", { class: "swatch" });
          swatch.style.background = classColour(own.value);
          return [
            h("span", {}, swatch, words(own.label)),
            own.true ?? "–",
            own.said,
            now[at]?.said ?? "–",
            figure(own.dice),
            figure(now[at]?.dice),
          ];
        }),
      ),
      h("p", { class: "quiet" }, changed ? `${changed} pixels differ (magenta).` : "The same mask as untouched."),
    );
  };

  const failed = (error: Error): void => {
    told.textContent = error.message;
  };

  let running: AbortController | undefined;
  /** Show what becomes of the mask; of what is asked for in quick succession only the last is shown. */
  const ask = async (how: "steer" | "baseline", wanted: object, said: string): Promise<void> => {
    running?.abort();
    running = new AbortController();
    try {
      const answer: Packed<Steered> = await binary(
        `/segmenters/${segmenter}/${how}`,
        { cohort: name, row, ...wanted },
        running.signal,
      );
      after = answer.arrays["mask"]?.values as Uint8Array;
      paint();
      report(answer.meta.after, answer.meta.before, answer.meta.changed);
      told.textContent = said;
    } catch (error) {
      if ((error as Error).name !== "AbortError") failed(error as Error);
    }
  };
  const steer = async (): Promise<void> => {
    shownValue.textContent = Number(turn.value).toFixed(1);
    const started = performance.now();
    await ask("steer", { edits: turn.latents.length ? [turn] : [] }, "");
    page.dataset["steerMilliseconds"] = (performance.now() - started).toFixed(0);
  };

  const rule = h(
    "select",
    { id: "rule" },
    h("option", { value: "" }, "choose one"),
    h("option", { value: "largest_component" }, "largest component (CCF)"),
    h("option", { value: "entropy" }, "without uncertain pixels (UF)"),
    ...said.meta.classes.map((own) => h("option", { value: own.label }, `logit bias of ${words(own.label)}`)),
  );
  const amount = range("amount", 0, 1, 0.05, 0.5);

  const take = async (next: Turn): Promise<void> => {
    turn = next;
    rule.value = "";
    chosen = next.latents;
    operation.value = turn.operation;
    value.value = String(turn.value);
    value.disabled = turn.operation === "zero";
    replace(
      chips,
      ...chosen.map((latent) =>
        h(
          "li",
          {},
          link(`/latents/${segmenter}/${latent}`, `${latent}: ${nameOf(latents, latent)}`),
          h("button", { type: "button", "aria-label": `leave out ${latent}`, click: () => void choose(latent, false) }, "×"),
        ),
      ),
    );
    const kept = new URLSearchParams({ segmenter });
    if (chosen.length) kept.set("latents", chosen.join(","));
    if (!page.isConnected) return; // it was left meanwhile: the address is another page's
    history.replaceState(null, "", `${location.pathname}?${kept}`);
    await steer();
  };

  const change = (next: Turn): void => {
    done.push(turn);
    void take(next);
  };

  const choose = async (latent: number, wanted: boolean): Promise<void> => {
    const rest = chosen.filter((other) => other !== latent);
    change({ ...turn, latents: wanted ? [...rest, latent] : rest });
    if (wanted) await glow(latent);
  };

  const glowing = newest();
  const glow = async (latent: number): Promise<void> => {
    const current = glowing();
    const answer = await binary<{ scale: number }>(`/segmenters/${segmenter}/slices/${name}/${row}/heat/${latent}`);
    const map = answer.arrays["map"];
    if (map && current()) heat = { map: map.values as Float32Array, grid: map.shape as [number, number], scale: answer.meta.scale, opacity: 0.6 };
    paint();
  };

  const offered = (list: { latent: number; name: string }[], shown: (at: number) => string): HTMLElement =>
    h(
      "ul",
      { class: "offered scroll" },
      ...list.map((own, at) =>
        h(
          "li",
          {},
          h("button", { type: "button", click: () => void glow(own.latent), title: "show its heat map" }, "◉"),
          h("button", { type: "button", click: () => void choose(own.latent, true), title: "choose it" }, "+"),
          link(`/latents/${segmenter}/${own.latent}`, own.latent),
          ` ${nameOf(latents, own.latent)} `,
          h("span", { class: "quiet" }, shown(at)),
        ),
      ),
    );

  left.addEventListener("click", (event) => {
    const box = left.getBoundingClientRect();
    const within = (share: number, n: number): number => Math.min(Math.max(Math.floor(share * n), 0), n - 1);
    cursor = [within((event.clientY - box.top) / box.height, size[0]), within((event.clientX - box.left) / box.width, size[1])];
    firesAt(...cursor);
  });
  left.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? 8 : 1;
    const step = { ArrowUp: [-by, 0], ArrowDown: [by, 0], ArrowLeft: [0, -by], ArrowRight: [0, by] }[event.key];
    if (event.key === "Enter" && cursor) firesAt(...cursor);
    if (!step) return;
    event.preventDefault();
    const [y, x] = cursor ?? [size[0] >> 1, size[1] >> 1];
    cursor = [
      Math.min(Math.max(y + (step[0] as number), 0), size[0] - 1),
      Math.min(Math.max(x + (step[1] as number), 0), size[1] - 1),
    ];
    paint();
  });
  const firing = newest();
  const firesAt = (y: number, x: number): void => {
    const current = firing();
    paint();
    void json<Firing[]>(`/segmenters/${segmenter}/slices/${name}/${row}/at/${y}/${x}`).then((found) => {
      if (!current()) return;
      replace(
        here,
        h("h3", {}, `At row ${y}, column ${x}`),
        found.length
          ? offered(found, (at) => `${figure(found[at]?.value)} (usually ${figure(found[at]?.usual)})`)
          : h("p", { class: "quiet" }, "No latent fires there."),
      );
    }, failed);
  };
  for (const control of [sequence, showTruth, showSaid, level, width, opacity]) control.addEventListener("input", paint);
  let sliding = false;
  value.addEventListener("input", () => {
    if (!sliding) done.push(turn); // one step back for Undo, however far the slider goes until it is let go
    sliding = true;
    rule.value = "";
    turn = { ...turn, value: Number(value.value) };
    void steer();
  });
  value.addEventListener("change", () => {
    sliding = false;
  });
  const starts = h(
    "select",
    { id: "proposed" },
    h("option", { value: "" }, "choose one"),
    ...proposed.map((own, at) => h("option", { value: at }, `${own.stage}: ${own.edit}, by ${own.chosen_by}`)),
  );
  starts.addEventListener("input", () => {
    const own = proposed[Number(starts.value)];
    if (starts.value && own) change({ latents: own.latents, operation: own.operation, value: own.value, where: own.where ?? "everywhere" });
  });
  operation.addEventListener("input", () => {
    const own = operation.value as Turn["operation"];
    change({ ...turn, operation: own, value: NEUTRAL[own] });
  });

  const baseline = async (): Promise<void> => {
    if (!rule.value) return await steer();
    const plain = rule.value === "largest_component" || rule.value === "entropy";
    const value = rule.value === "entropy" ? Number(amount.value) : 16 * Number(amount.value) - 8;
    const wanted = { rule: plain ? rule.value : "logit_bias", value, label: plain ? "" : rule.value };
    await ask("baseline", wanted, rule.value === "largest_component" ? "" : `at ${value.toFixed(2)}`);
  };
  for (const control of [rule, amount]) control.addEventListener("input", () => void baseline());

  const save = (): void => {
    if (!turn.latents.length) {
      told.textContent = "Choose a latent first: there is no edit to save.";
      return;
    }
    void binary<Steered>(`/segmenters/${segmenter}/steer`, { cohort: name, row, edits: [turn] }).then(({ meta }) => {
      const file = new Blob([JSON.stringify(meta.edits, null, 1)], { type: "application/json" });
      saveFile(file, `edit-${segmenter}.json`);
    }, failed);
  };

  const caseAt = (to: number): string =>
    `/case/${name}/${to}?${new URLSearchParams({ segmenter, ...(chosen.length ? { latents: chosen.join(",") } : {}) })}`;
  const step = (by: number): string => caseAt((row + by + cohort.slices.length) % cohort.slices.length);
  const ranked = worstFirst(cohort);
  const worse = ranked[(ranked.findIndex((own) => own.row === row) + 1) % ranked.length];
  const volumeLink = link(`/volume/${name}/${row}?segmenter=${encodeURIComponent(segmenter)}`, "three planes");
  volumeLink.addEventListener("click", () => {
    // what is chosen and shown by now
    const kept = new URLSearchParams(location.search);
    kept.set("sequence", slice.meta.sequences[Number(sequence.value)] as string);
    volumeLink.href = `/volume/${name}/${row}?${kept}`;
  });
  const switcher = h("select", { id: "segmenter" }, ...segmenters.map((own) => h("option", { value: own }, own)));
  switcher.value = segmenter;
  switcher.addEventListener("input", () => location.assign(`${location.pathname}?segmenter=${encodeURIComponent(switcher.value)}`));

  const title = h("h1", {}, `${slice.meta.case}, slice ${slice.meta.position} `);
  title.append(h("small", {}, `${name}, ${slice.meta.split} split`));
  replace(
    page,
    h(
      "p",
      {},
      link(`/case/${name}?segmenter=${encodeURIComponent(segmenter)}`, `← slices of ${name}`),
      " · ",
      named(link(step(-1), "previous (p)"), "previous"),
      " · ",
      named(link(step(1), "next (n)"), "next"),
      worse ? " · " : null,
      worse ? named(link(caseAt(worse.row), "next worst (w)"), "worst") : null,
      slice.meta.volume ? " · " : null,
      slice.meta.volume ? volumeLink : null,
    ),
    title,
    h(
      "div",
      { class: "controls" },
      h("label", {}, "Segmenter ", switcher),
      h("label", {}, "Sequence ", sequence),
      slice.meta.labelled ? h("label", {}, showTruth, " mask (solid)") : h("p", { class: "quiet" }, "This cohort has no masks."),
      h("label", {}, showSaid, " prediction (dotted)"),
      h("label", {}, "Level ", level),
      h("label", {}, "Width ", width),
      h("label", {}, "Heat ", opacity),
    ),
    h(
      "div",
      { class: "pictures" },
      h("figure", {}, left, h("figcaption", {}, "As it is. Left of the picture is the patient's right. ", savePng(left, `${slice.meta.case}-${slice.meta.position}`))),
      h("figure", {}, right, h("figcaption", {}, "With the latents changed; magenta where the mask differs. ", savePng(right, `${slice.meta.case}-${slice.meta.position}-turned`))),
    ),
    h(
      "section",
      { class: "turn", "aria-label": "Change latents" },
      h("h2", {}, "Turn latents"),
      proposed.length
        ? h("div", { class: "controls" }, h("label", {}, "Edits that this run proposes and tested ", starts))
        : null,
      chips,
      h(
        "div",
        { class: "controls" },
        h("label", {}, "Operation ", operation),
        h("label", {}, "Strength ", value),
        shownValue,
        h("button", { type: "button", click: () => void take(done.pop() ?? turn) }, "Undo"),
        h("button", { type: "button", click: () => change({ ...turn, value: NEUTRAL[turn.operation] }) }, "Reset"),
        h("button", { type: "button", click: save }, "Save as a file"),
      ),
      h(
        "div",
        { class: "controls" },
        h("label", {}, "Beside it, a rule at the output ", rule),
        h("label", {}, "Threshold or bias ", amount),
      ),
      told,
      figures,
    ),
    h(
      "div",
      { class: "columns" },
      h(
        "section",
        {},
        h("h2", {}, "Strongest here against their usual"),
        offered(said.meta.latents, (at) => {
          const own = said.meta.latents[at];
          return `${figure(own?.mass, 1)} (usually ${figure(own?.usual, 1)} a slice)`;
        }),
      ),
      h("section", {}, h("h2", {}, "By picture"), here),
    ),
  );
  await take(turn);
  if (chosen[0] !== undefined) await glow(chosen[0]);
}

/** The place that was clicked, or went to by arrow keys. */
function cross(canvas: HTMLCanvasElement, [y, x]: [number, number], [rows, columns]: [number, number]): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const [high, wide] = [canvas.height / rows, canvas.width / columns];
  const [cy, cx] = [(y + 0.5) * high, (x + 0.5) * wide];
  for (const [colour, width] of [["#000000", 3], ["#ffffff", 1]] as const) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const side of [-1, 1]) {
      context.moveTo(cx + side * 2 * wide, cy);
      context.lineTo(cx + side * 6 * wide, cy);
      context.moveTo(cx, cy + side * 2 * high);
      context.lineTo(cx, cy + side * 6 * high);
    }
    context.stroke();
  }
}

function range(id: string, min: number, max: number, step: number, value: number): HTMLInputElement {
  return h("input", { type: "range", id, min, max, step, value });
}

function named(anchor: HTMLAnchorElement, key: string): HTMLAnchorElement {
  anchor.dataset["key"] = key;
  return anchor;
}
