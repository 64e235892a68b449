#!/usr/bin/env bash
# peft 0.21.2: an adapter of a 4-layer model loads on a 2-layer model without a word; the weights of two layers are lost.
#
# Expected: an error or a warning that names the weights of the file that no module takes, as load_state_dict gives.
# Found: no exception and no warning. On a deeper model a warning lists the missing keys; on a shallower one, which is
# what dropping layers makes, nothing tells that half of the adapter is not used.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
import warnings

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BertConfig, BertForSequenceClassification


def classifier(depth):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 20}
    return BertForSequenceClassification(BertConfig(num_hidden_layers=depth, **sizes))


config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
get_peft_model(classifier(4), config).save_pretrained(sys.argv[1])
messages = {}
for depth in (2, 8):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftModel.from_pretrained(classifier(depth), sys.argv[1])
    messages[depth] = [str(warning.message) for warning in caught if "adapter" in str(warning.message)]
print({depth: [message[:60] for message in found] for depth, found in messages.items()})
assert not messages[2] and len(messages[8]) == 1, "the behavior has changed"
PYTHON
