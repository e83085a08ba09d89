/** The server's answers. Arrays come as one safetensors file; its metadata holds, as JSON, what is said of them. */

export type Numbers = Uint8Array | Uint16Array | Int32Array | Uint32Array | Float32Array;

export interface Packed<Meta> {
  meta: Meta;
  arrays: Record<string, { values: Numbers; shape: number[] }>;
}

const TYPES = { U8: Uint8Array, U16: Uint16Array, I32: Int32Array, U32: Uint32Array, F32: Float32Array } as const;

interface Entry {
  dtype: keyof typeof TYPES;
  shape: number[];
  data_offsets: [number, number];
}

export function unpack<Meta>(message: ArrayBuffer): Packed<Meta> {
  const begin = 8 + Number(new DataView(message).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(message, 8, begin - 8)));
  const { __metadata__: said, ...entries } = header as { __metadata__: { about: string } } & Record<string, Entry>;
  const arrays: Packed<Meta>["arrays"] = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(entries)) {
    const length = shape.reduce((product, n) => product * n, 1);
    arrays[name] = { values: new TYPES[dtype](message, begin + data_offsets[0], length), shape };
  }
  return { meta: JSON.parse(said.about) as Meta, arrays };
}

/** The server refused, with its reason, or did not answer at all. */
export class UnansweredError extends Error {
  /** @param page the <main> that was shown when it was asked: once that was left, nobody wants to read of it */
  constructor(
    message: string,
    readonly page: Element | null,
  ) {
    super(message);
  }
}

async function asked<T>(path: string, init: RequestInit, read: (response: Response) => Promise<T>): Promise<T> {
  const page = document.getElementById("page");
  let response: Response;
  try {
    response = await fetch(`/api${path}`, init);
    if (response.ok) return await read(response);
  } catch (error) {
    if ((error as Error).name === "AbortError") throw error;
    throw new UnansweredError("The explorer does not answer; is it still running?", page);
  }
  const text = await response.text();
  let reason = text;
  try {
    const detail = JSON.parse(text).detail;
    reason = typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {
    // not JSON: the text itself says what is wrong
  }
  throw new UnansweredError(reason || `${response.status} ${response.statusText}`, page);
}

export async function json<T>(path: string, signal?: AbortSignal): Promise<T> {
  return asked(path, signal ? { signal } : {}, (response) => response.json() as Promise<T>);
}

export async function binary<Meta>(path: string, body?: unknown, signal?: AbortSignal): Promise<Packed<Meta>> {
  const init: RequestInit = body === undefined ? {} : sent("POST", body);
  if (signal) init.signal = signal;
  return unpack<Meta>(await asked(path, init, (response) => response.arrayBuffer()));
}

/** A file as it is. */
export async function bytes(path: string): Promise<ArrayBuffer> {
  return asked(path, {}, (response) => response.arrayBuffer());
}

export async function send(method: "PUT" | "DELETE", path: string, body?: unknown): Promise<void> {
  await asked(path, body === undefined ? { method } : sent(method, body), (response) => response.text());
}

function sent(method: string, body: unknown): RequestInit {
  return { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

/** Of answers that overtake each other only the newest is shown: each call gets a question, whether none came after it. */
export function newest(): () => () => boolean {
  let calls = 0;
  return () => {
    const own = ++calls;
    return () => own === calls;
  };
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
