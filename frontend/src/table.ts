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
  private order: number[] = [];
  private sortedBy: string;
  private descending = true;

  constructor(
    private readonly columns: Column[],
    private readonly n: number,
    sortedBy: string,
    private readonly counted: (shown: number) => void,
  ) {
    this.sortedBy = sortedBy;
    this.spacer.append(this.body);
    this.scroll = h(
      "div",
      { class: "long-scroll", role: "rowgroup", tabindex: 0, "aria-label": "rows", scroll: () => this.show() },
      this.spacer,
    );
    const head = h("div", { class: "long-head", role: "row" }, ...columns.map((column) => this.headOf(column)));
    this.element = h(
      "div",
      { class: "long", role: "table", "aria-rowcount": n },
      h("div", { role: "rowgroup" }, head),
      this.scroll,
    );
    this.element.style.setProperty("--columns", columns.map((column) => column.width ?? "minmax(84px, 1fr)").join(" "));
    this.filter(() => true);
    new ResizeObserver(() => this.show()).observe(this.scroll);
  }

  /** Keep the rows that pass; returns milliseconds that it took. */
  filter(passes: (row: number) => boolean): number {
    const started = performance.now();
    this.order = [];
    for (let row = 0; row < this.n; row++) if (passes(row)) this.order.push(row);
    this.sort();
    const took = performance.now() - started;
    this.counted(this.order.length);
    return took;
  }

  private sort(): void {
    const column = this.columns.find((one) => one.name === this.sortedBy);
    if (!column) return;
    const sign = this.descending ? -1 : 1;
    const values = new Map(this.order.map((row) => [row, column.value(row)]));
    this.order.sort((a, b) => {
      const [one, other] = [values.get(a) as number | string, values.get(b) as number | string];
      if (typeof one === "string" || typeof other === "string") return sign * String(one).localeCompare(String(other));
      if (Number.isNaN(one)) return 1; // what has no number comes last, whichever way the others go
      if (Number.isNaN(other)) return -1;
      return sign * (one - other);
    });
    this.spacer.style.height = `${this.order.length * ROW_PIXELS}px`;
    this.scroll.scrollTop = 0;
    this.show();
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
    });
    return cell;
  }

  private sortOf(column: Column): string {
    if (column.name !== this.sortedBy) return "none";
    return this.descending ? "descending" : "ascending";
  }

  private show(): void {
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
            { role: "row", class: "long-row", "aria-rowindex": first + place + 1 },
            ...this.columns.map((column) => h("div", { role: "cell" }, column.shown(row))),
          ),
        ),
    );
  }
}
