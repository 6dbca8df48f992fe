import { defineConfig } from "vite";
import { viteSingleFile } from "vite-plugin-singlefile";

// One file with everything in it: no further request, so it works at any prefix and behind any proxy, and a strict
// content policy can name its script and its style by their hashes.
export default defineConfig({
  plugins: [viteSingleFile()],
  build: { outDir: "../static", emptyOutDir: true, target: "es2022" },
});
