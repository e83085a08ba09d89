/**
 * NiiVue with what the page of a volume asks of it. A file of its own (static/viewer.js): it is many times larger than
 * all the pages, so it is loaded when a volume is opened.
 */

import { DRAG_MODE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
import type { NiiVueLocation } from "@niivue/niivue";

export type Voxel = [number, number, number];

export interface Label {
  value: number;
  name: string;
  /** As #rrggbb. */
  colour: string;
}

export const VIEWS = {
  "three planes": SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
} as const;

export class Viewer {
  private readonly niivue: Niivue;
  private mask: NVImage | undefined;

  /** `moved` is told where the crosshair is, and what each volume holds there. */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    moved: (voxel: Voxel, values: number[]) => void,
  ) {
    this.niivue = new Niivue({
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      showAllOrientationMarkers: true,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarPadPixels: 28, // or the letters of one picture read with those of the next
      crosshairWidth: 1,
      crosshairWidthUnit: "mm",
      isNearestInterpolation: true, // voxels as they are: a mask between two labels is neither
      dragMode: DRAG_MODE.none, // the window has its sliders
      dragAndDropEnabled: false, // only what the run holds is shown
      scrollRequiresFocus: true,
      logLevel: "error",
      loadingText: "",
    });
    // keys belong to the page, whose sliders move the crosshair; NiiVue's own change what nothing here shows
    this.niivue.keyDownListener = this.niivue.keyUpListener = () => undefined;
    this.niivue.onLocationChange = (location) => {
      const { vox, values } = location as NiiVueLocation;
      moved([...vox].slice(0, 3).map(Math.round) as Voxel, values.map((own) => own.value));
    };
  }

  async open(mask: ArrayBuffer, labels: Label[], opacity: number): Promise<void> {
    await this.niivue.attachToCanvas(this.canvas);
    this.mask = await NVImage.loadFromUrl({ url: "mask.nii", name: "mask.nii", buffer: mask, opacity });
    const channel = (at: number): number[] => [0, ...labels.map(({ colour }) => parseInt(colour.slice(at, at + 2), 16))];
    this.mask.setColormapLabel({
      R: channel(1),
      G: channel(3),
      B: channel(5),
      A: [0, ...labels.map(() => 255)],
      I: [0, ...labels.map(({ value }) => value)],
      labels: ["", ...labels.map(({ name }) => name)],
    });
  }

  /** Show a sequence below the mask; the crosshair stays where it is. Returns lowest and highest value, and the window. */
  async show(image: ArrayBuffer): Promise<{ range: [number, number]; window: [number, number] }> {
    const own = await NVImage.loadFromUrl({ url: "image.nii", name: "image.nii", buffer: image, colormap: "gray" });
    // both at once: each change of the list makes all textures anew, which takes seconds without a graphics card
    this.niivue.volumes = this.mask ? [own, this.mask] : [own];
    this.niivue.setVolume(own, 0);
    return {
      range: [own.global_min ?? 0, own.global_max ?? 1],
      window: [own.cal_min ?? 0, own.cal_max ?? 1],
    };
  }

  /** Voxels of the volume along its axes: to the patient's right, front and top. */
  size(): Voxel {
    const dims = this.niivue.volumes[0]?.dimsRAS ?? [3, 1, 1, 1];
    return [dims[1] as number, dims[2] as number, dims[3] as number];
  }

  /** The middle of what is marked in an axial slice; of the slice where nothing is. */
  middle(slice: number): Voxel {
    const [columns, rows] = this.size();
    const mask = this.mask?.img;
    let [n, x, y] = [0, 0, 0];
    for (let row = 0; mask && row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (!mask[column + columns * (row + rows * slice)]) continue;
        [n, x, y] = [n + 1, x + column, y + row];
      }
    }
    return n ? [Math.round(x / n), Math.round(y / n), slice] : [Math.floor(columns / 2), Math.floor(rows / 2), slice];
  }

  place(voxel: Voxel): void {
    this.niivue.scene.crosshairPos = this.niivue.vox2frac(voxel);
    this.niivue.drawScene();
    this.niivue.createOnLocationChange();
  }

  view(name: keyof typeof VIEWS): void {
    this.niivue.setSliceType(VIEWS[name]);
  }

  window(black: number, white: number): void {
    const own = this.niivue.volumes[0];
    if (!own) return;
    own.cal_min = black;
    own.cal_max = white;
    this.niivue.updateGLVolume();
  }

  opacity(share: number): void {
    if (this.niivue.volumes.length > 1) this.niivue.setOpacity(1, share);
  }

  close(): void {
    this.niivue.cleanup();
    // browsers keep only some WebGL contexts, and each holds whole volumes
    this.canvas.getContext("webgl2")?.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
