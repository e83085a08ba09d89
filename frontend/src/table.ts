/** A table of any length: only the rows in view are in the page, so that 20,000 scroll like 20. */

import { h, replace } from "./dom";

export interface Column {
  name: string;
  title: string;
  /** What a column says, in words. */
  explained: string;
  /** CSS width of the column; by default a number's. */
  width?: string;
  value: (row: number) => number | string;
  shown: (row: number) => string | Node;
}

const ROW_PIXELS = 30;
const SPARE_ROWS = 8;

export class LongTable {
  readonly element: HTMLDivElement;
  private readonly body = h("div", { class: "long-body", role: "presentation" });
  private readonly spacer = h("div", { class: "long-spacer", role: "presentation" });
  private readonly scroll: HTMLDivElement;
  /** All rows in the order that was chosen, and those of them that are shown: to filter needs no sorting. */
  private all: Uint32Array = new Uint32Array();
  private order: number[] = [];
  private passes: (row: number) => boolean = () => true;
  private active = -1;

  constructor(
    private readonly columns: Column[],
    readonly n: number,
    private sortedBy: string,
    private readonly counted: (shown: number) => void,
    private descending = true,
    /** Told what the rows are sorted by when somebody chooses another order. */
    private readonly resorted: (sortedBy: string, descending: boolean) => void = () => undefined,
  ) {
    this.spacer.append(this.body);
    this.scroll = h(
      "div",
      {
        class: "long-scroll",
        role: "rowgroup",
        tabindex: 0,
        "aria-label": "rows; arrow keys go from one to the next",
        scroll: () => this.show(),
      },
      this.spacer,
    );
    this.scroll.addEventListener("keydown", (event) => this.key(event));
    const head = h("div", { class: "long-head", role: "row" }, ...columns.map((column) => this.headOf(column)));
    this.element = h(
      "div",
      { class: "long", role: "table", "aria-rowcount": n },
      h("div", { role: "rowgroup" }, head),
      this.scroll,
    );
    // rows are grids of their own: only where all are of one known width do their columns stand in line
    const widths = columns.map((column) => column.width ?? "minmax(96px, 1fr)");
    const least = widths.reduce((sum, width) => sum + Number(/\d+/.exec(width)), 0);
    this.element.style.setProperty("--columns", widths.join(" "));
    this.element.style.setProperty("--least", `${least + 16}px`);
    this.sort();
    new ResizeObserver(() => this.show()).observe(this.scroll);
  }

  /** Keep the rows that pass; returns milliseconds that it took. */
  filter(passes: (row: number) => boolean): number {
    const started = performance.now();
    this.passes = passes;
    this.order = [];
    for (const row of this.all) if (passes(row)) this.order.push(row);
    this.active = -1;
    this.spacer.style.height = `${this.order.length * ROW_PIXELS}px`;
    this.scroll.scrollTop = 0;
    this.show();
    const took = performance.now() - started;
    this.counted(this.order.length);
    return took;
  }

  /** The rows that are shown, from the top. */
  shown(): readonly number[] {
    return this.order;
  }

  /** Draw the rows in view anew, in the order that they have: what they show has changed. */
  redraw(): void {
    this.show();
  }

  /** The column that the rows are sorted by. */
  get sorting(): string {
    return this.sortedBy;
  }

  /** Put the rows in order: another was chosen, or what they are sorted by has changed. */
  sort(): void {
    this.all = this.sorted();
    this.filter(this.passes);
  }

  private sorted(): Uint32Array {
    const rows = Uint32Array.from({ length: this.n }, (_, row) => row);
    const column = this.columns.find((one) => one.name === this.sortedBy);
    if (!column) return rows;
    const keys = keysOf(column, this.n);
    const sign = this.descending ? -1 : 1;
    return rows.sort((a, b) => {
      const [one, other] = [keys[a] as number, keys[b] as number];
      if (Number.isNaN(one)) return Number.isNaN(other) ? a - b : 1; // what has no number comes last, either way
      if (Number.isNaN(other)) return -1;
      return sign * (one - other) || a - b;
    });
  }

  private headOf(column: Column): HTMLElement {
    const button = h("button", { type: "button", title: column.explained }, column.title);
    const cell = h("div", { role: "columnheader", "aria-sort": this.sortOf(column) }, button);
    button.addEventListener("click", () => {
      this.descending = this.sortedBy === column.name ? !this.descending : typeof column.value(0) === "number";
      this.sortedBy = column.name;
      for (const [number, other] of [...(cell.parentElement as HTMLElement).children].entries()) {
        other.setAttribute("aria-sort", this.sortOf(this.columns[number] as Column));
      }
      this.sort();
      this.resorted(this.sortedBy, this.descending);
    });
    return cell;
  }

  private sortOf(column: Column): string {
    if (column.name !== this.sortedBy) return "none";
    return this.descending ? "descending" : "ascending";
  }

  /** Arrow keys, Home, End and the page keys go from row to row: the focus is on the row's first link or button. */
  private key(event: KeyboardEvent): void {
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW_PIXELS) - 1);
    const last = this.order.length - 1;
    const wanted = { ArrowDown: this.active + 1, ArrowUp: this.active - 1, PageDown: this.active + page, PageUp: this.active - page, Home: 0, End: last }[event.key];
    if (wanted === undefined || last < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.active = Math.min(Math.max(wanted, 0), last);
    const top = this.active * ROW_PIXELS;
    const below = top + ROW_PIXELS - this.scroll.clientHeight;
    this.scroll.scrollTop = Math.max(Math.min(this.scroll.scrollTop, top), below);
    this.show();
    this.body.querySelector<HTMLElement>(".long-row.active :is(a, button)")?.focus({ preventScroll: true });
  }

  private show(): void {
    const held = this.body.contains(document.activeElement);
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW_PIXELS) - SPARE_ROWS);
    const last = Math.min(this.order.length, first + Math.ceil(this.scroll.clientHeight / ROW_PIXELS) + 2 * SPARE_ROWS);
    this.body.style.transform = `translateY(${first * ROW_PIXELS}px)`;
    replace(
      this.body,
      ...this.order
        .slice(first, last)
        .map((row, place) =>
          h(
            "div",
            {
              role: "row",
              class: first + place === this.active ? "long-row active" : "long-row",
              "aria-rowindex": first + place + 1,
            },
            ...this.columns.map((column) => h("div", { role: "cell" }, column.shown(row))),
          ),
        ),
    );
    if (!held) return;
    // drawing the rows anew took the focus from the link in it
    const link = this.body.querySelector<HTMLElement>(".long-row.active :is(a, button)");
    (link ?? this.scroll).focus({ preventScroll: true });
  }
}

/** A number a row: of words their place among all words. */
function keysOf(column: Column, n: number): Float64Array {
  const values = Array.from({ length: n }, (_, row) => column.value(row));
  if (typeof values[0] !== "string") return Float64Array.from(values as number[]);
  const words = [...new Set(values as string[])].sort((a, b) => a.localeCompare(b));
  const places = new Map(words.map((word, place) => [word, place]));
  return Float64Array.from(values, (word) => places.get(word as string) as number);
}
