"""Answers texts with OpenVINO and the tokenizers library: EXPORT TEXTS.json ANSWERS.json."""

import json
import sys

import numpy as np
import openvino
from tokenizers import Tokenizer

folder, texts, answers = sys.argv[1:]
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
with open(f"{folder}/tokenizer_config.json") as file:
    tokenizer.enable_truncation(json.load(file)["model_max_length"])
with open(texts) as file:
    encodings = tokenizer.encode_batch(json.load(file))
with open(f"{folder}/config.json") as file:
    # A model that chooses one class may say nothing.
    has_several_labels = json.load(file).get("problem_type") == "multi_label_classification"


def probabilities(logits):
    exponentials = np.exp(logits)
    return exponentials / (exponentials + 1 if has_several_labels else exponentials.sum())


found = {"version": f"openvino {openvino.__version__.split('-')[0]}"}
for kind, name in (("float32", "model"), ("int8", "model_quantized")):
    # By default OpenVINO computes in bfloat16 on processors that have instructions for it.
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(f"{folder}/onnx/{name}.onnx", "CPU", precision)
    rows = []
    for encoding in encodings:
        inputs = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        names = {port.get_any_name() for port in model.inputs}
        logits = model({name: np.array([inputs[name]]) for name in names})["logits"][0]
        rows.append(probabilities(logits.astype(float)).tolist())
    found[kind] = rows
with open(answers, "w") as file:
    json.dump(found, file)
