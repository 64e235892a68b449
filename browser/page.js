// Classifies comments in the browser with transformers.js, from files beside this one alone: see build.sh.
import {env, pipeline} from './vendor/transformers.min.js';

const here = new URL('.', import.meta.url);
env.allowRemoteModels = false;
env.allowLocalModels = true;
// A path: transformers.js 4.3.2 finds no tokenizer at a whole address.
env.localModelPath = here.pathname;
env.backends.onnx.wasm.wasmPaths = `${here}vendor/`;

const result = document.querySelector('#result');
const button = document.querySelector('button');
const inWords = label => label.replaceAll('_', ' ');

function element(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// Which labels a comment has: those that reach their thresholds, or the most probable one of a model without any.
function labelsOf(scores, thresholds) {
  if (!thresholds) return [scores[0].label];
  return scores.filter(({label, score}) => score >= (thresholds[label] ?? 0.5)).map(({label}) => label);
}

function show(scores, labels, milliseconds) {
  const rows = scores.map(({label, score}) => element('tr', {},
    element('th', {scope: 'row', textContent: inWords(label)}),
    element('td', {}, element('meter', {value: score, ariaLabel: inWords(label)})),
    element('td', {textContent: `${(100 * score).toFixed(1)} %`})));
  result.replaceChildren(
    element('h2', {textContent: labels.map(inWords).join(', ') || 'no label'}),
    element('table', {}, ...rows),
    element('p', {textContent: `Answered in ${milliseconds.toFixed(0)} ms.`}));
}

function say(text) {
  result.replaceChildren(element('p', {textContent: text}));
}

async function load() {
  const classify = await pipeline('text-classification', 'model');
  let thresholds = null;
  if (classify.model.config.problem_type === 'multi_label_classification') {
    thresholds = (await (await fetch(`${here}model/thresholds.json`)).json()).thresholds;
  }
  document.querySelector('form').addEventListener('submit', async event => {
    event.preventDefault();
    button.disabled = true;
    try {
      const started = performance.now();
      const scores = await classify(document.querySelector('#comment').value, {top_k: null});
      show(scores, labelsOf(scores, thresholds), performance.now() - started);
    } catch (error) {
      say(`The comment cannot be classified: ${error.message}`);
    }
    button.disabled = false;
  });
  button.disabled = false;
  result.replaceChildren();
}

load().catch(error => say(`The model cannot be loaded: ${error.message}`));
