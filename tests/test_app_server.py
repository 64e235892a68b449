"""Tests of the app as a process: what it keeps to itself, how it stops, how it is deployed, and what it refuses."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import httpx
import pytest

from app.__main__ import available_cores, main
from app.service import MAX_TEXTS
from tests.running_app import ROOT, running_app

SECRET = "xylophone-secret"
APP = ROOT / "app"


def test_nothing_that_was_sent_is_logged_or_stored(app):
    for body in ({"text": SECRET}, {"text": [SECRET]}, {"texts": [SECRET, ""]}, {SECRET: 1}):
        httpx.post(f"{app.url}/api/classify", json=body)
    httpx.post(f"{app.url}/api/classify", content=f'{{"text": "{SECRET}'.encode())
    httpx.get(f"{app.url}/api/classify", params={"text": SECRET})
    httpx.get(f"{app.url}/{SECRET}")
    httpx.get(f"{app.url}/{SECRET}", headers={"Connection": "Upgrade", "Upgrade": "websocket"})
    assert "Uvicorn running" in app.log  # it is the right log
    assert SECRET not in app.log
    assert SECRET not in httpx.get(f"{app.url}/metrics").text
    assert [path for path in app.temporary_files if SECRET.encode() in path.read_bytes()] == []


def test_the_process_connects_to_nothing_outside_itself(app):
    httpx.post(f"{app.url}/api/classify", json={"text": "hello"})
    httpx.get(app.url)
    httpx.get(f"{app.url}/gradio_api/file=https://example.com/")
    assert [line for line in app.connections if not re.search(r"127\.0\.0\.1|localhost|::1", line)] == []


def test_the_watch_on_connections_sees_them(tmp_path):
    # Otherwise the test above could not fail.
    (tmp_path / "app.py").write_text(
        "import asyncio, socket, uvicorn\n"
        "socket.getaddrinfo('127.0.0.1', 9)\n"
        "with asyncio.Runner(loop_factory=uvicorn.Config(None).get_loop_factory()) as runner:\n"
        "    try:\n"
        "        runner.run(asyncio.open_connection('127.0.0.1', 9))\n"
        "    except ConnectionRefusedError:\n"
        "        pass\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "CONNECTIONS": str(tmp_path / "seen")}
    subprocess.run([sys.executable, ROOT / "tests" / "workers" / "watched_app.py"], env=environment, check=True)
    assert len((tmp_path / "seen").read_text().splitlines()) == 2


def test_the_requests_of_many_users_at_once_are_all_answered(app):
    statuses = []

    def ask():
        with httpx.Client() as client:
            for _ in range(5):
                statuses.append(client.post(f"{app.url}/api/classify", json={"text": "I hate you"}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 100


# ---- As a Space or container ----


@pytest.fixture(scope="module")
def deployed(served_model, tmp_path_factory):
    """What the Dockerfile makes: the folder `app` alone in a home directory, with a model in `models/`.

    PyTorch and Transformers cannot be imported there, as they are not installed.
    """
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(APP, home / "app", ignore=shutil.ignore_patterns("models", "__pycache__"))
    shutil.copytree(served_model / "onnx", home / "app" / "models" / "small")
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
        assert httpx.get(f"{app.url}/healthz").json()["models"] == ["small"]
        answers = []

        def ask():
            body = {"texts": [f"text {i} " + "word " * 500 for i in range(MAX_TEXTS)]}
            answers.append(httpx.post(f"{app.url}/api/classify", json=body, timeout=60))

        thread = threading.Thread(target=ask)
        thread.start()
        deadline = time.monotonic() + 20
        is_working = re.compile(r'^waiting_texts\{model="small"\} [1-9]', re.MULTILINE)
        while not is_working.search(httpx.get(f"{app.url}/metrics").text):
            assert time.monotonic() < deadline
        app.process.send_signal(signal.SIGTERM)
        thread.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["results"]) == MAX_TEXTS
        assert app.process.wait(20) in (0, -signal.SIGTERM)
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
    others = {*sys.stdlib_module_names, "app", "torch", "transformers"}  # the last two are optional
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
        (["--model_dir", "nowhere"], r"There is no model_int8\.onnx in .*nowhere"),
        (["--model_dir", "{model}", "--model_dir", "{model}"], "two are called small"),
        (["--model_dir", "{model}/onnx", "--backend", "float16"], "invalid choice"),
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
    monkeypatch.setattr("app.__main__.CORES_BY_TIME", tmp_path / "cpu.max")
    assert available_cores() == 4
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert available_cores() == cores
