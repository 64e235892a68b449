#!/usr/bin/env bash
# transformers.js 4.3.2: a text that is too long loses its last special token, and of a pair the second text is cut.
#
# Expected: truncation makes room for the special tokens, [CLS] a b c [SEP], on the side of truncation_side, and takes
# the tokens from the longer text of a pair, as in Python, where the model was trained.
# Found: the finished sequence is cut at its end. [SEP] is missing in all long texts, truncation_side="left" is ignored,
# and behind a long first text the second one vanishes. So a model reads other tokens than in Python and in training.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --silent --ignore-scripts --prefix "$folder" @huggingface/transformers@4.3.2
cat >"$folder/check.mjs" <<'JAVASCRIPT'
import assert from 'node:assert';
import {PreTrainedTokenizer} from '@huggingface/transformers';

const tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'b', 'c', 'd', 'e', 'f'];
const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
const flags = {special: true, single_word: false, lstrip: false, rstrip: false, normalized: false};
const special = (id) => ({SpecialToken: {id, type_id: 0}});
const sequence = (id) => ({Sequence: {id, type_id: 0}});
const single = [special('[CLS]'), sequence('A'), special('[SEP]')];
const special_tokens = Object.fromEntries(
    ['[CLS]', '[SEP]'].map((token) => [token, {id: token, ids: [vocab[token]], tokens: [token]}]),
);
const files = {
    added_tokens: tokens.slice(0, 4).map((content, id) => ({id, content, ...flags})),
    normalizer: null,
    pre_tokenizer: {type: 'WhitespaceSplit'},
    post_processor: {
        type: 'TemplateProcessing', single, pair: [...single, sequence('B'), special('[SEP]')], special_tokens,
    },
    decoder: null,
    model: {
        type: 'WordPiece', vocab, unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 99,
    },
};
const config = {pad_token: '[PAD]', unk_token: '[UNK]', cls_token: '[CLS]', sep_token: '[SEP]', model_max_length: 6};
const read = (truncation_side, ...[text, text_pair = null]) => {
    const tokenizer = new PreTrainedTokenizer(files, {...config, truncation_side});
    const {input_ids} = tokenizer(text, {text_pair, truncation: true});
    return input_ids.tolist()[0].map((id) => tokens[Number(id)]).join(' ');
};
const found = [read('right', 'a b c d e f'), read('left', 'a b c d e f'), read('right', 'a b c d e f', 'b c')];
console.log('at most 6 tokens of "a b c d e f", from the right, from the left, and with "b c" as second text:', found);
assert.deepStrictEqual(found, Array(3).fill('[CLS] a b c d e'), 'the behavior has changed');
JAVASCRIPT
cd "$folder" && node check.mjs
