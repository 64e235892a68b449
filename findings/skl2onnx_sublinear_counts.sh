#!/usr/bin/env bash
# skl2onnx 1.20.0: a TfidfVectorizer with sublinear_tf=True is exported with another formula.
#
# Expected: the ONNX model weights a word that occurs n times by 1 + log(n), as scikit-learn does.
# Found: it weights it by log(1 + n). One occurrence counts 0.69 in place of 1, three count 1.39 in place of 2.10. The
# norm hides the difference as long as no word of a text occurs twice; repeated words count too little against the
# others (3 occurrences 2.00 times one, in place of 2.10). The probabilities of a classifier move: 0.51, which is
# positive, becomes 0.49. Nothing says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.31.1 scikit-learn==1.9.1 \
    numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

texts = ["good film", "bad film", "good good good fun", "bad bad music", "fun and good music", "bad and slow"]
labels = [1, 0, 1, 0, 1, 0]


def exported(model):
    options = {id(model[-1]): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    proto = to_onnx(model, initial_types=[("x", StringTensorType([None, 1]))], options=options, target_opset=18)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": np.array(x)[:, None]})[-1]


found = {}
for sublinear in (False, True):
    options = {"lowercase": False, "sublinear_tf": sublinear}
    counts = TfidfVectorizer(use_idf=False, norm=None, **options).fit(texts)
    good = counts.vocabulary_["good"]
    weights = [counts.transform(texts[:3]).toarray()[[0, 2], good], exported(counts)(texts[:3])[[0, 2], good]]
    model = make_pipeline(TfidfVectorizer(**options), LogisticRegression(C=100)).fit(texts, labels)
    new = ["fun fun fun music bad", "fun and good music"]
    probabilities = [model.predict_proba(new)[:, 1], exported(model)(new)[:, 1]]
    found[sublinear] = np.round(weights, 3), np.round(probabilities, 3)
    print(f"sublinear_tf={sublinear}, scikit-learn and ONNX:", *(value.tolist() for value in found[sublinear]))
assert all(np.allclose(*value, atol=0.001) for value in found[False]), "the behavior has changed"
n = np.array([1, 3])
assert np.allclose(found[True][0], [1 + np.log(n), np.log(1 + n)], atol=0.001), "the behavior has changed"
assert abs(found[True][1][0, 0] - found[True][1][1, 0]) > 0.01, "the behavior has changed"
PYTHON
