// Bundles the page's scripts; the result is shipped in the Python package, so that installing it needs no Node.
import { build } from "esbuild";
import { copyFile, readFile, readdir, writeFile } from "node:fs/promises";

const shipped = "../src/seglens/explorer/static";
const settings = {
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  metafile: true,
};
await build({ ...settings, entryPoints: ["src/main.ts"], outfile: `${shipped}/explorer.js` });
const { metafile } = await build({
  ...settings,
  entryPoints: ["src/viewer.ts"],
  outfile: `${shipped}/viewer.js`,
  alias: { zarrita: "./src/empty.ts" },
  logOverride: { "import-is-undefined": "silent" }, // zarrita's
});
for (const name of ["index.html", "explorer.css"]) await copyFile(`src/${name}`, `${shipped}/${name}`);

// Their licences ask to go along with what is made of them.
const foreign = new Set(
  Object.keys(metafile.inputs)
    .map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1])
    .filter(Boolean),
);
const texts = await Promise.all(
  [...foreign].sort().map(async (name) => {
    const about = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
    const file = (await readdir(`node_modules/${name}`)).find((own) => /^licen[cs]e/i.test(own));
    const path = file ? `node_modules/${name}/${file}` : `licences/${name.replace("/", "-")}.txt`;
    return `${name} ${about.version} (${about.license})\n\n${(await readFile(path, "utf8")).trim()}\n`;
  }),
);
await writeFile(`${shipped}/viewer.licences.txt`, texts.join(`\n${"-".repeat(78)}\n\n`));
