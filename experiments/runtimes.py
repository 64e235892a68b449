"""Whether other runtimes read an export as it is, and answer as the app does.

    python -m experiments.runtimes --export outputs/toxic_comments-odd/export --screenshot browser.png
    python -m experiments.runtimes --export outputs/jigsaw-odd/export --name runtimes_several_labels

For each runtime this installs its packages in an environment of its own, which takes some gigabytes for PyTorch. The
clients are in `experiments/runtime_clients/`; the browser opens the page of `browser/build.sh`. The texts are the
first 123 of the everyday sentences and the sample data's test split. A model with several labels must give each the
app's probability, and a text the same labels by the thresholds of the export. The figures go to
`docs/results/NAME.csv` and `.md`. Node with npm and Chromium must be installed.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from playwright.sync_api import expect, sync_playwright

from app.models import Model, load_model
from benchmarks.results import ROOT, write_results
from export.arguments import FLOAT32_FILE
from training.tables import markdown_table

CLIENTS = Path(__file__).parent / "runtime_clients"
# Client and packages of each runtime, by the name of its environment.
PYTHON_RUNTIMES = {
    "onnxruntime-oldest": ("onnxruntime_alone.py", ["onnxruntime==1.17.3", "numpy<2", "tokenizers==0.23.3"]),
    "onnxruntime-newest": ("onnxruntime_alone.py", ["onnxruntime==1.32.0", "numpy", "tokenizers==0.23.3"]),
    "optimum": ("optimum_pipeline.py", ["optimum-onnx[onnxruntime]==0.1.0"]),
    "openvino": ("openvino_alone.py", ["openvino==2026.4.1", "numpy", "tokenizers==0.23.3"]),
}
TRANSFORMERS_JS = "@huggingface/transformers@4.3.2"
NUM_TEXTS = 123
TIMEOUT = 300_000  # ms; WebAssembly takes long to load on a busy machine
KINDS = ("float32", "int8")
# Labels and probabilities that the page shows.
SCORE_IN_FLOAT32 = """async ([texts, labels]) => {
  const {pipeline} = await import('./vendor/transformers.min.js');
  const classify = await pipeline('text-classification', 'model', {dtype: 'fp32'});
  const rows = [];
  for (const text of texts) {
    const scores = Object.fromEntries((await classify(text, {top_k: null})).map(({label, score}) => [label, score]));
    rows.push(labels.map(label => scores[label]));
  }
  return rows;
}"""
READ_ROWS = "rows => rows.map(row => [row.children[0].textContent, row.querySelector('meter').value])"


def main():
    args = parse_arguments()
    args.environments.mkdir(parents=True, exist_ok=True)
    texts = read_texts()
    texts_file = args.environments / "texts.json"
    texts_file.write_text(json.dumps(texts))
    expected = {kind: answers_of_app(args.export, kind, texts) for kind in KINDS}
    found = {}
    for name, (client, packages) in PYTHON_RUNTIMES.items():
        python = python_with(args.environments / name, packages)
        found[name] = run_client([python, CLIENTS / client], args.export, texts_file)
    found["transformers.js"] = run_client(["node", node_client(args.environments / "node")], args.export, texts_file)
    model = load_model(args.export)
    found["browser"] = answers_of_browser(args, texts, list(model.labels))
    rows = [row for answers in found.values() for row in compare(answers, expected, model)]
    columns = {"runtime": "Runtime", "file": "File", "labels_equal": "Labels as the app's", "difference": "Difference"}
    write_results(args.name, rows, markdown_table([{columns[key]: str(row[key]) for key in columns} for row in rows]))


def read_texts() -> list[str]:
    """Returns the texts to answer."""
    texts = []
    for file in (ROOT / "tests" / "everyday_sentences.csv", ROOT / "data" / "toxic_comments" / "test.csv"):
        with open(file, encoding="utf-8", newline="") as stream:
            texts += [row["text"] for row in csv.DictReader(stream)]
    return texts[:NUM_TEXTS]


def answers_of_app(export: Path, kind: str, texts: Sequence[str]) -> np.ndarray:
    """Returns the app's probabilities, `(texts, labels)`; each text is answered alone."""
    model = load_model(export, kind)
    return np.array([list(model.classify([text])[0].scores.values()) for text in texts])


def python_with(folder: Path, packages: Sequence[str]) -> Path:
    """Returns the interpreter of an environment with these packages, which is made if it is missing."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def node_client(folder: Path) -> Path:
    """Returns the client for Node, in a folder with its package."""
    if not folder.exists():
        # The script of onnxruntime-node would fetch CUDA libraries.
        install = ["npm", "install", "--silent", "--ignore-scripts", "--prefix", folder, TRANSFORMERS_JS]
        subprocess.run(install, check=True)
    return Path(shutil.copy(CLIENTS / "transformers_js.mjs", folder))


def run_client(command: Sequence[str | Path], export: Path, texts_file: Path) -> dict:
    """Returns what a client answers: its `version`, and probabilities for each kind of file."""
    answers_file = texts_file.with_name("answers.json")
    subprocess.run([*command, export, texts_file, answers_file], check=True)
    return json.loads(answers_file.read_text())


def answers_of_browser(args: argparse.Namespace, texts: Sequence[str], labels: Sequence[str]) -> dict:
    """Returns the percentages that the static page shows in Chromium, and takes a picture of it."""
    site = args.environments / "site"
    subprocess.run([ROOT / "browser" / "build.sh", args.export, site], check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, foreign, rows = f"http://127.0.0.1:{server.server_port}/", [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 800, "height": 600})
        page.set_default_timeout(TIMEOUT)
        page.on("request", lambda request: request.url.startswith((address, "blob:")) or foreign.append(request.url))
        page.goto(address)
        expect(page.get_by_role("button")).to_be_enabled(timeout=TIMEOUT)
        for text in texts:
            page.locator("#result").evaluate("element => element.replaceChildren()")
            page.get_by_label("Comment").fill(text)
            page.get_by_role("button").click()
            page.wait_for_selector("#result td")
            shown = dict(page.locator("#result tr").evaluate_all(READ_ROWS))
            rows.append([shown[label.replace("_", " ")] for label in labels])
        if args.screenshot:
            page.screenshot(path=args.screenshot)
        shutil.copy(args.export / FLOAT32_FILE, site / "model" / FLOAT32_FILE)
        float32 = page.evaluate(SCORE_IN_FLOAT32, [list(texts), list(labels)])
        version = browser.version
    server.shutdown()
    if foreign:
        raise RuntimeError(f"The page has asked other servers: {foreign}")
    name = f"transformers.js {TRANSFORMERS_JS.split('@')[-1]}, Chromium {version}"
    return {"version": name, "int8": rows, "float32": float32}


def compare(answers: dict, expected: dict[str, np.ndarray], model: Model) -> list[dict]:
    """Returns a row for each kind of file that a runtime has answered with."""

    def labels(probabilities: np.ndarray) -> np.ndarray:
        """The labels that each text has, `(texts, labels)`, or the class that it has, `(texts, 1)`."""
        if model.thresholds is None:
            return probabilities.argmax(axis=1, keepdims=True)
        return probabilities >= list(model.thresholds.values())

    rows = []
    for kind in KINDS:
        if kind in answers:
            found = np.array(answers[kind])
            equal = int((labels(found) == labels(expected[kind])).all(axis=1).sum())
            rows.append(
                {
                    "runtime": answers["version"],
                    "file": kind,
                    "labels_equal": f"{equal} of {len(found)}",
                    "difference": f"{np.abs(found - expected[kind]).max():.1e}",
                }
            )
    return rows


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True, help="folder of an export")
    parser.add_argument("--name", default="runtimes", help="of the files for the figures (default: %(default)s)")
    parser.add_argument(
        "--environments", type=Path, default=Path("outputs/runtimes"), help="folder for the environments, kept"
    )
    parser.add_argument("--screenshot", help="file for a picture of the page in the browser")
    return parser.parse_args()


if __name__ == "__main__":
    main()
