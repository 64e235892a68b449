"""Tests of all commands on teachers that are not shaped like BERT, from fine-tuning to the export.

Their tokenizer is a byte-level one, as decoders have it, without a padding token where the decoder's own lacks one.
"""

import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DebertaV2Config,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

import run_distillation
import run_export
import run_lora
from distill_trainer import DistillationTrainer
from layer_distillation.errors import UserError
from layer_distillation.problem_types import SINGLE_LABEL
from lora_adapters.loading import load_adapter
from tests.script_runs import metrics, predictions, read_record, run_main, sentences, weights
from text_data.labels import LabelMap
from training.arguments import TeacherArguments
from training.checkpoints import load_classifier, load_tokenizer
from training.teacher import check_padding, load_teacher

pytestmark = pytest.mark.usefixtures("script_caches")

# A student of one layer: PyTorch's exporter takes most of the time.
SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 128, "initializer_range": 0.2}
GROUPED = {"num_key_value_heads": 1, "head_dim": 16}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
PADDED = {**ENDS, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
SHAPES = {
    "qwen3": Qwen3Config(**SIZES, **ENDS, **GROUPED),
    "llama": LlamaConfig(**SIZES, **ENDS, **GROUPED),
    "gpt2": GPT2Config(**ENDS, vocab_size=300, n_positions=128, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2),
    "gemma3": Gemma3Config(
        text_config={**SIZES, **ENDS, **GROUPED, "sliding_window": 8, "pad_token_id": None},
        vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        pad_token_id=None,
    ),
    "modernbert": ModernBertConfig(**SIZES, **PADDED, local_attention=8),
    "deberta_v3": DebertaV2Config(
        **SIZES,
        pad_token_id=0,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
    ),
}


@pytest.fixture(scope="module")
def make_encoder(tmp_path_factory):
    """Saves a pretrained model without a head, and a tokenizer beside it."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([text for text, _ in sentences(60)], 300, special_tokens=["<pad>", "<s>", "</s>"])

    def make(config, padding_side="right"):
        pads = config.get_text_config().pad_token_id is not None
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=bpe._tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>" if pads else None,
            padding_side=padding_side,
            model_input_names=["input_ids", "attention_mask"],
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModel.from_config(config)
        folder = tmp_path_factory.mktemp("encoder")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def logits_of(model, folder, rows):
    """Returns the logits of texts that are read one by one, as nothing but the text decides them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text, _ in rows])


def recorded(folder):
    return torch.tensor([[float(row["logit_bad"]), float(row["logit_good"])] for row in predictions(folder)])


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=pytest.mark.slow if shape == "gemma3" else ()) for shape in SHAPES]
)
def test_every_command_works(shape, make_encoder, files, tmp_path, monkeypatch):
    encoder, rows = make_encoder(SHAPES[shape], "left" if shape == "llama" else "right"), sentences(13, 60)
    common = [*files, "--layer_strategy", "even", "--per_device_train_batch_size", 8, "--save_steps", 2]
    first = ["--teacher_name_or_path", encoder, *common, "--num_train_epochs", 1, "--teacher_num_train_epochs", 1]
    folder, again, adapter = (tmp_path / name for name in ("student", "again", "adapter"))
    shared = ["--teacher_output_dir", folder / "teacher"]

    # The teacher is fine-tuned, its outputs are stored, and a student is distilled from them.
    run_main(run_distillation, *first, *shared, "--output_dir", folder)
    assert list((folder / "teacher" / "outputs").iterdir())
    student = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.allclose(logits_of(student, folder, rows), recorded(folder), atol=1e-4)
    record = read_record(folder)
    assert (record["teacher"]["num_layers"], record["student"]["num_layers"]) == (2, 1)

    # A run that was interrupted ends like one that was not.
    step = DistillationTrainer.training_step

    def interrupted_step(self, *arguments):
        if self.state.global_step == 3:
            raise InterruptedError
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(DistillationTrainer, "training_step", interrupted_step)
        run_main(run_distillation, *first, *shared, "--output_dir", again)
    if shape == "gemma3":  # whose weights transformers saves under names that its Trainer does not read
        with pytest.raises(UserError, match="--output_dir"):
            run_main(run_distillation, *first, *shared, "--output_dir", again)
    else:
        run_main(run_distillation, *first, *shared, "--output_dir", again)
        assert weights(again) == weights(folder)

    # The evaluation alone repeats the scores.
    scores = metrics(folder)
    run_main(run_distillation, *files, "--output_dir", folder, "--do_eval", "--do_predict")
    assert metrics(folder) == scores

    # An adapter, alone and merged, answers as the run did.
    trained = ["--teacher_name_or_path", folder / "teacher", *common, "--num_train_epochs", 1, "--lora_r", 2]
    run_main(run_lora, *trained, "--merge_adapter", "--output_dir", adapter)
    for model in (load_adapter(adapter), AutoModelForSequenceClassification.from_pretrained(adapter / "merged")):
        assert torch.allclose(logits_of(model, adapter, rows), recorded(adapter), atol=1e-4)

    # The exported files answer as PyTorch does: the export checks it.
    shutil.rmtree(folder / "teacher")
    report = run_export.main(["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "onnx")])
    assert report["layers"] == 1


def test_a_teacher_whose_answers_depend_on_the_padding_is_refused(make_encoder):
    labels = LabelMap(SINGLE_LABEL, ("bad", "good"))
    text = {"input_ids": [17, 250, 63, 99], "attention_mask": [1, 1, 1, 1]}

    def check(shape, padding_side="right", pad_token_id=None):
        folder = str(make_encoder(SHAPES[shape], padding_side))
        tokenizer, (model, _) = load_tokenizer(folder), load_classifier(folder, labels)
        assert tokenizer.pad_token == tokenizer.eos_token
        assert model.config.pad_token_id == tokenizer.pad_token_id
        model.config.pad_token_id = pad_token_id or model.config.pad_token_id
        longest = {name: (values * 64)[: tokenizer.model_max_length] for name, values in text.items()}
        texts = Dataset.from_list([longest, text])
        check_padding(model, SimpleNamespace(tokenizer=tokenizer, tokenized={"train": texts}))

    check("gpt2")
    check("llama", "left")
    with pytest.raises(UserError, match="pads on the left"):
        check("gpt2", "left")
    with pytest.raises(UserError, match="`pad_token_id` 5"):
        check("llama", pad_token_id=5)


def test_a_tokenizer_named_apart_says_what_padding_is(make_encoder, tmp_path):
    encoder = make_encoder(SHAPES["llama"])
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.pad_token = "<pad>"
    tokenizer.save_pretrained(tmp_path)
    labels = LabelMap(SINGLE_LABEL, ("bad", "good"))
    for named, pad_token_id in ((None, 2), (str(tmp_path), 0)):
        start = load_teacher(str(encoder), TeacherArguments(tokenizer_name=named), labels)
        assert start.model.config.pad_token_id == pad_token_id
    for file in encoder.glob("tokenizer*"):
        file.unlink()
    start = load_teacher(str(encoder), TeacherArguments(tokenizer_name=str(tmp_path)), labels)
    assert start.model.config.pad_token_id == 0


def test_a_tokenizer_without_a_token_for_padding_or_for_the_end_is_refused(make_encoder):
    encoder = make_encoder(SHAPES["llama"])
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(encoder)
    with pytest.raises(UserError, match="--tokenizer_name"):
        load_tokenizer(str(encoder))
