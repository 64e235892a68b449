#!/usr/bin/env bash
# Makes a folder for any static host that classifies comments in the visitor's browser.
#
#     browser/build.sh outputs/toxic_comments-odd/export site
#     python -m http.server --directory site
#
# The folder holds this page, an export of run_export.py (config, tokenizer, thresholds and the int8 graph), and
# transformers.js with the WebAssembly of ONNX Runtime from npm. The page loads nothing from another server.
set -euo pipefail
export_folder=$1
site=$2
here=$(dirname "$0")
if grep -q '"problem_type": "regression"' "$export_folder/config.json"; then
  echo "The page shows labels, and $export_folder is a regression model. Read its number from the ONNX file." >&2
  exit 1
fi
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
npm install --silent --ignore-scripts --prefix "$packages" @huggingface/transformers@4.3.2

mkdir -p "$site/vendor" "$site/model/onnx"
cp "$here"/index.html "$here"/page.css "$here"/page.js "$site"
cp "$packages"/node_modules/@huggingface/transformers/dist/transformers.min.js "$site/vendor"
cp "$packages"/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.{mjs,wasm} "$site/vendor"
cp "$export_folder"/{config,tokenizer,tokenizer_config,thresholds}.json "$site/model"
cp "$export_folder"/onnx/model_quantized.onnx "$site/model/onnx"
du -sh "$site"
