/** Figures as files. */

import { h } from "./dom";

/** A button that saves a canvas, as it is now, as PNG. */
export function savePng(canvas: HTMLCanvasElement, name: string): HTMLButtonElement {
  const save = (): void => canvas.toBlob((file) => file && saveFile(file, `${name}.png`));
  return h("button", { type: "button", click: save, "aria-label": `save ${name} as PNG` }, "PNG");
}

export function saveFile(file: Blob, name: string): void {
  const target = h("a", { href: URL.createObjectURL(file), download: name });
  target.click();
  // a download reads it after the click
  setTimeout(() => URL.revokeObjectURL(target.href), 10_000);
}
