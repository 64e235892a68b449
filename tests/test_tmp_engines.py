import pytest
from script_runs import run_script, SCRIPT
from run_folder import read_record
from test_layer_search import TRAINING, SHORT_SEARCH, losses
pytestmark = pytest.mark.usefixtures("script_caches")

@pytest.mark.parametrize("config", ["ds_config.json", "examples/ds_zero3.json"])
@pytest.mark.parametrize("how", [SHORT_SEARCH, ["--layer_strategy", "uniform", "--stages", "3,2"]], ids=["search", "stages"])
def test_engines(make_teacher, files, tmp_path, monkeypatch, config, how):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    teacher = make_teacher(["bad", "good"], dropout=0.0)
    arguments = ["--teacher_name_or_path", teacher, *files, *TRAINING, *how, "--adam_epsilon", "1e-5", "--deepspeed", SCRIPT.parent / config]
    arguments[arguments.index("--per_device_train_batch_size") + 1] = 4
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = run_script(*arguments, "--output_dir", tmp_path / "two", launcher=launcher)
    assert process.returncode == 0, process.stderr[-6000:]
    one = ["--teacher_name_or_path", teacher, *files, *TRAINING, *how, "--adam_epsilon", "1e-5"]
    from script_runs import run_here
    run_here(*one, "--output_dir", tmp_path / "one")
    if how is SHORT_SEARCH:
        assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-2)
    a, b = (read_record(tmp_path / n)["student"] for n in ("one", "two"))
    assert a["layers"] == b["layers"]
    assert a["results"]["train_loss"] == pytest.approx(b["results"]["train_loss"], rel=1e-3)
