#!/usr/bin/env bash
# Two public clients of the Perspective API talk to the app, unchanged but for the address.
#
#     experiments/perspective_clients.sh outputs/toxic_comments-odd
#
# starts the app with the model, installs perspective-api-client (npm) and google-api-python-client (PyPI) in a temporary
# folder, and runs each client as its users write it. PYTHON names the interpreter that the app runs with.
set -euo pipefail
model=$1
python=${PYTHON:-python}
port=${PORT:-7869}
address=http://127.0.0.1:$port
folder=$(mktemp -d)
"$python" -m app --model_dir "$model" --port "$port" >"$folder/app.log" 2>&1 &
app=$!
trap 'kill $app 2>/dev/null || true; rm -rf "$folder"' EXIT

npm install --silent --prefix "$folder" perspective-api-client@3.1.0
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-api-python-client==2.202.0
until curl --silent --fail "$address/healthz" >/dev/null; do
  kill -0 $app 2>/dev/null || { cat "$folder/app.log" >&2; exit 1; }
  sleep 0.5
done

echo "== perspective-api-client 3.1.0"
cat >"$folder/client.js" <<'JAVASCRIPT'
const assert = require('assert');
const Perspective = require('perspective-api-client');
const address = process.argv[2];
// The client has its address built in.
require('axios').interceptors.request.use(config => {
  config.url = config.url.replace('https://commentanalyzer.googleapis.com', address);
  return config;
});
const perspective = new Perspective({apiKey: 'not-needed'});
(async () => {
  const insult = await perspective.analyze('You are an idiot, and everybody laughs at you.');
  const score = insult.attributeScores.TOXICITY.summaryScore.value;
  console.log('insult', score);
  assert(score > 0.5 && insult.attributeScores.TOXICITY.spanScores.length === 1);

  const kind = await perspective.analyze('<b>Thank you</b>, my friend!', {attributes: ['toxicity']});
  console.log('kind words', kind.attributeScores.TOXICITY.summaryScore.value);
  assert(kind.attributeScores.TOXICITY.summaryScore.value < 0.5);

  const sentences = await perspective.analyze({
    comment: {text: 'Thank you, my friend! You are an idiot.'},
    requestedAttributes: {TOXICITY: {scoreThreshold: 0.5}},
    spanAnnotations: true,
    clientToken: 'token',
  });
  console.log('sentences', JSON.stringify(sentences.attributeScores.TOXICITY.spanScores));
  assert.strictEqual(sentences.attributeScores.TOXICITY.spanScores[0].begin, 22);
  assert.strictEqual(sentences.clientToken, 'token');

  await assert.rejects(perspective.analyze('Hello', {attributes: ['nothing']}), error => {
    console.log('refused', error.name, error.message);
    return error instanceof Perspective.ResponseError && error.message === 'Unknown requested attribute: NOTHING';
  });
  await assert.rejects(perspective.analyze(''), Perspective.TextEmptyError);
})().catch(error => { console.error(error); process.exit(1); });
JAVASCRIPT
(cd "$folder" && node client.js "$address")

echo "== google-api-python-client 2.202.0"
"$folder/venv/bin/python" - "$address" <<'PYTHON'
import sys

from googleapiclient import discovery, errors

client = discovery.build(
    "commentanalyzer",
    "v1alpha1",
    developerKey="not-needed",
    discoveryServiceUrl=f"{sys.argv[1]}/$discovery/rest?version=v1alpha1",
    static_discovery=False,
)


def analyze(text, attributes, **further):
    body = {"comment": {"text": text}, "requestedAttributes": attributes, **further}
    return client.comments().analyze(body=body).execute()


response = analyze("You are an idiot, and everybody laughs at you.", {"TOXICITY": {}}, languages=["en"])
print("insult", response["attributeScores"]["TOXICITY"]["summaryScore"], response["languages"])
assert response["attributeScores"]["TOXICITY"]["summaryScore"]["value"] > 0.5
response = analyze("Thank you, my friend! You are an idiot.", {"TOXICITY": {}}, spanAnnotations=True)
kind, insult = response["attributeScores"]["TOXICITY"]["spanScores"]
print("sentences", kind, insult)
assert kind["score"]["value"] < 0.5 < insult["score"]["value"]
try:
    analyze("Hallo", {"TOXICITY": {}, "NOTHING": {}})
    raise AssertionError("an unknown attribute was scored")
except errors.HttpError as error:
    print("refused", error)
    assert error.status_code == 400 and "Unknown requested attribute: NOTHING" in str(error)
    assert error.error_details[0]["errorType"] == "INVALID_REQUEST"
PYTHON
echo "== both clients agree with what their documentation says"
