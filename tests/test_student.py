"""Tests of `student`: students of stages and pretrained ones, from the command line to the record of the run."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DebertaConfig,
    DebertaModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    SqueezeBertConfig,
    SqueezeBertModel,
)

import run_distillation
from layer_distillation.errors import UserError
from layer_distillation.record import UNFINISHED_RECORD_FILE, RunRecord
from tests.script_runs import metrics, predictions, read_record, results, run_here, sentences, table_of, weights
from tests.tiny_models import TINY_CLASSIFIERS
from training import run as training_run
from training import student as training_student
from training.checkpoints import longest_text

pytestmark = pytest.mark.usefixtures("script_caches")
QUERY = "bert.encoder.layer.{}.attention.self.query.weight"


@pytest.fixture(scope="module")
def arguments(teacher, files):
    return ["--teacher_name_or_path", teacher, *files, "--per_device_train_batch_size", 8]


# ---- Stages ----


STAGES = ["--layer_strategy", "uniform", "--stages", "3,2", "--max_steps", 6]
STAGES += ["--save_strategy", "steps", "--save_steps", 2]


@pytest.fixture(scope="module")
def shrunk(arguments, tmp_path_factory):
    """The folder of a run of 4 -> 3 -> 2 layers, and the weights that each student was built from."""
    folder, sources = tmp_path_factory.mktemp("shrunk") / "student", []
    build = training_student.student_from_arguments

    def watch(model, *arguments):
        sources.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return build(model, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_student, "student_from_arguments", watch)
        run_here(*arguments, *STAGES, "--output_dir", folder)
    return folder, sources


def test_a_stage_is_a_complete_run(shrunk):
    folder, _ = shrunk
    stage = folder / "stages" / "3"
    record = read_record(stage)
    assert record["name"] == f"{folder.name}/stages/3"
    assert AutoModelForSequenceClassification.from_pretrained(stage).config.num_hidden_layers == 3
    assert {"eval_accuracy", "predict_accuracy", "train_loss_kl"} <= results(stage).keys()
    assert table_of(stage) in (stage / "README.md").read_text()
    assert not (stage / UNFINISHED_RECORD_FILE).exists()
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_hidden_layers == 2


def test_the_record_has_layers_of_the_teacher_and_of_the_stage_before(shrunk):
    folder, _ = shrunk
    of_stage, of_run = (read_record(path)["student"] for path in (folder / "stages" / "3", folder))
    assert of_stage["layers"] == [2, 3, 4] and "stages" not in of_stage
    assert of_run["layers_of_stage_before"] == [1, 3]
    assert of_run["layers"] == [2, 4]
    assert of_stage["layer_strategy"] == "uniform"
    assert of_run["layer_strategy"] == "uniform"
    assert of_run["stages"] == [of_stage]


def test_each_stage_starts_from_the_trained_one_before_and_the_first_from_the_teacher(shrunk, teacher):
    folder, sources = shrunk
    first, second = sources[-2:]  # those before are of the check of the arguments
    of_teacher, of_stage = (load_file(Path(path) / "model.safetensors") for path in (teacher, folder / "stages" / "3"))
    assert first.keys() == of_teacher.keys() and second.keys() == of_stage.keys()
    assert all(torch.equal(first[name], of_teacher[name]) for name in first)
    assert all(torch.equal(second[name], of_stage[name]) for name in second)
    assert not torch.equal(of_stage[QUERY.format(0)], of_teacher[QUERY.format(0)]), "the stage is not trained"


def test_layers_go_through_the_stages_as_the_record_says(arguments, teacher, tmp_path):
    untrained = [*STAGES, "--learning_rate", "1e-30", "--weight_decay", 0, "--max_steps", 1]
    run_here(*arguments, *untrained, "--output_dir", tmp_path / "student")
    trained, of_teacher = (load_file(Path(path) / "model.safetensors") for path in (tmp_path / "student", teacher))
    for position, layer in enumerate(read_record(tmp_path / "student")["student"]["layers"]):
        assert torch.equal(trained[QUERY.format(position)], of_teacher[QUERY.format(layer - 1)])


def test_by_evidence_each_stage_chooses_of_the_layers_of_the_one_before(arguments, tmp_path):
    folder = tmp_path / "student"
    run_here(*arguments, "--layer_strategy", "cka", "--stages", "3,2", "--max_steps", 1, "--output_dir", folder)
    of_run = read_record(folder)["student"]
    (of_stage,) = of_run["stages"]
    assert of_stage["layer_strategy"] == of_run["layer_strategy"] == "cka"
    assert [len(student["layer_choice"]["cka"]) for student in (of_stage, of_run)] == [4, 3]
    assert set(of_run["layers"]) < set(of_stage["layers"])


def test_all_stages_learn_from_the_same_stored_outputs(shrunk):
    folder, _ = shrunk
    stored = [path for path in (folder / "teacher" / "outputs").iterdir() if path.is_dir()]
    assert [path.parent for path in folder.rglob("*.arrow")] == stored


def test_the_report_is_one_with_a_row_a_stage(shrunk):
    folder, _ = shrunk
    rows = table_of(folder).splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == ["1,2,3,4", "2,3,4", "2,4"]
    assert re.search(r"2,4\b.*\b3 layers", (folder / "README.md").read_text())


@pytest.mark.parametrize("broken_off", ["3", "2"])
def test_a_run_that_is_broken_off_goes_on_with_its_stage(shrunk, arguments, tmp_path, monkeypatch, broken_off):
    expected, _ = shrunk
    folder = tmp_path / "student"
    trained = []

    class Watched(training_run.CheckpointMarker):
        depth_to_break_off = broken_off

        def on_train_begin(self, args, state, control, model, **kwargs):
            trained.append((str(model.config.num_hidden_layers), state.global_step))

        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 5 and str(model.config.num_hidden_layers) == self.depth_to_break_off:
                raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "CheckpointMarker", Watched)
    with pytest.raises(KeyboardInterrupt):
        run_here(*arguments, *STAGES, "--output_dir", folder)
    assert read_record(folder) is None
    Watched.depth_to_break_off = None
    run_here(*arguments, *STAGES, "--output_dir", folder)
    assert trained == ([("3", 0), ("3", 4), ("2", 0)] if broken_off == "3" else [("3", 0), ("2", 0), ("2", 4)])
    assert weights(folder) == weights(expected)
    assert metrics(folder) == metrics(expected)
    assert weights(folder / "stages" / "3") == weights(expected / "stages" / "3")


def test_a_stage_is_finished_only_if_it_was_built_from_the_same_weights_and_no_run_is_replacing_it(shrunk, tmp_path):
    folder, _ = shrunk
    stage = Path(shutil.copytree(folder / "stages" / "3", tmp_path / "3"))
    args, record = SimpleNamespace(output_dir=stage), RunRecord.read(stage)
    assert training_student._finished_stage(record, args, overwrite=False) == record
    other = replace(record, built_from="a teacher that was trained again")
    assert training_student._finished_stage(other, args, overwrite=False) is None
    record.write(stage, UNFINISHED_RECORD_FILE)
    assert training_student._finished_stage(record, args, overwrite=False) is None


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["--stages", "3,1"], "even .*uniform"),
        (["--stages", "4,2", "--layer_strategy", "top"], "--stages.* 4,2"),
    ],
)
def test_stages_that_do_not_fit_the_teacher_are_refused_before_anything_is_written(
    arguments, tmp_path, stages, message
):
    with pytest.raises(UserError, match=message):
        run_here(*arguments, *stages, "--output_dir", tmp_path / "student")
    assert not (tmp_path / "student").exists()


# ---- Pretrained students ----


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def save_student(teacher, tmp_path):
    """Saves a model with the teacher's tokenizer, and returns the folder."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)

    def save(model_class, config_class, **config):
        folder = tmp_path / "pretrained"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model_class(config_class(vocab_size=len(tokenizer), **config)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def test_a_pretrained_student_of_another_width_and_depth_is_trained_and_said_to_be_one(
    save_student, arguments, tmp_path
):
    pretrained = save_student(BertModel, BertConfig, **SMALL)
    folder = tmp_path / "student"
    run_here(*arguments, "--student_name_or_path", pretrained, "--num_train_epochs", 1, "--output_dir", folder)
    config = AutoModelForSequenceClassification.from_pretrained(folder).config
    assert (config.hidden_size, config.num_hidden_layers, config.id2label) == (16, 1, {0: "bad", 1: "good"})
    trained, start = (load_file(path / "model.safetensors") for path in (folder, pretrained))
    name = "encoder.layer.0.attention.self.query.weight"
    change = (trained[f"bert.{name}"] - start[name]).abs().max()
    assert 0 < change < 1e-2, "other weights than those of the checkpoint"
    record = read_record(folder)
    assert record["student"]["pretrained"] == {"name": str(pretrained), "hub_name": None}
    assert (record["student"]["layer_strategy"], record["student"]["layers"]) == ("pretrained", [])
    assert "pretrained" in table_of(folder).splitlines()[-1]
    assert f"`{pretrained}`" in (folder / "README.md").read_text()


def test_a_pretrained_student_of_another_architecture_with_another_head_gets_one_for_the_labels(
    save_student, arguments, tmp_path
):
    config = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "num_labels": 5}
    pretrained = save_student(DistilBertForSequenceClassification, DistilBertConfig, **config)
    folder = tmp_path / "student"
    run_here(*arguments, "--student_name_or_path", pretrained, "--num_train_epochs", 1, "--output_dir", folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model) is DistilBertForSequenceClassification
    assert (model.config.num_labels, model.config.id2label) == (2, {0: "bad", 1: "good"})
    record = read_record(folder)
    assert record["student"]["parameters"] == model.num_parameters()
    assert record["student"]["num_layers"] == 2


def test_a_pretrained_student_decides_on_the_precision_too(save_student, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("layer_distillation.arguments.bf16_in_hardware", lambda use_cpu: True)
    folder, bf16 = tmp_path / "student", []
    for model_class, config_class in ((BertModel, BertConfig), (DebertaModel, DebertaConfig)):
        pretrained = save_student(model_class, config_class, **SMALL)
        words = [*arguments, "--student_name_or_path", pretrained, "--overwrite_output_dir", "--output_dir", folder]
        run_distillation.main([*map(str, words), "--use_cpu", "true", "--report_to", "none"])  # --bf16 is not given
        bf16.append(read_record(folder)["circumstances"]["bf16"])
    assert bf16 == [True, False]


@pytest.mark.parametrize("room", [0, 0.1], ids=["teacher in every step", "stored"])
def test_a_student_deeper_than_its_teacher_is_compared_with_evenly_spread_layers(
    save_student, arguments, tmp_path, room
):
    pretrained = save_student(BertModel, BertConfig, **SMALL | {"num_hidden_layers": 6})
    folder = tmp_path / "student"
    hidden = ["--hidden_weight", 1, "--hidden_state_cache_gb", room, "--max_steps", 2]
    run_here(*arguments, "--student_name_or_path", pretrained, *hidden, "--output_dir", folder)
    assert results(folder)["train_loss_hidden"] > 0


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (["--attention_weight", 1], "attention_weight.*4.*2"),
        (["--relation_weight", 1, "--relation_heads", 5], "relation_heads.*16.*32.*5"),
        (["--hidden_weight", 1, "--hidden_state_cache_gb", 1e-7], "--hidden_state_cache_gb"),
    ],
    ids=["heads", "widths", "room"],
)
def test_losses_that_do_not_fit_the_student_are_refused_before_anything_is_written(
    save_student, arguments, tmp_path, losses, message
):
    pretrained = save_student(BertModel, BertConfig, **SMALL | {"num_attention_heads": 4})
    with pytest.raises(UserError, match=message):
        run_here(*arguments, "--student_name_or_path", pretrained, *losses, "--output_dir", tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_layers_that_cannot_be_compared_are_refused_before_the_teacher_is_trained(
    save_student, arguments, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_distillation, "prepare_teacher", lambda *args: pytest.fail("it is trained"))
    pretrained = save_student(SqueezeBertModel, SqueezeBertConfig, **SMALL, embedding_size=SMALL["hidden_size"])
    with pytest.raises(UserError, match="--attention_weight.*SqueezeBertForSequenceClassification"):
        run_here(
            *arguments, "--student_name_or_path", pretrained, "--attention_weight", 1, "--output_dir", tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


@pytest.fixture
def other_words(save_student):
    """A student whose tokenizer numbers two words of the texts the other way round."""
    pretrained = save_student(BertModel, BertConfig, **SMALL)
    content = json.loads((pretrained / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["lovely"], vocabulary["awful"] = vocabulary["awful"], vocabulary["lovely"]
    (pretrained / "tokenizer.json").write_text(json.dumps(content))
    return pretrained


@pytest.fixture
def albert(teacher, tmp_path):
    """A teacher without layers of its own, with the words of all others here."""
    tokenizer, config = AutoTokenizer.from_pretrained(teacher), AutoConfig.from_pretrained(teacher)
    names = {"id2label": config.id2label, "label2id": config.label2id}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = AlbertForSequenceClassification(
        AlbertConfig(vocab_size=len(tokenizer), embedding_size=16, **sizes, **names)
    )
    model.save_pretrained(tmp_path / "albert")
    tokenizer.save_pretrained(tmp_path / "albert")
    return tmp_path / "albert"


def test_a_student_with_another_vocabulary_reads_its_own_tokens_and_learns_from_the_teachers_logits(
    other_words, albert, files, tmp_path, monkeypatch
):
    teacher, arguments, folder, seen = albert, ["--teacher_name_or_path", albert, *files], tmp_path / "student", []
    make = training_run.DistillationTrainer
    monkeypatch.setattr(training_run, "DistillationTrainer", lambda **given: seen.append(given) or make(**given))
    run_here(*arguments, "--student_name_or_path", other_words, "--max_steps", 1, "--output_dir", folder)
    texts, model = [text for text, _ in sentences(40)], AutoModelForSequenceClassification.from_pretrained(teacher)
    examples = seen[0]["train_dataset"]
    assert list(examples["input_ids"]) == AutoTokenizer.from_pretrained(other_words)(texts)["input_ids"]
    with torch.no_grad():
        batch = AutoTokenizer.from_pretrained(teacher)(texts, padding=True, return_tensors="pt")
        assert torch.allclose(torch.tensor(examples["teacher_logits"][:]), model(**batch).logits, atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder)("lovely") == AutoTokenizer.from_pretrained(other_words)("lovely")
    recorded = [float(row["logit_good"]) for row in predictions(folder)]
    student = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        texts = [text for text, _ in sentences(13, 60)]
        batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
        assert student(**batch).logits[:, 1].tolist() == pytest.approx(recorded, abs=1e-4)


@pytest.mark.parametrize(
    ("option", "value"), [("--hidden_weight", "1"), ("--teacher_cache", "false")], ids=["layers", "live"]
)
def test_only_stored_logits_are_compared_of_a_student_with_another_vocabulary(
    other_words, arguments, tmp_path, option, value
):
    with pytest.raises(UserError, match=f"{option}.*--student_name_or_path"):
        run_here(*arguments, "--student_name_or_path", other_words, option, value, "--output_dir", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_student_for_shorter_texts_reads_their_beginning(save_student, arguments, tmp_path):
    pretrained, folder = save_student(BertModel, BertConfig, **SMALL, max_position_embeddings=8), tmp_path / "student"
    run_here(*arguments, "--student_name_or_path", pretrained, "--output_dir", folder, "--max_steps", 1)
    recorded = [float(row["logit_good"]) for row in predictions(folder)]
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [text for text, _ in sentences(13, 60)]
    assert max(len(ids) for ids in tokenizer(texts, truncation=False)["input_ids"]) == 9
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        assert classifier(**batch).logits[:, 1].tolist() == pytest.approx(recorded, abs=1e-4)


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_a_model_reads_texts_of_its_maximal_length_and_no_longer_ones(name):
    model = TINY_CLASSIFIERS[name](1, 2)
    limit = longest_text(model)
    assert (limit is None) == (name in ("deberta-v2", "modernbert"))
    model(input_ids=torch.full((1, limit or 100), 7))
    if limit is not None:
        with pytest.raises((IndexError, RuntimeError), match="out of|size"):
            model(input_ids=torch.full((1, limit + 1), 7))
