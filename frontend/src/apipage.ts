/** The API as a page, made from its own description. */

import { json } from "./api";
import { h, replace, table } from "./dom";

interface Schema {
  type?: string;
  enum?: unknown[];
  const?: unknown;
  default?: unknown;
  anyOf?: Schema[];
  items?: Schema;
  $ref?: string;
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
}

interface Operation {
  summary: string;
  description?: string;
  parameters?: { name: string; in: string; required: boolean; schema: Schema }[];
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, { content?: Record<string, { schema?: Schema }> }>;
}

interface Description {
  paths: Record<string, Record<string, Operation>>;
  components?: { schemas?: Record<string, Schema> };
}

export async function apiPage(page: HTMLElement): Promise<void> {
  const { paths, components } = await json<Description>("/openapi.json");
  replace(
    page,
    h("h1", {}, "The API"),
    h(
      "p",
      { class: "quiet" },
      "Everything that these pages show. Arrays come as safetensors, with what is said of them as JSON in the metadata's \"about\". For programs: ",
      h("a", { href: "/api/openapi.json", download: "openapi.json" }, "openapi.json"),
      ".",
    ),
    ...Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => described(method, path, operation)),
    ),
    h("h2", {}, "Forms"),
    ...Object.entries(components?.schemas ?? {}).map(([name, schema]) =>
      h(
        "section",
        {},
        h("h3", { id: name }, name),
        prose(schema.description),
        table(
          ["field", "type", "required"],
          Object.entries(schema.properties ?? {}).map(([field, own]) => [
            field,
            typeOf(own),
            schema.required?.includes(field) ? "yes" : "no",
          ]),
        ),
      ),
    ),
  );
}

function described(method: string, path: string, operation: Operation): HTMLElement {
  const body = Object.values(operation.requestBody?.content ?? {})[0]?.schema;
  const answers = Object.entries(operation.responses).map(([status, answer]) => {
    const [form, own] = Object.entries(answer.content ?? {})[0] ?? ["nothing", {}];
    return `${status}: ${own.schema?.$ref || own.schema?.type ? typeOf(own.schema) : form}`;
  });
  return h(
    "section",
    {},
    h("h2", {}, h("code", {}, `${method.toUpperCase()} ${path}`)),
    prose(operation.description ?? operation.summary),
    operation.parameters?.length
      ? table(
          ["parameter", "in", "type", "required"],
          operation.parameters.map((own) => [own.name, own.in, typeOf(own.schema), own.required ? "yes" : "no"]),
        )
      : null,
    h("p", { class: "quiet" }, `${body ? `Takes ${typeOf(body)}. ` : ""}Answers ${answers.join("; ")}.`),
  );
}

/** Docstrings: paragraphs, without their marks for code. */
function prose(text: string | undefined): HTMLElement | null {
  return text ? h("div", {}, ...text.split(/\n\s*\n/).map((part) => h("p", {}, part.replaceAll("`", "")))) : null;
}

function typeOf(schema: Schema): string {
  if (schema.$ref) return schema.$ref.split("/").pop() ?? "";
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return String(schema.const);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.type === "array") return `list of ${schema.items ? typeOf(schema.items) : "anything"}`;
  const given = schema.default === undefined ? "" : `, ${JSON.stringify(schema.default)} by default`;
  return `${schema.type ?? "anything"}${given}`;
}
