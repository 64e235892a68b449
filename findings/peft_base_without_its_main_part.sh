#!/usr/bin/env bash
# peft 0.21.2: disable_adapter() does not give the base model if the adapter started from PiSSA or OLoRA.
#
# Expected: "Use this to run inference on the base model", for instance as the teacher of the model with its adapter.
# unload() "gets back the base model".
# Found: these initializations take a part out of the weights of the base and put it into the adapter. Without the
# adapter this part is missing: the logits of the "base model" are those of no model, before any training. There is no
# warning, as there is one for a trained bias. A LoRA that starts from zero gives the base model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" - 2>"$folder/warnings" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ids = torch.arange(5, 45).view(10, 4)
found = {}
for initialization in (True, "pissa", "olora"):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes)).eval()
    with torch.no_grad():
        base = model(ids).logits
        config = LoraConfig(target_modules=["query", "value", "dense"], init_lora_weights=initialization)
        model = get_peft_model(model, config).eval()
        logits = {"with the adapter": model(ids).logits}
        with model.disable_adapter():
            logits["disable_adapter"] = model(ids).logits
        logits["unload"] = model.unload()(ids).logits
    spread = base.std(0).mean()
    differences = {name: ((value - base).abs().max() / spread).item() for name, value in logits.items()}
    found[initialization] = {name: round(difference, 3) for name, difference in differences.items()}
    print(initialization, "difference to the base model, in spreads of its logits:", found[initialization])
assert set(found[True].values()) == {0.0}, "the behavior has changed"
for initialization in ("pissa", "olora"):
    assert found[initialization]["with the adapter"] < 0.01, "the behavior has changed"
    assert found[initialization]["disable_adapter"] > 0.5, "the behavior has changed"
    assert found[initialization]["unload"] > 0.5, "the behavior has changed"
PYTHON
! grep --ignore-case "base model\|disabl" "$folder/warnings" || { echo "the behavior has changed"; exit 1; }
