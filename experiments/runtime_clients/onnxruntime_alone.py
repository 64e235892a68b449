"""Answers texts with ONNX Runtime and the tokenizers library alone: EXPORT TEXTS.json ANSWERS.json."""

import json
import sys

import numpy as np
import onnxruntime
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


found = {"version": f"onnxruntime {onnxruntime.__version__}"}
for kind, name in (("float32", "model"), ("int8", "model_quantized")):
    session = onnxruntime.InferenceSession(f"{folder}/onnx/{name}.onnx", providers=["CPUExecutionProvider"])
    rows = []
    for encoding in encodings:
        inputs = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        (logits,) = session.run(
            ["logits"], {node.name: np.array([inputs[node.name]]) for node in session.get_inputs()}
        )
        rows.append(probabilities(logits[0].astype(float)).tolist())
    found[kind] = rows
with open(answers, "w") as file:
    json.dump(found, file)
