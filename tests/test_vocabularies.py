"""Tests of `vocabularies`: what counts are the words behind the `input_ids`, not the rows of the embeddings."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from layer_distillation.errors import UserError
from layer_distillation.vocabularies import check_vocabulary


def make_tokenizer(*words):
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", *words))}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, "[UNK]")), pad_token="[PAD]", unk_token="[UNK]"
    )


@pytest.fixture
def make_model(tmp_path):
    """Builds a classifier with so many embeddings; with a tokenizer, it is saved beside it and loaded again."""

    def make(rows, tokenizer=None):
        config = BertConfig(
            vocab_size=rows, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
        model = BertForSequenceClassification(config)
        if tokenizer is None:
            return model
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return BertForSequenceClassification.from_pretrained(tmp_path)

    return make


def test_more_rows_for_the_same_words_are_allowed(make_model):
    check_vocabulary(make_model(16, make_tokenizer("a", "b")), make_model(4), make_tokenizer("a", "b"))


def test_other_words_in_as_many_rows_are_refused(make_model):
    teacher = make_model(4, make_tokenizer("a", "b"))
    with pytest.raises(UserError, match="`input_ids`"):
        check_vocabulary(teacher, make_model(4), make_tokenizer("b", "a"))


def test_tokens_may_be_added_to_both_models_after_they_were_loaded(make_model):
    teacher, tokenizer = make_model(4, make_tokenizer("a", "b")), make_tokenizer("a", "b", "c")
    padded_to_8 = make_model(4, make_tokenizer("a", "b"))
    padded_to_8.resize_token_embeddings(5, pad_to_multiple_of=8)
    teacher.resize_token_embeddings(5)
    check_vocabulary(teacher, make_model(5), tokenizer)
    check_vocabulary(padded_to_8, make_model(8), tokenizer)
    for student, read in ((make_model(6), tokenizer), (make_model(5), make_tokenizer("b", "a", "c"))):
        with pytest.raises(UserError, match="`input_ids`"):
            check_vocabulary(teacher, student, read)


@pytest.mark.parametrize("tokenizer", [None, make_tokenizer("a", "b")])
def test_without_the_teachers_tokenizer_the_rows_are_compared(make_model, tokenizer):
    check_vocabulary(make_model(4), make_model(4), tokenizer)
    with pytest.raises(UserError, match="5.*4"):
        check_vocabulary(make_model(5), make_model(4), tokenizer)
