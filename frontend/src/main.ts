/** Addresses to pages; keys that work on every page. */

import { UnansweredError } from "./api";
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

const told = document.getElementById("told") as HTMLElement;
let page = document.getElementById("page") as HTMLElement;
const PAGES: [RegExp, (page: HTMLElement, parts: string[], query: URLSearchParams) => Promise<void>][] = [
  [/^\/$/, (page) => overviewPage(page)],
  [/^\/api$/, (page) => apiPage(page)],
  [/^\/latents\/([^/]+)$/, (page, [segmenter], query) => latentsPage(page, segmenter as string, query)],
  [/^\/latents\/([^/]+)\/(\d+)$/, (page, [segmenter, latent]) => latentPage(page, segmenter as string, Number(latent))],
  [/^\/map\/([^/]+)$/, (page, [segmenter], query) => mapPage(page, segmenter as string, query)],
  [/^\/case\/([^/]+)$/, (page, [cohort], query) => cohortPage(page, cohort as string, query)],
  [/^\/case\/([^/]+)\/(\d+)$/, (page, [cohort, row], query) => casePage(page, cohort as string, Number(row), query)],
  [/^\/volume\/([^/]+)\/(\d+)$/, (page, [cohort, row], query) => volumePage(page, cohort as string, Number(row), query)],
  [/^\/compare\/([^/]+)\/([^/]+)$/, (page, [one, other]) => comparePage(page, one as string, other as string)],
];

/**
 * Show the page of the address. Every visit draws in a <main> of its own, so what arrives late for a page that was left
 * is drawn where nobody looks; such a page is not connected, and must then leave address and server alone.
 */
async function open({ focus }: { focus: boolean }): Promise<void> {
  const own = h("main", { id: "page", tabindex: -1 }, h("p", { class: "quiet" }, "reading …"));
  page.replaceWith(own);
  page = own;
  if (focus) own.focus();
  told.textContent = "";
  document.body.dataset["state"] = "reading";
  try {
    await shown(own);
  } catch (error) {
    replace(own, h("h1", {}, "This cannot be shown"), h("p", {}, (error as Error).message), link("/", "Overview"));
  }
  if (page !== own) return;
  document.title = `${own.querySelector("h1")?.textContent ?? ""} · Med-SegLens`;
  document.body.dataset["state"] = "ready";
}

async function shown(own: HTMLElement): Promise<void> {
  const query = new URLSearchParams(location.search);
  for (const [pattern, show] of PAGES) {
    const match = pattern.exec(decodeURI(location.pathname));
    if (match) return await show(own, match.slice(1), query);
  }
  replace(own, h("h1", {}, "No such page"), link("/", "Overview"));
}

document.addEventListener("click", (event) => {
  const anchor = (event.target as Element).closest("a");
  if (!anchor || event.defaultPrevented || event.metaKey || event.ctrlKey || event.shiftKey || anchor.hash) return;
  if (anchor.origin !== location.origin || anchor.hasAttribute("download")) return;
  event.preventDefault();
  for (const menu of document.querySelectorAll<HTMLDetailsElement>(".menu[open]")) menu.open = false;
  history.pushState(null, "", anchor.href);
  void open({ focus: true });
});
addEventListener("popstate", () => void open({ focus: false }));

// a part of a page that the server did not answer says so at the page's foot; mistakes of these scripts stay errors
addEventListener("unhandledrejection", (event) => {
  if (!(event.reason instanceof UnansweredError)) return;
  event.preventDefault();
  if (event.reason.page === page) told.textContent = event.reason.message;
});

const theme = document.getElementById("theme") as HTMLButtonElement;
theme.addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset["theme"] ?? (dark ? "dark" : "light");
  document.documentElement.dataset["theme"] = now === "dark" ? "light" : "dark";
});

// the page first: what the menu asks for is then asked under it, so that it says so where no answer comes
void open({ focus: false });
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

listenForKeys(document.getElementById("keys") as HTMLButtonElement);
