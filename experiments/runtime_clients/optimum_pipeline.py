"""Answers texts with optimum-onnx in a pipeline of transformers: EXPORT TEXTS.json ANSWERS.json."""

import json
import sys
from importlib.metadata import version

from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

folder, texts, answers = sys.argv[1:]
with open(texts) as file:
    texts = json.load(file)
found = {"version": f"optimum-onnx {version('optimum-onnx')}, transformers {version('transformers')}"}
tokenizer = AutoTokenizer.from_pretrained(folder)
for kind, name in (("float32", "model.onnx"), ("int8", "model_quantized.onnx")):
    model = ORTModelForSequenceClassification.from_pretrained(folder, subfolder="onnx", file_name=name)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    rows = []
    for text in texts:
        (entries,) = classify([text], truncation=True)
        scores = {entry["label"]: entry["score"] for entry in entries}
        rows.append([scores[model.config.id2label[index]] for index in range(len(scores))])
    found[kind] = rows
with open(answers, "w") as file:
    json.dump(found, file)
