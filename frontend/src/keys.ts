/** Keys that work on every page, unless somebody is typing; ? shows them. */

import { h, link } from "./dom";

const KEYS: [string, string][] = [
  ["n, p", "the next, the previous slice"],
  ["w", "the worst scored slice, then the next worst"],
  ["m, s, h", "mask, what the network says, heat map: shown or not"],
  ["[ and ]", "the previous, the next sequence"],
  ["/", "to the search"],
  ["arrow keys", "in a table from row to row; on a slider its value; on the map from point to point; on a slice the place"],
  ["Enter", "opens the row's or point's latent; on a slice lists what fires at the place"],
  ["?", "this list; Esc closes it"],
];

export function listenForKeys(help: HTMLButtonElement): void {
  const list = h(
    "dialog",
    { "aria-labelledby": "keys-title" },
    h("h2", { id: "keys-title" }, "Keys"),
    h("dl", { class: "keys" }, ...KEYS.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    h("p", {}, link("/api", "The API, described")),
    h("form", { method: "dialog" }, h("button", {}, "Close")),
  );
  // the policy allows no form to be sent, this one too, which would only close it
  list.querySelector("form")?.addEventListener("submit", (event) => {
    event.preventDefault();
    list.close();
  });
  list.querySelector("a")?.addEventListener("click", () => list.close());
  document.body.append(list);
  help.addEventListener("click", () => list.showModal());
  document.addEventListener("keydown", (event) => {
    const typing = (event.target as Element).closest("input:not([type=range]):not([type=checkbox]), select, textarea, dialog");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const done = DONE[event.key];
    if (event.key === "?") list.showModal();
    else if (done) done();
    else return;
    event.preventDefault();
  });
}

const DONE: Record<string, () => void> = {
  n: () => clicked("[data-key=next]"),
  p: () => clicked("[data-key=previous]"),
  w: () => clicked("[data-key=worst]"),
  m: () => clicked("#truth"),
  s: () => clicked("#said"),
  h: () => {
    const opacity = document.querySelector<HTMLInputElement>("#opacity");
    if (!opacity) return;
    const shown = Number(opacity.value) > 0;
    if (shown) opacity.dataset["before"] = opacity.value;
    opacity.value = shown ? "0" : (opacity.dataset["before"] ?? "0.6");
    opacity.dispatchEvent(new Event("input"));
  },
  "[": () => sequence(-1),
  "]": () => sequence(1),
  "/": () => document.querySelector<HTMLInputElement>("input[type=search]")?.focus(),
};

function clicked(selector: string): void {
  document.querySelector<HTMLElement>(selector)?.click();
}

function sequence(by: number): void {
  const chosen = document.querySelector<HTMLSelectElement>("#sequence");
  if (!chosen) return;
  chosen.selectedIndex = (chosen.selectedIndex + by + chosen.length) % chosen.length;
  chosen.dispatchEvent(new Event("input"));
}
