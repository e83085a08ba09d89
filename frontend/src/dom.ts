/** Elements without a framework. Text is always set as text: a latent's name is never markup. */

type Child = Node | string | number | null | undefined | false;
type Attributes = Record<string, string | number | boolean | EventListener | undefined>;

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  put(element, ...children);
  return element;
}

export function put(parent: Element, ...children: Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : String(child));
  }
}

export function replace(parent: Element, ...children: Child[]): void {
  parent.replaceChildren();
  put(parent, ...children);
}

/**
 * Aborted once another page is shown: a browser has six connections to a server, and what nobody will see must hold none.
 *
 * @param page a <main>, which is in the document until it is left
 */
export function untilLeft(page: HTMLElement): AbortSignal {
  const left = new AbortController();
  const watch = new MutationObserver(() => {
    if (page.isConnected) return;
    watch.disconnect();
    left.abort();
  });
  if (page.isConnected) watch.observe(document.body, { childList: true });
  else left.abort();
  return left.signal;
}

export function link(path: string, ...children: Child[]): HTMLAnchorElement {
  return h("a", { href: path }, ...children);
}

/** A table that scrolls sideways by itself where the screen is narrow. */
export function table(head: Child[], rows: Child[][], caption?: string): HTMLElement {
  const own = h(
    "table",
    {},
    caption ? h("caption", {}, caption) : null,
    h("thead", {}, h("tr", {}, ...head.map((cell) => h("th", { scope: "col" }, cell)))),
    h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, cell))))),
  );
  return h("div", { class: "sideways", tabindex: 0, role: "group", "aria-label": caption ?? "table" }, own);
}

/** Two decimals, or a dash where there is no number. */
export function figure(value: number | null | undefined, decimals = 2): string {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(decimals);
}

export function percent(value: number | null | undefined): string {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : `${(100 * value).toFixed(0)}%`;
}

export function words(name: string): string {
  return name.replaceAll("_", " ");
}
