/** The server's answers, and the binary form in which arrays come (see packing.py). */

export type Numbers = Uint8Array | Uint16Array | Int32Array | Uint32Array | Float32Array;

export interface Packed<Meta> {
  meta: Meta;
  arrays: Record<string, { values: Numbers; shape: number[] }>;
}

const TYPES = {
  uint8: Uint8Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  float32: Float32Array,
} as const;

export function unpack<Meta>(message: ArrayBuffer): Packed<Meta> {
  const begin = 4 + new DataView(message).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(message, 4, begin - 4)));
  const arrays: Packed<Meta>["arrays"] = {};
  for (const [name, entry] of Object.entries<{ dtype: keyof typeof TYPES; shape: number[]; start: number }>(
    header.arrays,
  )) {
    const length = entry.shape.reduce((product, n) => product * n, 1);
    arrays[name] = { values: new TYPES[entry.dtype](message, begin + entry.start, length), shape: entry.shape };
  }
  return { meta: header.meta as Meta, arrays };
}

async function asked(path: string, init?: RequestInit): Promise<Response> {
  const response = await fetch(`/api${path}`, init);
  if (!response.ok) {
    const text = await response.text();
    let reason = text;
    try {
      const detail = JSON.parse(text).detail;
      reason = typeof detail === "string" ? detail : JSON.stringify(detail);
    } catch {
      // not JSON: the text itself says what is wrong
    }
    throw new Error(reason || `${response.status} ${response.statusText}`);
  }
  return response;
}

export async function json<T>(path: string): Promise<T> {
  return (await asked(path)).json() as Promise<T>;
}

export async function binary<Meta>(path: string, body?: unknown, signal?: AbortSignal): Promise<Packed<Meta>> {
  const init: RequestInit = body === undefined ? {} : sent("POST", body);
  if (signal) init.signal = signal;
  return unpack<Meta>(await (await asked(path, init)).arrayBuffer());
}

/** A file as it is. */
export async function bytes(path: string): Promise<ArrayBuffer> {
  return (await asked(path)).arrayBuffer();
}

export async function send(method: "PUT" | "DELETE", path: string, body?: unknown): Promise<void> {
  await asked(path, body === undefined ? { method } : sent(method, body));
}

function sent(method: string, body: unknown): RequestInit {
  return { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

const kept = new Map<string, Promise<unknown>>();

/** The answer of an earlier call of the same name, or this one's. */
export function once<T>(name: string, ask: () => Promise<T>): Promise<T> {
  if (!kept.has(name)) {
    const answer = ask();
    kept.set(name, answer);
    answer.catch(() => kept.delete(name));
  }
  return kept.get(name) as Promise<T>;
}

export function forget(name: string): void {
  kept.delete(name);
}
