"""Training steps without what the last layer computes for tokens that the head does not read."""

import copy
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForSequenceClassification, BertForTokenClassification
from transformers.debug_utils import DebugUnderflowOverflow
from transformers.models.bert.modeling_bert import BertLayer

from distill_trainer import DistillationTrainer
from experiments.tiny_classifiers import tiny_classifier
from layer_distillation.dropout import set_dropout
from layer_distillation.unread_tokens import module_after_attention, unread_tokens_left_out
from tests.workers.train_worker import arguments, pad

BATCH = {
    "input_ids": torch.randint(5, 30, (3, 48), generator=torch.Generator().manual_seed(0)),
    "attention_mask": (torch.arange(48) < torch.tensor([[48], [31], [17]])).long(),
}


def student(model_type="bert", **config):
    model = tiny_classifier(model_type, **config)
    set_dropout(model, 0.0)
    return model.train()


def step(model, **more):
    """Returns the logits of a forward pass, the gradients of a sum of them, and the operations of both."""
    model.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as counter:
        logits = model(**BATCH, **more).logits
        (logits * torch.linspace(-1, 2, logits.numel()).view(logits.shape)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return logits.detach(), gradients, counter.get_total_flops()


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    assert found[1].keys() == expected[1].keys()
    largest = max((gradient.abs().max().item() for gradient in expected[1].values()), default=0)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5 * largest)


def share_of_operations(model, **more):
    """Returns the operations of a step without unread tokens as a share of those of a whole one, both checked."""
    expected = step(model, **more)
    with unread_tokens_left_out(model):
        found = step(model, **more)
    assert_same(found, expected)
    return found[2] / expected[2]


@pytest.mark.parametrize(
    "model_type",
    [
        *("bert", "roberta", "xlm-roberta", "camembert", "electra", "deberta", "deberta-v2", "distilbert", "mpnet"),
        *("modernbert", "gte", "nomic_bert", "jina_embeddings_v3", "esmc", "roberta-prelayernorm", "rembert"),
        *("convbert", "nystromformer", "roformer", "megatron-bert"),
    ],
)
def test_logits_and_gradients_stay_the_same_with_fewer_operations(model_type):
    # Of six layers, one computes what follows its attention for one token of 48.
    assert share_of_operations(student(model_type)) < 0.96


def test_a_layer_of_bert_keeps_its_attention_alone():
    config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "attn_implementation": "eager"}
    left_out = 47 * (32 * 32 + 2 * 32 * 64)  # of 48 tokens: output of the attention, and the feed-forward part
    of_a_layer = 48 * (4 * 32 * 32 + 2 * 32 * 64 + 2 * 48 * 32)
    assert share_of_operations(student(**config)) == pytest.approx(1 - left_out / (3 * of_a_layer), rel=0.01)


@pytest.mark.parametrize(
    "model_type",
    # They share layers, read every token or the last one, compute layers again in the backward pass, or add tokens.
    [
        "albert",
        "canine",
        "eurobert",
        "llama",
        "gpt2",
        "modernbert-decoder",
        "reformer",
        "big_bird",
        "squeezebert",
        "fnet",
        "ibert",
    ],
)
def test_other_models_compute_everything(model_type):
    assert module_after_attention(student(model_type)) is None


def test_a_head_that_averages_over_tokens_gets_them_all():
    assert share_of_operations(student("modernbert", classifier_pooling="mean")) == 1


def test_a_classifier_of_tokens_gets_them_all():
    model = BertForTokenClassification(student().config).train()
    set_dropout(model, 0.0)
    assert share_of_operations(model) == 1


def test_a_feed_forward_part_in_chunks_gets_all_tokens():
    model = student(chunk_size_feed_forward=2)
    model.config.chunk_size_feed_forward = 2
    assert share_of_operations(model) == 1


class OwnClassifier(BertForSequenceClassification):
    """Its loss might read more than its logits."""


def test_classes_of_others_compute_everything():
    model = OwnClassifier(student().config).train()
    set_dropout(model, 0.0)
    assert share_of_operations(model) == 1


# ---- what needs all tokens in a step ----


def test_hidden_states_that_are_asked_for_are_whole():
    model = student()
    assert share_of_operations(model, output_hidden_states=True) == 1
    assert share_of_operations(model, output_hidden_states=False) < 0.96
    with unread_tokens_left_out(model):
        assert model(**BATCH, output_hidden_states=True).hidden_states[-1].shape == (3, 48, 32)
        assert step(model)[2] < 0.96 * step(model, output_hidden_states=True)[2]
    model.config.output_hidden_states = True
    assert share_of_operations(model) == 1


def test_hooks_of_others_read_all_tokens():
    model = student()
    shapes = []
    last = model.bert.encoder.layer[-1]
    with unread_tokens_left_out(model):
        handle = last.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
        step(model)
        handle.remove()
        few = step(model)[2]
    assert shapes == [(3, 48, 32)]  # and the trial calls no hook
    assert few < 0.96 * step(model)[2]


def watch_pooler(model, shapes):
    return model.bert.pooler.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))


def watch_gradients(model, shapes):
    layer = model.bert.encoder.layer[-1].output
    return layer.register_full_backward_hook(lambda module, inputs, outputs: shapes.append(outputs[0].shape))


def watch_every_module(model, shapes):
    pooler = model.bert.pooler
    return register_module_forward_pre_hook(
        lambda module, args: shapes.append(args[0].shape) if module is pooler else None
    )


@pytest.mark.parametrize("watch", [watch_pooler, watch_gradients, watch_every_module])
def test_hooks_on_inputs_and_gradients_read_all_tokens(watch):
    model, shapes = student(), []
    with unread_tokens_left_out(model):
        handle = watch(model, shapes)
        step(model)
        handle.remove()
        assert shapes == [(3, 48, 32)]
        assert step(model)[2] < 0.96 * step(model, output_hidden_states=True)[2]


def test_the_frames_of_a_debugger_are_whole():
    model = student(attn_implementation="eager")  # it cannot read boolean masks
    with unread_tokens_left_out(model):
        debugger = DebugUnderflowOverflow(model)
        operations = step(model)[2]
    assert operations == step(model)[2] and debugger.batch_number == 2


def test_hooks_before_the_last_layer_get_all_tokens_of_fewer_operations():
    model, shapes = student(), []
    for module in (model.bert.embeddings.word_embeddings, model.bert.encoder.layer[-2]):
        module.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    assert share_of_operations(model) < 0.96
    assert shapes == [(3, 48, 32)] * 4


def test_a_layer_whose_forward_is_replaced_computes_everything():
    model, shapes = student(), []
    expected, layer = step(model), model.bert.encoder.layer[-1]
    forward = layer.forward

    def keep_shape(*args, **kwargs):
        output = forward(*args, **kwargs)
        shapes.append(output.shape)
        return output

    with unread_tokens_left_out(model):
        layer.forward = keep_shape
        assert_same(step(model), expected)
    assert shapes == [(3, 48, 32)]


def test_modules_of_others_may_keep_what_they_read():
    model, counts, of_first = student(), [], []
    first, *_, last = (layer.intermediate for layer in model.bert.encoder.layer)
    first.intermediate_act_fn = Records(first.intermediate_act_fn, of_first)
    assert share_of_operations(model) < 0.96  # what comes before the last layer is complete
    with unread_tokens_left_out(model):
        last.intermediate_act_fn = Records(last.intermediate_act_fn, counts)
        step(model)
    assert counts == [48]
    assert share_of_operations(model) == 1


def test_after_an_error_an_encoder_returns_all_tokens():
    model = student()
    with unread_tokens_left_out(model):
        with pytest.raises(ValueError, match="batch_size"):
            model(**BATCH, labels=torch.zeros(2, dtype=torch.long))
        assert model.bert(**BATCH).last_hidden_state.shape == (3, 48, 32)


def test_an_encoder_that_is_called_by_itself_returns_all_tokens():
    model = student()
    with unread_tokens_left_out(model):
        step(model)
        assert model.bert(**BATCH).last_hidden_state.shape == (3, 48, 32)


def test_layers_that_are_computed_again_are_whole():
    model = student()
    expected = step(model)
    model.gradient_checkpointing_enable()
    with unread_tokens_left_out(model):
        assert_same(step(model), expected)
    model.gradient_checkpointing_disable()
    assert share_of_operations(model) < 0.96
    with unread_tokens_left_out(model):
        apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, BertLayer))
        assert_same((step(model)[0], {}), (expected[0], {}))


class Records(torch.nn.Module):
    """A function that keeps how many tokens it gets."""

    def __init__(self, function, counts):
        super().__init__()
        self.function, self.counts = function, counts

    def forward(self, states):
        self.counts.append(states.shape[1])
        return self.function(states)


class KnownRecords(Records):
    __module__ = "torch.nn"


def test_a_compiled_model_leaves_them_out_too():
    model = student()
    expected, counts = step(model), []
    last = model.bert.encoder.layer[-1].intermediate
    last.intermediate_act_fn = KnownRecords(last.intermediate_act_fn, counts)
    with unread_tokens_left_out(model):
        compiled = torch.compile(model, backend="eager")
        found = compiled(**BATCH).logits
        assert compiled(**BATCH, output_hidden_states=True).hidden_states[-1].shape == (3, 48, 32)
    torch.testing.assert_close(found, expected[0], rtol=1e-5, atol=1e-5)
    assert counts[0] == 1


def test_evaluation_is_as_it_was():
    model = student().eval()
    expected = step(model)
    with unread_tokens_left_out(model):
        logits, _, operations = step(model)
    assert operations == expected[2] and torch.equal(logits, expected[0])


# ---- the trial ----


def test_models_stay_as_they_are():
    model = student("big_bird", attention_type="block_sparse")
    state = copy.deepcopy(model.state_dict())
    calls = []
    model.bert.encoder.layer[0].register_forward_hook(lambda *_: calls.append(1))
    random_state = torch.get_rng_state()
    with pytest.raises(RuntimeError), unread_tokens_left_out(model):
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not calls and model.training and model.bert.attention_type == "block_sparse"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_head_without_weights_is_not_taken_for_one_that_reads_the_first_token():
    model = student("modernbert", classifier_pooling="mean")
    torch.nn.init.zeros_(model.classifier.weight)  # every token gives the same logits
    assert share_of_operations(model) == 1


def test_a_forward_that_is_bound_to_another_model_proves_nothing():
    model = student("modernbert", classifier_pooling="mean")
    bound = model.forward
    model.forward = lambda **inputs: bound(**inputs)
    assert module_after_attention(model) is None


def test_the_roundings_of_bfloat16_are_no_difference():
    with torch.autocast("cpu", torch.bfloat16):
        assert module_after_attention(student()) is not None
        assert module_after_attention(student("modernbert", classifier_pooling="mean")) is None


# ---- in a training ----


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: get_peft_model(model, LoraConfig("SEQ_CLS"))])
def test_a_training_gives_the_same_weights_with_fewer_operations(wrap, bf16, tmp_path, monkeypatch):
    def train():
        torch.manual_seed(0)
        model = wrap(student())
        own = {"kl_weight": 0, "max_steps": 3, "per_device_train_batch_size": 16, "adam_epsilon": 1e-3}
        rows = [{"input_ids": list(range(3, 50 + i)), "labels": i % 2} for i in range(48)]
        with FlopCounterMode(display=False) as counter:
            DistillationTrainer(model, arguments(tmp_path, **own, bf16=bf16), pad, train_dataset=rows).train()
        return dict(model.named_parameters()), counter.get_total_flops()

    weights, few = train()
    monkeypatch.setattr("layer_distillation.quick_steps.unread_tokens_left_out", lambda model: nullcontext())
    expected, all_operations = train()
    assert few < 0.96 * all_operations
    tolerance = 3e-4 if bf16 else 1e-5
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=tolerance)
