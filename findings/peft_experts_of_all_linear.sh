#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0: target_modules="all-linear" reaches the experts of Mixtral, not those of Qwen2-MoE.
#
# Expected: "all-linear" gives all linear maps of the layers an adapter, in models with experts too, as in transformers
# 4, where the experts of Mixtral and Qwen2-MoE were modules of torch.nn.Linear; or a warning names what is left out.
# Found: transformers 5 keeps the experts of a layer in 2 parameters. PEFT adapts them in Mixtral, OLMoE and Qwen3-MoE.
# In Qwen2-MoE, Granite-MoE and GPT-OSS the experts, most of the weights, stay frozen without a word, so that two models
# with the same LoraConfig are trained in different parts. target_parameters takes their names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import transformers
from peft import LoraConfig, get_peft_model

sizes = {"hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 4, "num_local_experts": 4}
sizes |= {"shared_expert_intermediate_size": 16, "vocab_size": 50}
sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
adapted = {}
for name in ("Mixtral", "Qwen3Moe", "Olmoe", "Qwen2Moe", "GraniteMoe", "GptOss"):
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    model = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    adapted[name] = any("experts" in key and "lora_A" in key for key, _ in model.named_parameters())
print("the experts have adapters:", adapted)
expected = dict(Mixtral=True, Qwen3Moe=True, Olmoe=True, Qwen2Moe=False, GraniteMoe=False, GptOss=False)
assert adapted == expected, "the behavior has changed"
PYTHON
