#!/usr/bin/env bash
# transformers.js 4.3.2: at a model folder given as a whole address, the tokenizer is not found, without an error.
#
# Expected: env.localModelPath may be "http://host/models/", as for config.json and the ONNX file, which are fetched.
# Found: whether tokenizer_config.json exists is asked for paths alone, so that an address has no tokenizer files. A
# pipeline then fails at the first text with "this.tokenizer is not a function". A path works: "/models/".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --silent --ignore-scripts --prefix "$folder" @huggingface/transformers@4.3.2
mkdir -p "$folder/models/tiny"
echo '{"tokenizer_class": "BertTokenizer"}' >"$folder/models/tiny/tokenizer_config.json"
cat >"$folder/check.mjs" <<'JAVASCRIPT'
import {createServer} from 'node:http';
import {createReadStream} from 'node:fs';
import {env, ModelRegistry} from '@huggingface/transformers';

const server = createServer((request, response) => createReadStream(`.${request.url}`).pipe(response));
await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
env.allowRemoteModels = false;
env.localModelPath = './models/';
const atPath = await ModelRegistry.get_tokenizer_files('tiny');
env.localModelPath = `http://127.0.0.1:${server.address().port}/models/`;
const atAddress = await ModelRegistry.get_tokenizer_files('./tiny');  // another name, because answers are kept
server.close();
console.log('at a path:', atPath, 'at an address:', atAddress);
if (atPath.length !== 2 || atAddress.length !== 0) throw new Error('the behavior has changed');
process.exit(0);
JAVASCRIPT
cd "$folder" && node check.mjs
