#!/usr/bin/env bash
# transformers 5.23.0: the arguments of a tokenizer's last call are saved, and other readers of the file follow them.
#
# Expected: save_pretrained writes the tokenizer as it was loaded; truncation and padding are arguments of a call.
# Found: after tokenizer(text, truncation=True, max_length=4, padding="max_length") tokenizer.json truncates and pads to
# 4. The package tokenizers, which servers of ONNX files use, then cuts every text to 4 tokens without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2}, unk_token="[UNK]"))
words.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
text = "a a a a a a"
lengths = []
for arguments in ({}, {"truncation": True, "max_length": 4, "padding": "max_length"}):
    tokenizer(text, **arguments)
    tokenizer.save_pretrained(sys.argv[1])
    lengths.append(len(Tokenizer.from_file(f"{sys.argv[1]}/tokenizer.json").encode(text).ids))
print("tokens of the text, saved before and after the call:", lengths)
assert lengths == [6, 4], "the behavior has changed"
PYTHON
