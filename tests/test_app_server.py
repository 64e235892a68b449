"""Tests of the app as a process of its own: how it is deployed, how it stops, and what it refuses."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import httpx
import pytest

from app.__main__ import main
from app.cores import available_cores, core_for_each_thread
from app.service import MAX_TEXTS
from tests.running_app import ROOT, running_app

APP = ROOT / "app"


@pytest.fixture(scope="module")
def deployed(served_model, tmp_path_factory):
    """What the Dockerfile makes: the folder `app` alone in a home directory, with a model in `models/`.

    PyTorch and Transformers cannot be imported there, as they are not installed.
    """
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(APP, home / "app", ignore=shutil.ignore_patterns("models", "__pycache__"))
    shutil.copytree(served_model / "export", home / "app" / "models" / "small")
    for name in ("torch", "transformers"):
        (home / f"{name}.py").write_text("raise ImportError('not installed')")
    return home


def docker_command():
    """The CMD of the Dockerfile, without the interpreter."""
    (command,) = re.findall(r"^CMD (\[.*\])$", (APP / "Dockerfile").read_text(), re.MULTILINE)
    interpreter, *arguments = json.loads(command)
    assert interpreter == "python"
    return arguments


def test_the_folder_alone_serves_its_models_and_stops_only_after_the_last_answer(deployed, tmp_path):
    command = [argument.replace("0.0.0.0", "127.0.0.1") for argument in docker_command()]
    with running_app(tmp_path, command, cwd=deployed) as app:
        client = httpx.Client(base_url=app.url, timeout=120)
        assert client.get("/healthz").json()["models"] == ["small"]
        answers = []

        def ask():
            body = {"texts": [f"text {i} " + "word " * 500 for i in range(MAX_TEXTS)]}
            answers.append(httpx.post(f"{app.url}/api/classify", json=body, timeout=300))

        thread = threading.Thread(target=ask)
        thread.start()
        deadline = time.monotonic() + 120
        is_working = re.compile(r'^waiting_texts\{model="small"\} [1-9]', re.MULTILINE)
        while not is_working.search(client.get("/metrics").text):
            assert time.monotonic() < deadline
        client.close()
        app.process.send_signal(signal.SIGTERM)
        thread.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["results"]) == MAX_TEXTS
        assert app.process.wait(120) in (0, -signal.SIGTERM)
        assert "Application shutdown complete" in app.log
        assert "Traceback" not in app.log


def test_the_space_is_declared_as_its_dockerfile_runs_it():
    front_matter = (APP / "README.md").read_text(encoding="utf-8").split("---")[1]
    settings = dict(line.split(": ", 1) for line in front_matter.strip().splitlines())
    dockerfile = (APP / "Dockerfile").read_text()
    assert settings["sdk"] == "docker"
    assert f"EXPOSE {settings['app_port']}" in dockerfile
    assert len(settings["short_description"]) <= 60
    assert "USER app" in dockerfile
    assert "HEALTHCHECK" in dockerfile


def test_the_requirements_name_all_that_the_app_imports():
    required = {re.split(r"[\[=]", line)[0] for line in (APP / "requirements.txt").read_text().splitlines()}
    # The last four are optional: other backends, and files of other formats.
    others = {*sys.stdlib_module_names, "app", "torch", "transformers", "pyarrow", "datasets"}
    distributions = importlib.metadata.packages_distributions()
    for path in APP.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in {name.split(".")[0] for name in names} - others:
                assert required & {found.lower().replace("_", "-") for found in distributions[name]}, name


# ---- The command line ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is no model: give --model_dir"),
        (["--model_dir", "nowhere"], r"There is no model_quantized\.onnx in .*nowhere"),
        (["--model_dir", "{model}", "--model_dir", "{model}"], "two are called small"),
        (["--model_dir", "{model}/export", "--backend", "float16"], "invalid choice"),
        (["--model_dir", "{model}", "--port", "99999"], "--port: must be from 1 to 65535, found 99999"),
    ],
)
def test_a_wrong_command_line_ends_in_one_line(served_model, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("app.__main__.MODELS_FOLDER", tmp_path / "models")
    monkeypatch.setattr("sys.argv", ["app", *(argument.format(model=served_model) for argument in arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert re.search(message, f"{stop.value.code}{capsys.readouterr().err}")


@pytest.mark.parametrize(
    ("limit", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("max 100000", 4)]
)
def test_no_more_threads_run_than_a_container_has_time_for(tmp_path, monkeypatch, limit, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)))
    monkeypatch.setattr("app.cores.CORES_BY_TIME", tmp_path / "cpu.max")
    assert available_cores() == 4
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert available_cores() == cores


def cores_of_threads(num_threads):
    """The cores that each of some threads may use, and those that this thread may use afterwards."""
    started = threading.Barrier(num_threads)

    def cores(_):
        started.wait()  # so that no thread answers for another
        return os.sched_getaffinity(0)

    with ThreadPoolExecutor(num_threads, initializer=core_for_each_thread(num_threads)) as executor:
        return list(executor.map(cores, range(num_threads))), os.sched_getaffinity(0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux has threads that stay on a core")
def test_each_thread_stays_on_a_core_of_its_own_where_there_are_as_many():
    everywhere = os.sched_getaffinity(0)
    own, afterwards = cores_of_threads(len(everywhere))
    assert sorted(own, key=min) == [{core} for core in sorted(everywhere)] and afterwards == everywhere
    shared, _ = cores_of_threads(len(everywhere) + 1)
    assert shared == [everywhere] * (len(everywhere) + 1)
