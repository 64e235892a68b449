"""Trimmed vocabularies: texts whose pieces are kept are read as before, and so is what a model answers to them."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
)

import run_distillation
import run_export
import run_lora
from experiments.tiny_classifiers import tiny_classifier
from layer_distillation.errors import UserError
from layer_distillation.problem_types import SINGLE_LABEL
from layer_distillation.word_embeddings import keep_pieces
from tests.script_runs import read_record, results, run_main, sentences
from tests.test_vocabularies import make_tokenizer
from text_data.labels import LabelMap
from text_data.loading import TextClassificationData
from text_data.trimming import count_pieces, trim_tokenizer, trim_vocabulary
from training.arguments import VocabularyArguments

CORPUS = [
    "The gardener waters the roses while the neighbours quietly argue about the garden café",
    "Nobody answered the question, and nobody questioned the answer again!",
    "He un-believably mis-understood understanding; she understood (mostly).",
    "naïve cafés in Zürich serve 1234 cups of coffee at 5:30 - ça va?",
    "thinking, thinker, rethink, unthinkable, thinkers thought thoughtfully",
    "Großartig! Das Wetter ist heute großartig und der Garten blüht",
]
TRAINING_TEXTS = CORPUS[:3]
# Words of the corpus, new words of its characters, new characters, special tokens, nothing.
OTHER_TEXTS = [
    *CORPUS[3:],
    "the garden answered",
    "rethinkers unargue",
    "zzzyx öäü",
    "日本 😀",
    "[MASK] x </s>",
    "",
    " ",
]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "[MASK]"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def trained(model, trainer, pre_tokenizer, normalizer=None, unk_token="<unk>"):
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    backend.train_from_iterator(CORPUS * 3, trainer)
    if normalizer is not None:  # SentencePiece joins across words
        backend.normalizer, backend.pre_tokenizer = normalizer, None
    ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=unk_token, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def word_piece():
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer = trained(models.WordPiece(unk_token="<unk>"), trainer, pre_tokenizers.BertPreTokenizer())
    backend = tokenizer.backend_tokenizer
    backend.decoder = decoders.WordPiece()
    # A post-processor of another kind.
    backend.post_processor = processors.BertProcessing(
        *((token, backend.token_to_id(token)) for token in ("</s>", "<s>"))
    )
    return tokenizer


def byte_level():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False), unk_token=None)


def with_byte_fallback():
    """As SentencePiece writes BPE: merges reach across words, unknown characters become bytes."""
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*SPECIAL, *BYTES], limit_alphabet=30, show_progress=False
    )
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    model = models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = trained(model, trainer, pre_tokenizers.Metaspace(), normalizer)
    tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in BYTES]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), pad_token="<pad>", unk_token="<unk>"
    )


def end_of_word():
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    return trained(
        models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), trainer, pre_tokenizers.BertPreTokenizer()
    )


def unigram():
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer = trained(models.Unigram(), trainer, pre_tokenizers.Metaspace())
    tokenizer.add_tokens(["thoughtfully"])  # follows the pieces
    return tokenizer


KINDS = {
    function.__name__: function for function in (word_piece, byte_level, with_byte_fallback, end_of_word, unigram)
}


@pytest.fixture(scope="module", params=KINDS)
def trimming(request):
    """A tokenizer, the same one trimmed to the training texts, and the old id of each new one."""
    tokenizer = KINDS[request.param]()
    counts = count_pieces(Dataset.from_dict({"text": TRAINING_TEXTS}), ["text"], tokenizer)
    return tokenizer, *trim_tokenizer(tokenizer, counts)


def pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_pieces_are_counted(trimming):
    tokenizer, _, _ = trimming
    counts = count_pieces(Dataset.from_dict({"a": TRAINING_TEXTS, "b": OTHER_TEXTS[:3]}), ["a", "b"], tokenizer)
    expected = Counter(piece for text in TRAINING_TEXTS + OTHER_TEXTS[:3] for piece in tokenizer.tokenize(text))
    assert {tokenizer.convert_ids_to_tokens(int(i)): counts[i] for i in np.flatnonzero(counts)} == expected


def test_texts_whose_pieces_are_kept_are_written_with_the_same_pieces(trimming, tmp_path):
    tokenizer, trimmed, kept = trimming
    assert len(kept) == len(trimmed) < len(tokenizer)
    trimmed.save_pretrained(tmp_path)
    read_again = AutoTokenizer.from_pretrained(tmp_path)
    for text in TRAINING_TEXTS + OTHER_TEXTS:
        is_kept = set(tokenizer(text)["input_ids"]) <= set(kept.tolist())
        assert is_kept or text not in TRAINING_TEXTS
        for one in (trimmed, read_again):
            assert (pieces(one, text) == pieces(tokenizer, text)) == is_kept
        assert tokenizer.decode(kept[trimmed(text)["input_ids"]]) == trimmed.decode(trimmed(text)["input_ids"])
    pair = TRAINING_TEXTS[:2]
    assert kept[trimmed(*pair)["input_ids"]].tolist() == tokenizer(*pair)["input_ids"]


def test_other_words_fall_apart_into_kept_pieces_and_do_not_become_unknown(trimming):
    tokenizer, trimmed, _ = trimming
    for text in OTHER_TEXTS:
        is_known = all(character.isascii() or character in "".join(TRAINING_TEXTS) for character in text)
        if is_known or {"<0xE6>", "Ġ"} & tokenizer.get_vocab().keys():  # the latter two write bytes
            assert pieces(trimmed, text).count("<unk>") == pieces(tokenizer, text).count("<unk>")
        if "<unk>" not in pieces(trimmed, text):
            plain = [one.decode(one(text)["input_ids"], skip_special_tokens=True) for one in (tokenizer, trimmed)]
            assert plain[0].replace(" ", "") == plain[1].replace(" ", "")


def test_special_tokens_stay_and_padding_keeps_its_id(trimming):
    tokenizer, trimmed, _ = trimming
    assert trimmed.special_tokens_map == tokenizer.special_tokens_map
    assert trimmed.pad_token_id == tokenizer.pad_token_id
    assert {token.content for token in trimmed.added_tokens_decoder.values()} == {
        token.content for token in tokenizer.added_tokens_decoder.values()
    }


def test_of_a_given_number_of_pieces_the_most_frequent_are_kept():
    tokenizer = word_piece()
    counts = count_pieces(Dataset.from_dict({"text": CORPUS}), ["text"], tokenizer)
    with pytest.raises(UserError, match="--vocabulary_size .* 1") as error:
        trim_tokenizer(tokenizer, counts, size=1)
    smallest = next(int(word) for word in str(error.value).split() if word.isdigit())
    alphabet = {piece for piece in tokenizer.get_vocab() if len(piece.removeprefix("##")) == 1}  # all in the corpus
    assert smallest == len(alphabet) + len(SPECIAL)
    trimmed, kept = trim_tokenizer(tokenizer, counts, size=smallest + 20)
    assert len(kept) == smallest + 20
    words = set(trimmed.get_vocab()) - alphabet - set(SPECIAL)
    used = Counter(piece for text in CORPUS for piece in tokenizer.tokenize(text))
    others = {piece: number for piece, number in used.items() if piece not in alphabet | words}
    assert min(used[word] for word in words) >= max(others.values())


def test_a_kept_piece_of_bpe_keeps_all_that_it_is_joined_from():
    tokenizer = byte_level()
    counts = count_pieces(Dataset.from_dict({"text": CORPUS}), ["text"], tokenizer)
    smallest = 256 + len(SPECIAL)
    for size in (smallest, smallest + 7, smallest + 40, len(tokenizer)):
        trimmed, kept = trim_tokenizer(tokenizer, counts, size=size)
        assert len(kept) <= size
        merges = json.loads(trimmed.backend_tokenizer.to_str())["model"]["merges"]
        joined = {left + right for left, right in merges}
        assert joined == {piece for piece in trimmed.get_vocab() if len(piece) > 1} - set(SPECIAL)


def test_tokenizers_without_pieces_in_a_file_are_refused():
    data = TextClassificationData(
        {"train": Dataset.from_dict({"text": ["a"]})}, LabelMap(SINGLE_LABEL, ("a", "b")), ("text",), ""
    )
    for tokenizer, found in ((ByT5Tokenizer(), "ByT5Tokenizer"), (make_tokenizer("a", "b"), "WordLevel")):
        with pytest.raises(UserError, match=f"--trim_vocabulary .*{found}"):
            trim_vocabulary(data, {}, tokenizer)


# ---- Models ----


def collate(rows):
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(
    "architecture",
    ["bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "gpt2", "llama", "flaubert"],
)
def test_a_model_of_fewer_pieces_gives_the_same_logits_to_the_bit(architecture, tmp_path):
    model = tiny_classifier(architecture)
    kept = [*range(6), *range(97, 8, -2)]
    generator = torch.Generator().manual_seed(0)
    new = torch.randint(6, len(kept), (4, 12), generator=generator)
    mask = torch.ones_like(new)
    mask[1, 7:] = 0
    new[1, 7:] = model.config.pad_token_id or 0
    dataset = Dataset.from_dict({"input_ids": new.tolist(), "attention_mask": mask.tolist()})
    smaller = keep_pieces(model, kept, dataset, collate)
    old_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    smaller.save_pretrained(tmp_path)
    smaller = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(kept)[new], attention_mask=mask).logits
        assert torch.equal(smaller(input_ids=new, attention_mask=mask).logits, expected)
    assert smaller.get_input_embeddings().num_embeddings == smaller.config.vocab_size == len(kept)
    assert smaller.num_parameters() < model.num_parameters()
    assert all(torch.equal(tensor, old_weights[name]) for name, tensor in model.state_dict().items())


def test_ids_in_the_config_follow_and_a_model_that_counts_from_the_padding_token_is_checked():
    dataset = Dataset.from_dict({"input_ids": [[3, 4, 5, 6]], "attention_mask": [[1, 1, 1, 1]]})
    model = tiny_classifier("bert", pad_token_id=7, bos_token_id=50, eos_token_id=51)
    config = keep_pieces(model, [51, *range(20)], dataset, collate).config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (8, None, 0)
    roberta = tiny_classifier("roberta", pad_token_id=1)
    with pytest.raises(UserError, match="--trim_vocabulary .*logits"):
        keep_pieces(roberta, range(1, 99), dataset, collate)


# ---- Runs ----


@pytest.fixture(scope="module")
def arguments(teacher, files):
    return ["--teacher_name_or_path", teacher, *files, "--per_device_train_batch_size", 8]


@pytest.fixture(scope="module")
def runs(arguments, script_caches, tmp_path_factory):
    """The folders of a run with the whole vocabulary and of the same run with a trimmed one."""
    folder = tmp_path_factory.mktemp("trimmed")
    shared = [*arguments, "--max_steps", 3, "--teacher_output_dir", folder / "teacher"]
    shared += ["--hidden_weight", 1, "--hidden_state_cache_gb", 1]
    run_main(run_distillation, *shared, "--output_dir", folder / "whole")
    run_main(run_distillation, *shared, "--trim_vocabulary", "--output_dir", folder / "trimmed")
    return folder / "whole", folder / "trimmed"


EMBEDDINGS = "bert.embeddings.word_embeddings.weight"


def old_ids(folder, teacher):
    """For each id of the tokenizer in a folder, the teacher's id of the same piece."""
    new, old = (AutoTokenizer.from_pretrained(path).get_vocab() for path in (folder, teacher))
    return [old[piece] for piece in sorted(new, key=new.get)]


def test_a_student_with_a_trimmed_vocabulary_is_trained_as_with_the_whole_one(runs, teacher):
    whole, trimmed = (load_file(folder / "model.safetensors") for folder in runs)
    ids = old_ids(runs[1], teacher)
    assert len(ids) == len(trimmed[EMBEDDINGS]) < len(whole[EMBEDDINGS])
    torch.testing.assert_close(trimmed[EMBEDDINGS], whole[EMBEDDINGS][ids], atol=1e-6, rtol=1e-4)
    for name in trimmed.keys() - {EMBEDDINGS}:
        torch.testing.assert_close(trimmed[name], whole[name], atol=1e-6, rtol=1e-4)
    for loss in ("train_loss_kl", "train_loss_hidden", "eval_loss"):
        assert results(runs[1])[loss] == pytest.approx(results(runs[0])[loss], rel=1e-5)


def test_record_and_card_say_what_is_kept_and_which_texts_have_other_pieces(runs, teacher):
    _, folder = runs
    vocabulary, kept = read_record(folder)["student"]["vocabulary"], set(old_ids(folder, teacher))
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    assert (vocabulary["pieces"], vocabulary["pieces_before"]) == (len(kept), len(tokenizer))
    is_other = [[i not in kept for i in tokenizer(text)["input_ids"]] for text, _ in sentences(13, 60)]
    assert vocabulary["other_pieces"]["test"] == {
        "tokens": pytest.approx(sum(map(sum, is_other)) / sum(map(len, is_other))),
        "texts": pytest.approx(sum(map(any, is_other)) / len(is_other)),
    }
    assert vocabulary["other_pieces"]["train"] == {"tokens": 0, "texts": 0}
    assert f"{len(kept):,} of {len(tokenizer):,} pieces" in (folder / "README.md").read_text()
    assert "vocabulary" not in read_record(runs[0])["student"]


def test_stored_logits_are_shared_with_students_of_the_whole_vocabulary(runs):
    outputs = runs[0].parent / "teacher" / "outputs"
    assert len([folder for folder in outputs.iterdir() if "-hidden-" not in folder.name and folder.is_dir()]) == 1


def test_a_teacher_that_runs_in_every_step_reads_the_trimmed_texts(runs, arguments, tmp_path):
    run_main(
        run_distillation,
        *arguments,
        *("--max_steps", 3, "--hidden_weight", 1, "--trim_vocabulary", "--output_dir", tmp_path / "student"),
    )
    for loss in ("train_loss_kl", "train_loss_hidden"):  # hidden states are stored in half precision
        assert results(tmp_path / "student")[loss] == pytest.approx(results(runs[0])[loss], rel=1e-3)


@pytest.mark.usefixtures("script_caches")
def test_a_given_size_goes_with_stored_logits_alone(arguments, tmp_path):
    sized = [*arguments, "--vocabulary_size", 150, "--max_steps", 1, "--output_dir", tmp_path / "student"]
    for option, value in (("--hidden_weight", 1), ("--relation_weight", 1), ("--teacher_cache", "false")):
        with pytest.raises(UserError, match=f"{option} .*--vocabulary_size"):
            run_main(run_distillation, *sized, option, value)
    with pytest.raises(UserError, match="--trim_vocabulary .*LoRA"):
        run_main(run_lora, *sized)
    with pytest.raises(UserError, match="--vocabulary_size .*0"):
        VocabularyArguments(vocabulary_size=0)
    sized += ["--stages", "3,2", "--layer_strategy", "uniform"]
    run_main(run_distillation, *sized)
    student = read_record(tmp_path / "student")["student"]
    assert student["vocabulary"]["pieces"] == student["stages"][0]["vocabulary"]["pieces"] == 150
    assert student["vocabulary"]["other_pieces"]["train"]["texts"] > 0
    assert run_main(run_distillation, *sized).student.results == student["results"], "the finished run is kept"


def test_an_export_with_a_trimmed_vocabulary_answers_as_the_model(runs, tmp_path, monkeypatch):
    whole, trimmed = runs
    exported = []

    def check_nothing(model, *_):  # the files are tested with the export
        exported.append(model)
        return {kind: {"megabytes": 0, "validation": {"accuracy": 0}} for kind in ("float32", "int8")}

    monkeypatch.setattr(run_export, "export_checked", check_nothing)
    folder = tmp_path / "export"
    report = run_export.main(["--model_name_or_path", str(whole), "--output_dir", str(folder), "--trim_vocabulary"])
    assert report["vocabulary"] == read_record(trimmed)["student"]["vocabulary"]
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == report["vocabulary"]["pieces"]
    new = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model, old = AutoModelForSequenceClassification.from_pretrained(whole), AutoTokenizer.from_pretrained(whole)
    for text, _ in sentences(5):
        inputs = old(text, return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).logits
            inputs["input_ids"] = torch.tensor([new.encode(text).ids])
            assert torch.equal(exported[0](**inputs).logits, expected)
