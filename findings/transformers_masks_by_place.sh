#!/usr/bin/env bash
# transformers 5.23.0: the layers of Qwen2 and Gemma 3 take their attention mask from their place in the model.
#
# Expected: a layer with a sliding window keeps it when a layer below is removed, as in transformers 4, where a layer
# stated its attention_type, and as in ModernBERT of this version.
# Found: the layer at place k is given the mask of config.layer_types[k]. After model.layers = ModuleList(layers[1:]), a
# common way to make a student, a layer that saw a window sees the whole text, and the other way round. Nothing tells
# it, as all shapes fit. The entries of config.layer_types must be removed with the layers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import AutoModelForSequenceClassification, Gemma3TextConfig, ModernBertConfig, Qwen2Config

sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "pad_token_id": 0}
sizes |= {"num_hidden_layers": 4, "layer_types": ["full_attention", "sliding_attention"] * 2}
decoder = sizes | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 2}
configs = [
    Qwen2Config(**decoder, use_sliding_window=True),
    Gemma3TextConfig(**decoder),
    ModernBertConfig(**sizes, local_attention=2),
]


def reads_whole_text(model, layer):
    """Whether the last position of a layer's output depends on the first position of its input."""
    states = {}

    def before(module, args):
        states["input"] = args[0].detach().requires_grad_()
        return (states["input"], *args[1:])

    def after(module, args, output):
        states["output"] = output[0] if isinstance(output, tuple) else output

    handles = [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    model(torch.arange(5, 17)[None])
    for handle in handles:
        handle.remove()
    (gradient,) = torch.autograd.grad(states["output"].reshape(-1, 16)[-1].sum(), states["input"])
    return bool(gradient.reshape(-1, 16)[0].any())


found = {}
for config in configs:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    layers = list(model.model.layers)
    whole = [reads_whole_text(model, layer) for layer in layers]
    model.model.layers = torch.nn.ModuleList(layers[1:])
    model.config.num_hidden_layers = 3
    for place, layer in enumerate(layers[1:]):
        if config.model_type != "modernbert":
            layer.self_attn.layer_idx = place  # of the cache
    found[config.model_type] = (whole[1:], [reads_whole_text(model, layer) for layer in layers[1:]])
    print(config.model_type, "layers 2 to 4 read the whole text:", found[config.model_type][0], end=", ")
    print("without layer 1:", found[config.model_type][1])
assert found["qwen2"] == found["gemma3_text"] == ([False, True, False], [True, False, True]), "the behavior has changed"
assert found["modernbert"] == ([False, True, False], [False, True, False]), "the behavior has changed"
PYTHON
