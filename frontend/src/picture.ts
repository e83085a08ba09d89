/** A slice on a canvas: grey levels, regions as outlines, a latent's codes as heat. */

/** For regions on a grey scan, by order of the label value (Okabe and Ito 2008). */
export const CLASSES = ["#d55e00", "#56b4e9", "#f0e442", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#ffffff"];
const INFERNO = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"];

type Rgb = [number, number, number];

function rgb(colour: string): Rgb {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)) as Rgb;
}

export function classColour(value: number): string {
  return CLASSES[(value - 1) % CLASSES.length] ?? "#ffffff";
}

function heatColour(share: number): Rgb {
  const place = Math.min(Math.max(share, 0), 1) * (INFERNO.length - 1);
  const low = Math.min(Math.floor(place), INFERNO.length - 2);
  const [a, b] = [rgb(INFERNO[low] as string), rgb(INFERNO[low + 1] as string)];
  return a.map((value, channel) => value + (place - low) * ((b[channel] as number) - value)) as Rgb;
}

/** A colour of the heat scale for a share 0..1; its dark end is lifted, so that points are seen on a dark ground. */
export function ramp(share: number): string {
  return `rgb(${heatColour(0.2 + 0.8 * share).map(Math.round).join(" ")})`;
}

export interface Layers {
  grey: Uint8Array;
  size: [number, number];
  /** Of grey levels 0..255 what is black and what is white. */
  window?: [number, number];
  /** Labels drawn as outlines; several maps have different dashes of thickness. */
  outlines?: { mask: Uint8Array; solid: boolean }[];
  heat?: { map: Float32Array; grid: [number, number]; scale: number; opacity: number };
  /** Pixels where two masks differ. */
  differs?: [Uint8Array, Uint8Array];
}

/** Draw at three canvas pixels a slice pixel, so that outlines are thinner than pixels. */
export function draw(canvas: HTMLCanvasElement, layers: Layers, zoom = 3): void {
  const [rows, columns] = layers.size;
  canvas.width = columns * zoom;
  canvas.height = rows * zoom;
  const context = canvas.getContext("2d");
  if (!context) return;
  const image = context.createImageData(canvas.width, canvas.height);
  const [black, white] = layers.window ?? [0, 255];
  const heat = layers.heat;
  const inside = (mask: Uint8Array, y: number, x: number): number =>
    y < 0 || x < 0 || y >= rows || x >= columns ? 0 : (mask[y * columns + x] as number);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const level = ((layers.grey[y * columns + x] as number) - black) / Math.max(white - black, 1);
      let base: Rgb = Array(3).fill(255 * Math.min(Math.max(level, 0), 1)) as Rgb;
      if (heat) {
        const token = Math.floor((y * heat.grid[0]) / rows) * heat.grid[1] + Math.floor((x * heat.grid[1]) / columns);
        const share = (heat.map[token] as number) / heat.scale;
        if (share > 0) base = mixed(base, heatColour(share), heat.opacity);
      }
      if (layers.differs && layers.differs[0][y * columns + x] !== layers.differs[1][y * columns + x]) {
        base = mixed(base, [255, 0, 255], 0.6);
      }
      for (let v = 0; v < zoom; v++) {
        for (let u = 0; u < zoom; u++) {
          let colour = base;
          for (const { mask, solid } of layers.outlines ?? []) {
            const label = inside(mask, y, x);
            if (!label) continue;
            const edge =
              (v === 0 && inside(mask, y - 1, x) !== label) ||
              (v === zoom - 1 && inside(mask, y + 1, x) !== label) ||
              (u === 0 && inside(mask, y, x - 1) !== label) ||
              (u === zoom - 1 && inside(mask, y, x + 1) !== label);
            if (edge && (solid || (x + y) % 2 === 0)) colour = rgb(classColour(label));
          }
          const at = 4 * ((y * zoom + v) * canvas.width + x * zoom + u);
          image.data.set(colour, at);
          image.data[at + 3] = 255;
        }
      }
    }
  }
  context.putImageData(image, 0, 0);
}

function mixed(below: Rgb, above: Rgb, opacity: number): Rgb {
  return below.map((value, channel) => value + opacity * ((above[channel] as number) - value)) as Rgb;
}
