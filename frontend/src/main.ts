/** Addresses to pages; keys that work on every page. */

import { apiPage } from "./apipage";
import { casePage, cohortPage } from "./cases";
import { comparePage } from "./compare";
import { h, link, put, replace } from "./dom";
import { listenForKeys } from "./keys";
import { latentPage } from "./latent";
import { latentsPage } from "./latents";
import { mapPage } from "./map";
import { overview, overviewPage } from "./overview";
import { volumePage } from "./volume";

const page = document.getElementById("page") as HTMLElement;
const told = document.getElementById("told") as HTMLElement;
const PAGES: [RegExp, (parts: string[], query: URLSearchParams) => Promise<void>][] = [
  [/^\/$/, () => overviewPage(page)],
  [/^\/api$/, () => apiPage(page)],
  [/^\/latents\/([^/]+)$/, ([segmenter], query) => latentsPage(page, segmenter as string, query)],
  [/^\/latents\/([^/]+)\/(\d+)$/, ([segmenter, latent]) => latentPage(page, segmenter as string, Number(latent))],
  [/^\/map\/([^/]+)$/, ([segmenter], query) => mapPage(page, segmenter as string, query)],
  [/^\/case\/([^/]+)$/, ([cohort], query) => cohortPage(page, cohort as string, query)],
  [/^\/case\/([^/]+)\/(\d+)$/, ([cohort, row], query) => casePage(page, cohort as string, Number(row), query)],
  [/^\/volume\/([^/]+)\/(\d+)$/, ([cohort, row], query) => volumePage(page, cohort as string, Number(row), query)],
  [/^\/compare\/([^/]+)\/([^/]+)$/, ([one, other]) => comparePage(page, one as string, other as string)],
];

async function open(): Promise<void> {
  const query = new URLSearchParams(location.search);
  told.textContent = "";
  document.body.dataset["state"] = "reading";
  for (const [pattern, show] of PAGES) {
    const match = pattern.exec(decodeURI(location.pathname));
    if (!match) continue;
    try {
      replace(page, h("p", { class: "quiet" }, "reading …"));
      await show(match.slice(1), query);
      document.title = `${page.querySelector("h1")?.textContent ?? ""} · Med-SegLens`;
    } catch (error) {
      replace(page, h("h1", {}, "This cannot be shown"), h("p", {}, (error as Error).message), link("/", "Overview"));
    }
    document.body.dataset["state"] = "ready";
    return;
  }
  replace(page, h("h1", {}, "No such page"), link("/", "Overview"));
  document.body.dataset["state"] = "ready";
}

document.addEventListener("click", (event) => {
  const anchor = (event.target as Element).closest("a");
  if (!anchor || event.defaultPrevented || event.metaKey || event.ctrlKey || event.shiftKey || anchor.hash) return;
  if (anchor.origin !== location.origin || anchor.hasAttribute("download")) return;
  event.preventDefault();
  history.pushState(null, "", anchor.href);
  void open().then(() => page.focus());
});
addEventListener("popstate", () => void open());

const theme = document.getElementById("theme") as HTMLButtonElement;
theme.addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset["theme"] ?? (dark ? "dark" : "light");
  document.documentElement.dataset["theme"] = now === "dark" ? "light" : "dark";
});

void overview().then(({ segmenters, cohorts }) => {
  const menu = (title: string, paths: [string, string][]): HTMLElement =>
    h("details", { class: "menu" }, h("summary", {}, title), ...paths.map(([path, name]) => link(path, name)));
  put(
    document.getElementById("places") as HTMLElement,
    link("/", "Overview"),
    menu("Latents", segmenters.map((name) => [`/latents/${name}`, name])),
    menu("Cases", cohorts.map((name) => [`/case/${name}`, name])),
  );
});
void open();

listenForKeys(document.getElementById("keys") as HTMLButtonElement);
