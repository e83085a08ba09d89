// Bundles the page's script; the result is shipped in the Python package, so that installing it needs no Node.
import { build } from "esbuild";
import { copyFile } from "node:fs/promises";

const shipped = "../src/seglens/explorer/static";
await build({
  entryPoints: ["src/main.ts"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  outfile: `${shipped}/explorer.js`,
});
for (const name of ["index.html", "explorer.css"]) await copyFile(`src/${name}`, `${shipped}/${name}`);
