#!/usr/bin/env bash
# transformers.js 4.3.2: the text-classification pipeline gives the score 1 to every text of a regression model.
#
# Expected: with "problem_type": "regression" in config.json the score is the model's output, as in the Python pipeline.
# Found: every problem type but "multi_label_classification" gets a softmax over the labels, which is 1 for one label.
# So read the logits of `AutoModelForSequenceClassification` for such a model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --silent --ignore-scripts --prefix "$folder" @huggingface/transformers@4.3.2
cat >"$folder/check.mjs" <<'JAVASCRIPT'
import {Tensor, TextClassificationPipeline} from '@huggingface/transformers';

const config = {problem_type: 'regression', id2label: {0: 'similarity'}};
const outputs = [3.5, -2];
const model = Object.assign(async () => ({logits: new Tensor('float32', outputs, [2, 1])}), {config});
const pipeline = new TextClassificationPipeline({task: 'text-classification', tokenizer: () => ({}), model});
const scores = (await pipeline(['a', 'b'])).map(({score}) => score);
console.log('outputs:', outputs, 'scores:', scores);
if (scores.some(score => score !== 1)) throw new Error('the behavior has changed');
JAVASCRIPT
cd "$folder" && node check.mjs
