// Answers texts with transformers.js in Node: EXPORT TEXTS.json ANSWERS.json.
import {readFileSync, writeFileSync} from 'node:fs';
import {basename, dirname, resolve} from 'node:path';
import {env, pipeline} from '@huggingface/transformers';

const [folder, texts, answers] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(folder));
const found = {version: `transformers.js ${env.version}, Node ${process.versions.node}`};
for (const [kind, dtype] of [['float32', 'fp32'], ['int8', 'q8']]) {
  const classify = await pipeline('text-classification', basename(resolve(folder)), {dtype});
  const names = classify.model.config.id2label;
  found[kind] = [];
  for (const text of JSON.parse(readFileSync(texts, 'utf-8'))) {
    const scores = Object.fromEntries((await classify(text, {top_k: null})).map(({label, score}) => [label, score]));
    found[kind].push(Object.keys(names).map(index => scores[names[index]]));
  }
}
writeFileSync(answers, JSON.stringify(found));
