#!/usr/bin/env bash
# peft 0.21.2: names in a LoraConfig that fit no module are passed over without a warning.
#
# Expected: a name that fits no module of the model is an error or a warning, as it is in rank_pattern.
# Found: modules_to_save=["score"] on a BERT, whose head is called classifier, trains and saves no head. The last number
# of layers_to_transform=[1, 2], counted from 1, is passed over, so that the first layer has no adapter. And
# exclude_modules=["layer.0"] excludes nothing, because it must be the end of a module's name. No warning in any case.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
cases = {
    "rank_pattern": {"layer.0": 4},
    "modules_to_save": ["score"],
    "layers_to_transform": [1, 2],
    "exclude_modules": ["layer.0"],
}
found = {}
for option, value in cases.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        config = LoraConfig(target_modules=["query"], **{option: value})
        model = get_peft_model(BertForSequenceClassification(BertConfig(**sizes)), config)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    found[option] = {
        "adapters": sum("lora_A" in name for name in trained),
        "head": any("classifier" in name for name in trained),
        "warned": any(option in str(warning.message) for warning in caught),
    }
    print(f"{option}={value}: {found[option]}")
assert found["rank_pattern"]["warned"], "the behavior has changed"
assert not any(found[option]["warned"] for option in list(cases)[1:]), "the behavior has changed"
assert not found["modules_to_save"]["head"], "the behavior has changed"
assert [case["adapters"] for case in found.values()] == [2, 2, 1, 2], "the behavior has changed"
PYTHON
