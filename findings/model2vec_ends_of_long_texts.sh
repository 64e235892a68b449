#!/usr/bin/env bash
# model2vec 0.10.0: a trained classifier and the pipeline made from it read different parts of a long text.
#
# Expected: to_pipeline() gives the classifier for inference, with the same answers, up to max_length tokens of a text.
# Found: the classifier drops unknown tokens and then cuts at max_length; the pipeline cuts first, so that numbers and
# names without a vector use up the length. The pipeline also cuts at max_length * (median length of a token in the
# vocabulary) characters, the classifier at max_length * 10: a text of 49 tokens with wide spaces loses its end although
# max_length is 64. Both texts, which end badly, are "bad" for the classifier and "good" for its pipeline, saved or not.
# max_length=None in predict() of the pipeline reads all of a text.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 "model2vec[train]==0.10.0" numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2> "$folder/progress.txt" <<'PYTHON'
import numpy as np
from model2vec import StaticModel
from model2vec.train import StaticModelForClassification
from tokenizers import Tokenizer, models, pre_tokenizers

words = "order of for on the delivery service was time good quick kind terrible late rude refund refused".split()
vocabulary = {word: i for i, word in enumerate(["[UNK]", *words])}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
vectors = np.random.default_rng(0).normal(size=(len(vocabulary), 16)).astype("float32")
encoder = StaticModel(vectors, tokenizer, max_length=64)
good = ["good quick delivery", "kind service", "good service", "quick kind"] * 8
bad = ["terrible service", "late delivery refund refused", "rude service", "terrible rude"] * 8
classifier = StaticModelForClassification.from_static_model(model=encoder)
classifier.fit(good + bad, ["good"] * len(good) + ["bad"] * len(bad), max_epochs=20, early_stopping_patience=None)
pipeline = classifier.to_pipeline()

complaint = "terrible rude late refund refused "
dates = " ".join(f"{day}.5." for day in range(10, 24))
texts = {"short": complaint, "dates": "good quick " * 4 + dates + " " + complaint * 3}
texts["spaces"] = "quick    delivery    good    service    \n" * 6 + complaint * 5
found = {}
for name, text in texts.items():
    known = [token for token in tokenizer.encode(text).tokens if token != "[UNK]"]
    answers = classifier.predict([text])[0], pipeline.predict([text])[0], pipeline.predict([text], max_length=None)[0]
    found[name] = tuple(str(answer) for answer in answers)
    print(f"{name}: {len(tokenizer.encode(text))} tokens, {len(known)} of them known, {len(text)} characters")
    print("  classifier, its pipeline, its pipeline without a limit:", found[name])
assert encoder.max_length == 64 and set(found["short"]) == {"bad"}, "the behavior has changed"
assert found["dates"] == found["spaces"] == ("bad", "good", "bad"), "the behavior has changed"
PYTHON
