"""Tests of `teacher_outputs`: every example has its own outputs, never those of another teacher or of other data."""

import multiprocessing
import os
import re
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from peft import LoraConfig, get_peft_model
from transformers import BertForSequenceClassification

from layer_distillation.dropout import set_dropout
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_dataset, fingerprint_model
from layer_distillation.model_outputs import compute_logits
from layer_distillation.teacher_outputs import (
    TEACHER_LOGITS,
    HiddenStatesCollator,
    add_teacher_hidden_states,
    add_teacher_logits,
)
from tests.workers.train_worker import bert, pad, random_examples, token_classifier, token_examples

NUM_EXAMPLES = 23
# A fresh process would take longer to import the libraries than all of these tests take.
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def examples():
    return random_examples(NUM_EXAMPLES)


@pytest.fixture(scope="module")
def expected(examples):
    """Logits of a plain forward pass of each example alone."""
    teacher = bert(2)
    with torch.no_grad():
        rows = [teacher(**pad([row])).logits[0] for row in examples.remove_columns("labels")]
    return torch.stack(rows).numpy()


def count_calls(model):
    calls = []
    model.register_forward_hook(lambda *args: calls.append(1))
    return calls


def cached(dataset):
    return np.array(dataset[TEACHER_LOGITS], dtype=np.float32)


def add_states_of_layer_1(dataset, teacher, cache_dir, collator):
    return add_teacher_hidden_states(dataset, teacher, [1], cache_dir, collator, max_bytes=10**6)


def finished(cache_dir):
    return [path for path in cache_dir.iterdir() if not path.name.startswith(".")] if cache_dir.exists() else []


# ---- the logits ----


def test_logits_are_those_of_a_plain_forward_pass_of_each_example(examples, expected):
    for batch_size in (1, 4, 64):
        logits = compute_logits(bert(2), examples, pad, batch_size)
        assert logits.dtype == np.float32
        assert logits == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_every_other_column_and_the_order_are_kept(cache_dir, examples, expected):
    with_logits = add_teacher_logits(examples, bert(2), cache_dir, pad, batch_size=4)
    assert with_logits.column_names == [*examples.column_names, TEACHER_LOGITS]
    assert with_logits.remove_columns(TEACHER_LOGITS)[:] == examples[:]
    assert cached(with_logits) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_logits_follow_their_example_when_the_result_is_rearranged(cache_dir, examples, expected):
    numbered = examples.add_column("number", list(range(NUM_EXAMPLES)))
    with_logits = add_teacher_logits(numbered, bert(2), cache_dir, pad)
    for rearranged in (with_logits.shuffle(seed=1), with_logits.select([5, 3, 22]), with_logits.sort("labels")):
        assert cached(rearranged) == pytest.approx(expected[rearranged["number"]], rel=1e-5, abs=1e-5)


def test_a_selection_gets_the_logits_of_its_own_examples(cache_dir, examples, expected):
    for indices in (range(3, 11), [22, 0, 7, 7], list(reversed(range(NUM_EXAMPLES)))):
        with_logits = add_teacher_logits(examples.select(indices), bert(2), cache_dir, pad)
        assert cached(with_logits) == pytest.approx(expected[list(indices)], rel=1e-5, abs=1e-5)
        assert with_logits["input_ids"][:] == [examples[int(index)]["input_ids"] for index in indices]


def test_teacher_with_dropout_is_run_in_evaluation_mode(cache_dir, examples, expected):
    with_logits = add_teacher_logits(examples, bert(2, dropout=True).train(), cache_dir, pad)
    assert cached(with_logits) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_data_set_without_examples_is_refused_and_leaves_no_cache(cache_dir, examples):
    for add in (add_teacher_logits, add_states_of_layer_1):
        with pytest.raises(UserError, match="data set has no examples"):
            add(examples.select(range(0)), bert(2), cache_dir, pad)
    assert not finished(cache_dir)


# ---- the cache ----


def test_second_call_reads_the_cache_and_does_not_run_the_teacher(cache_dir, examples):
    teacher = bert(2)
    calls = count_calls(teacher)
    first = add_teacher_logits(examples, teacher, cache_dir, pad, batch_size=10)
    assert len(calls) == 3
    second = add_teacher_logits(examples, teacher, cache_dir, pad)
    assert len(calls) == 3
    assert second[:] == first[:]
    assert len(finished(cache_dir)) == 1


def test_cache_is_memory_mapped_from_its_folder(cache_dir, examples):
    with_logits = add_teacher_logits(examples, bert(2), cache_dir, pad)
    (folder,) = finished(cache_dir)
    assert {Path(file["filename"]).parent for file in with_logits.cache_files} == {folder}


def test_the_cache_holds_little_more_than_4_bytes_a_logit(cache_dir):
    tokens = np.random.default_rng(0).integers(5, 128, (3_000, 1)).tolist()
    large = Dataset.from_dict({"input_ids": tokens, "attention_mask": [[1]] * len(tokens)})
    with_logits = add_teacher_logits(large, bert(1), cache_dir, pad, batch_size=1024)
    size = sum(path.stat().st_size for path in cache_dir.rglob("*") if path.is_file())
    assert 3_000 * 3 * 4 <= size < 1.1 * 3_000 * 3 * 4 + 2_000
    assert with_logits.features[TEACHER_LOGITS] == List(Value("float32"), length=3)


@pytest.mark.parametrize("what", ["weights", "order", "token", "token type", "length", "precision"])
def test_a_change_that_matters_leads_to_a_cache_of_its_own(cache_dir, examples, what):
    add_teacher_logits(examples, bert(2), cache_dir, pad)
    teacher, changed, bf16 = bert(2), examples, what == "precision"
    if what == "weights":
        with torch.no_grad():
            teacher.classifier.weight[0, 0] += 1e-6
    elif what == "order":
        changed = examples.select([1, 0, *range(2, NUM_EXAMPLES)])
    elif what == "length":
        # The same tokens one after the other, with the border between two examples moved.
        rows = [dict(row) for row in examples]
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            rows[1][name] = rows[0][name][-1:] + rows[1][name]
            rows[0][name] = rows[0][name][:-1]
        changed = Dataset.from_list(rows)
    elif what != "precision":
        name = {"token": "input_ids", "token type": "token_type_ids"}[what]
        rows = [dict(row) for row in examples]
        rows[20][name] = [1 - rows[20][name][0] if what == "token type" else 99, *rows[20][name][1:]]
        changed = Dataset.from_list(rows)
    calls = count_calls(teacher)
    add_teacher_logits(changed, teacher, cache_dir, pad, bf16=bf16)
    assert calls and len(finished(cache_dir)) == 2


def test_what_changes_no_output_of_a_teacher_leads_to_the_same_cache(cache_dir, examples):
    teacher = bert(2)
    add_teacher_logits(examples, teacher, cache_dir, pad)
    set_dropout(teacher, 0.3)
    calls = count_calls(teacher)
    add_teacher_logits(examples, teacher.train(), cache_dir, pad)
    assert not calls and len(finished(cache_dir)) == 1


def test_quantized_teachers_and_adapters_have_caches_of_their_own(cache_dir, examples):
    def with_adapter(alpha):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = LoraConfig(target_modules=["query"], r=2, lora_alpha=alpha, init_lora_weights=False)
            return get_peft_model(bert(2), config).eval()

    with warnings.catch_warnings(action="ignore"):
        int8 = torch.ao.quantization.quantize_dynamic(bert(2), {torch.nn.Linear}, dtype=torch.qint8)
    for number, teacher in enumerate((with_adapter(2), with_adapter(4), int8), start=1):
        stored = add_teacher_logits(examples, teacher, cache_dir, pad)[TEACHER_LOGITS]
        assert len(finished(cache_dir)) == number
        with torch.no_grad():
            expected = teacher(**pad([{k: row[k] for k in row if k != "labels"} for row in examples])).logits
        torch.testing.assert_close(torch.tensor(stored[:]), expected, rtol=2e-2, atol=2e-2)
    add_teacher_logits(examples, with_adapter(4), cache_dir, pad)
    assert len(finished(cache_dir)) == 3


class Sharper(BertForSequenceClassification):
    """The weights and the config of another class, and other logits."""

    factor = 3.0

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs["logits"] = self.factor * outputs["logits"]
        return outputs


def test_what_a_teacher_computes_beside_its_weights_and_its_config_leads_to_a_cache_of_its_own(cache_dir, examples):
    def sharper(factor):
        model = bert(2)
        model.__class__, model.factor = Sharper, factor
        return model

    def with_adapters(alpha=4, names=("default",), is_on=True, is_native=False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = LoraConfig(target_modules=["query"], r=2, lora_alpha=alpha, init_lora_weights=False)
            model = bert(2)
            if is_native:
                model.add_adapter(config)
                return model.eval()
            model = get_peft_model(model, config)
            model.add_adapter("other", config)
        model.base_model.set_adapter(list(names))
        if not is_on:
            model.base_model.disable_adapter_layers()
        return model.eval()

    native = [with_adapters(alpha, is_native=True) for alpha in (4, 8)]
    adapters = [with_adapters(), with_adapters(names=("default", "other")), with_adapters(is_on=False)]
    for number, teacher in enumerate((bert(2), sharper(3.0), sharper(4.0), *native, *adapters), start=1):
        stored = cached(add_teacher_logits(examples, teacher, cache_dir, pad))
        assert len(finished(cache_dir)) == number
        with torch.no_grad():
            expected = teacher(**pad([{k: row[k] for k in row if k != "labels"} for row in examples])).logits
        assert stored == pytest.approx(expected.numpy(), abs=1e-5)
    for teacher in (bert(2), sharper(4.0), with_adapters(4, is_native=True), with_adapters(is_on=False)):
        calls = count_calls(teacher)
        add_teacher_logits(examples, teacher.train(), cache_dir, pad)
        assert not calls


class Module(torch.nn.Module):
    """A teacher without a config."""

    def __init__(self):
        super().__init__()
        self.model = bert(2)

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids, attention_mask, token_type_ids).logits


def test_a_teacher_may_be_any_module(cache_dir, examples, expected):
    assert cached(add_teacher_logits(examples, Module(), cache_dir, pad)) == pytest.approx(expected, abs=1e-5)


def test_a_column_that_is_there_already_and_texts_that_are_no_tokens_are_refused(cache_dir, examples):
    stored = add_teacher_logits(examples, bert(2), cache_dir, pad)
    with pytest.raises(UserError, match="`remove_columns`"):
        add_teacher_logits(stored, bert(1), cache_dir, pad)
    with pytest.raises(UserError, match="`input_ids` .* `map`"):
        add_teacher_logits(Dataset.from_dict({"text": ["a"]}), bert(1), cache_dir, pad)
    states = add_states_of_layer_1(examples, bert(2), cache_dir, pad)
    with pytest.raises(UserError, match="teacher_hidden_states_1"):
        add_states_of_layer_1(states, bert(2), cache_dir, pad)


def test_labels_other_columns_and_the_storage_of_the_data_do_not_matter(cache_dir, examples, tmp_path):
    teacher = bert(2)
    add_teacher_logits(examples, teacher, cache_dir, pad)
    calls = count_calls(teacher)
    relabelled = examples.remove_columns("labels").add_column("labels", [0] * NUM_EXAMPLES).add_column("x", ["a"] * 23)
    in_parts = concatenate_datasets([examples.select(range(10)), examples.select(range(10, 23))])
    backwards_twice = examples.select(range(22, -1, -1)).select(range(22, -1, -1))
    examples.save_to_disk(str(tmp_path / "on disk"))
    for same in (relabelled, in_parts, backwards_twice, Dataset.load_from_disk(str(tmp_path / "on disk"))):
        add_teacher_logits(same, teacher, cache_dir, pad)
    assert not calls


def test_a_teacher_reads_the_further_columns_that_it_names(cache_dir):
    ids = [[5, 6, 7], [8, 9, 10]]
    for positions in ([[0, 1, 2]] * 2, [[7, 3, 5], [0, 9, 1]]):
        examples = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 3] * 2, "position_ids": positions})
        stored = cached(add_teacher_logits(examples, bert(2), cache_dir, pad))
        with torch.no_grad():
            expected = bert(2)(input_ids=torch.tensor(ids), position_ids=torch.tensor(positions)).logits.numpy()
        assert stored == pytest.approx(expected, abs=1e-5)
    assert len(finished(cache_dir)) == 2


def test_a_teacher_of_tokens_is_refused_with_what_to_do(cache_dir):
    with pytest.raises(UserError, match="`teacher_model`"):
        add_teacher_logits(token_examples(5), token_classifier(1), cache_dir, pad)
    assert not finished(cache_dir)


def test_fingerprint_of_a_data_set_with_examples_of_fixed_length_is_that_of_its_values():
    # In lists of lists, such as boxes of tokens, both borders count.
    boxes = [Dataset.from_dict({"bbox": rows}) for rows in ([[[1], [2, 3]]], [[[1, 2], [3]]], [[[1], [2]], [[3]]])]
    assert len({fingerprint_dataset(dataset, ("bbox",)) for dataset in boxes}) == 3

    def fingerprint(last):
        features = Features({"input_ids": List(Value("int64"), length=2)})
        return fingerprint_dataset(Dataset.from_dict({"input_ids": [[1, 2], [3, last]]}, features=features))

    assert fingerprint(4) == fingerprint(4)
    assert fingerprint(4) != fingerprint(5)


def test_fingerprint_of_a_model_is_that_of_its_weights_with_their_names_types_and_shapes():
    assert fingerprint_model(bert(2)) == fingerprint_model(bert(2).train())
    assert fingerprint_model(bert(2)) != fingerprint_model(bert(1))
    assert fingerprint_model(bert(2)) != fingerprint_model(bert(2).bfloat16())
    # The same bytes in the same order.
    same_bytes = (
        {"a": torch.zeros(2, 3)},
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(12).half().view(2, 6)},
    )
    assert len({fingerprint_model(torch.nn.ParameterDict(weights)) for weights in same_bytes}) == 4


# ---- interruptions and company ----


def test_an_error_during_the_build_leaves_nothing_and_the_next_call_builds_all_of_it(cache_dir, examples, expected):
    teacher = bert(2)

    def fail_at_the_second_batch(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt

    calls = count_calls(teacher)
    hook = teacher.register_forward_hook(fail_at_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        add_teacher_logits(examples, teacher, cache_dir, pad, batch_size=4)
    assert not finished(cache_dir)
    hook.remove()
    with_logits = add_teacher_logits(examples, teacher, cache_dir, pad, batch_size=4)
    assert cached(with_logits) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def build_and_be_killed(cache_dir):
    torch.set_num_threads(1)
    Path.rename = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    add_teacher_logits(random_examples(NUM_EXAMPLES), bert(2), cache_dir, pad)


def test_a_process_killed_while_it_writes_leaves_nothing_that_looks_finished(cache_dir, examples, expected):
    run = FORK.Process(target=build_and_be_killed, args=(cache_dir,))
    run.start()
    run.join(60)
    assert run.exitcode == -signal.SIGKILL
    assert list(cache_dir.glob(".unfinished-*/*.arrow")) and not finished(cache_dir)
    with_logits = add_teacher_logits(examples, bert(2), cache_dir, pad)
    assert cached(with_logits) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert not list(cache_dir.glob(".unfinished-*")), "what the killed process has left is still there"
    assert finished(cache_dir)


def build_with_another(cache_dir, barrier, queue):
    torch.set_num_threads(1)
    teacher = bert(2)
    calls = count_calls(teacher)
    teacher.register_forward_hook(lambda *args: time.sleep(0.5))  # long enough for the other to look for the cache
    barrier.wait(60)
    with_logits = add_teacher_logits(random_examples(NUM_EXAMPLES), teacher, cache_dir, pad)
    queue.put((cached(with_logits), bool(calls)))


def test_of_two_runs_that_need_the_same_cache_at_once_one_builds_it_for_both(cache_dir, expected):
    barrier, queue = FORK.Barrier(2), FORK.Queue()
    runs = [FORK.Process(target=build_with_another, args=(cache_dir, barrier, queue)) for _ in range(2)]
    for run in runs:
        run.start()
    logits, teacher_ran = zip(*(queue.get(timeout=60) for _ in runs), strict=True)
    for of_run in logits:
        assert of_run == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert sorted(teacher_ran) == [False, True]
    for run in runs:
        run.join(60)
        assert run.exitcode == 0
    assert not list(cache_dir.glob(".unfinished-*")) and len(finished(cache_dir)) == 1


def test_a_full_disk_is_an_error_and_leaves_nothing(cache_dir, examples, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Dataset, "save_to_disk", fail)
    with pytest.raises(OSError, match="No space left"):
        add_teacher_logits(examples, bert(2), cache_dir, pad)
    assert not list(cache_dir.glob(".unfinished-*")) and not finished(cache_dir)


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_teacher_runs(cache_dir, examples):
    teacher = bert(2)
    calls = count_calls(teacher)
    cache_dir.write_text("a file, which not even root can write into as a folder")
    with pytest.raises(UserError, match=f"{cache_dir}.*File exists"):
        add_teacher_logits(examples, teacher, cache_dir, pad)
    assert not calls


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [truncate, Path.unlink], ids=["half a file", "no file"])
def test_a_damaged_cache_is_refused_with_its_folder(cache_dir, examples, damage):
    for add, name in ((add_teacher_logits, "*/data*.arrow"), (add_states_of_layer_1, "*/hidden_states.arrow")):
        add(examples, bert(2), cache_dir, pad)
        (file,) = cache_dir.glob(name)
        damage(file)
        with pytest.raises(UserError, match=f"{file.parent} .*damaged"):
            add(examples, bert(2), cache_dir, pad)


# ---- hidden states ----


@pytest.mark.parametrize("batch_size", [1, 64], ids=["two parts", "one part"])
def test_hidden_states_are_those_of_a_plain_forward_pass_of_each_example(cache_dir, examples, batch_size):
    teacher = bert(3)
    with_states = add_teacher_hidden_states(examples, teacher, (3, 1), cache_dir, pad, 10**6, batch_size)
    assert with_states.column_names == [*examples.column_names, "teacher_hidden_states_1", "teacher_hidden_states_3"]
    for example, row in zip(examples.remove_columns("labels"), with_states, strict=True):
        with torch.no_grad():
            states = teacher(**pad([example]), output_hidden_states=True).hidden_states
        for layer in (1, 3):
            stored = np.array(row[f"teacher_hidden_states_{layer}"])
            assert stored == pytest.approx(states[layer][0].numpy(), rel=1e-3, abs=2e-3)


def test_hidden_states_are_float16_in_a_file_of_the_announced_size_and_read_again(cache_dir, examples):
    teacher = bert(2)
    num_bytes = sum(len(ids) for ids in examples["input_ids"]) * 32 * 2
    add_teacher_logits(examples, teacher, cache_dir, pad)
    first = add_teacher_hidden_states(examples, teacher, [2], cache_dir, pad, max_bytes=num_bytes)
    assert first.features["teacher_hidden_states_2"] == List(List(Value("float16"), length=32))
    (file,) = cache_dir.glob("*/hidden_states.arrow")
    assert num_bytes <= file.stat().st_size < num_bytes + 2000
    calls = count_calls(teacher)
    again = add_teacher_hidden_states(examples, teacher, [2], cache_dir, pad, num_bytes)
    assert again.with_format(None)[:] == first.with_format(None)[:]
    assert not calls
    add_teacher_hidden_states(examples, teacher, [1], cache_dir, pad, num_bytes)
    assert calls and len(finished(cache_dir)) == 3


def test_hidden_states_that_float16_cannot_hold_are_refused_and_not_kept(cache_dir, examples):
    teacher = bert(2)
    with torch.no_grad():
        teacher.bert.encoder.layer[1].output.LayerNorm.bias[0] = 1e5
    with pytest.raises(UserError, match="layer 2 .* float16 .* --hidden_state_cache_gb 0"):
        add_teacher_hidden_states(examples, teacher, [2], cache_dir, pad, 10**6)
    assert not finished(cache_dir)


def test_choices_of_layers_that_overlap_share_what_is_stored(cache_dir, examples):
    teacher = bert(3)
    of_first = add_teacher_hidden_states(examples, teacher, [1, 2], cache_dir, pad, 10**6)
    calls = count_calls(teacher)
    for layers in ([2], [2, 1]):
        again = add_teacher_hidden_states(examples, teacher, layers, cache_dir, pad, 10**6)
        assert np.array_equal(again[3]["teacher_hidden_states_2"], of_first[3]["teacher_hidden_states_2"])
    assert not calls
    add_teacher_hidden_states(examples, teacher, [2, 3], cache_dir, pad, 10**6)
    assert calls and len(finished(cache_dir)) == 3


def pad_on_the_left(examples):
    """As `pad`, turned around before and after."""
    batch = pad([{name: row[name][::-1] for name in ("input_ids", "attention_mask")} for row in examples])
    return {name: values.flip(1) for name, values in batch.items()}


@pytest.mark.parametrize("collator", [pad, pad_on_the_left])
def test_stored_hidden_states_stand_beside_their_tokens_on_whichever_side_padding_is(cache_dir, examples, collator):
    teacher = bert(2)
    torch.nn.init.zeros_(teacher.bert.embeddings.position_embeddings.weight)  # positions count from the padding on
    examples = examples.select_columns(["input_ids", "attention_mask"])
    stored = add_teacher_hidden_states(examples, teacher, [2], cache_dir, collator, 10**6)
    batch = HiddenStatesCollator(collator)([stored[index] for index in range(NUM_EXAMPLES)])
    states = batch.pop("teacher_hidden_states_2").float()
    with torch.no_grad():
        expected = teacher(**batch, output_hidden_states=True).hidden_states[2]
    is_token = batch["attention_mask"].bool()
    assert not is_token.all()
    torch.testing.assert_close(states[is_token], expected[is_token], rtol=1e-3, atol=2e-3)
    assert not states[~is_token].any()


def test_hidden_states_that_take_more_than_is_allowed_are_refused_before_the_teacher_runs(cache_dir, examples):
    teacher = bert(2)
    calls = count_calls(teacher)
    num_bytes = sum(len(ids) for ids in examples["input_ids"]) * 32 * 2 * 2
    with pytest.raises(UserError, match=f"2 layers .* 23 examples .* {num_bytes:,} .* --hidden_state_cache_gb"):
        add_teacher_hidden_states(examples, teacher, [1, 2], cache_dir, pad, max_bytes=num_bytes - 1)
    assert not calls and not finished(cache_dir)


def test_layers_that_the_teacher_lacks_are_refused(cache_dir, examples):
    for layers in ([], [0], [3], [1, 1]):
        with pytest.raises(UserError, match=rf"`layers` .* 1 to 2, .* found {re.escape(str(layers))}"):
            add_teacher_hidden_states(examples, bert(2), layers, cache_dir, pad, max_bytes=10**6)


def test_an_error_while_hidden_states_are_written_leaves_nothing(cache_dir, examples):
    teacher = bert(2)

    def fail(*args):
        raise KeyboardInterrupt

    hook = teacher.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        add_teacher_hidden_states(examples, teacher, [1], cache_dir, pad, max_bytes=10**6)
    assert not list(cache_dir.glob(".unfinished-*")) and not finished(cache_dir)
    hook.remove()
    add_teacher_hidden_states(examples, teacher, [1], cache_dir, pad, max_bytes=10**6)
    assert len(finished(cache_dir)) == 1
