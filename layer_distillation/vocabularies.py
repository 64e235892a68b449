"""Whether two models read the same words in the same `input_ids`.

check_vocabulary(teacher, student, tokenizer)    # raises if not
has_words(tokenizer)                             # False for one that is made of nothing
"""

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from layer_distillation.errors import UserError
from layer_distillation.student_config import encoder_config


def check_vocabulary(
    teacher: PreTrainedModel, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | object | None
) -> None:
    """Compares the tokens of the tokenizer that makes the `input_ids` with those that the teacher was trained with.

    The teacher's tokenizer is looked for beside its checkpoint. Embeddings may have more rows than there are tokens,
    so rows are compared only where this tokenizer is missing, or where tokens were added after the loading.

    Args:
        tokenizer: of the student; only the embeddings are compared for anything but a tokenizer.

    Raises:
        UserError: teacher and student read other words in the same `input_ids`.
    """
    of_teacher = _tokenizer_beside(teacher) if isinstance(tokenizer, PreTrainedTokenizerBase) else None
    # Models that read characters have no such entry.
    sizes = [encoder_config(model.config).to_dict().get("vocab_size") for model in (teacher, student)]
    if of_teacher is None:
        if sizes[0] == sizes[1]:
            return
        found = f"the teacher has embeddings for {sizes[0]} tokens and the student for {sizes[1]}"
    else:
        before, now = of_teacher.get_vocab(), tokenizer.get_vocab()
        # Of models that were resized, perhaps to a multiple of 8.
        were_added = before.items() < now.items() and sizes[0] == sizes[1] and (sizes[0] or 0) >= len(now)
        if before == now or were_added:
            return
        found = f"the teacher's tokenizer has {len(of_teacher)} tokens, and the student's {len(tokenizer)} others"
    raise UserError(
        f"Teacher and student must read the same words in the same `input_ids`, but {found}. Choose a student with "
        "the teacher's tokenizer, or store the teacher's logits for the same texts in a `teacher_logits` column."
    )


def _tokenizer_beside(model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer in the folder, or in the copy of the Hub on this machine, that a model was loaded from."""
    if not model.name_or_path:
        return None
    try:
        # Unset, `trust_remote_code` would have transformers ask on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(model.name_or_path, local_files_only=True, trust_remote_code=False)
    except Exception:  # `tokenizers` raises plain exceptions for damaged files
        return None
    return tokenizer if has_words(tokenizer) else None


def has_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether a tokenizer knows words. Without files, transformers makes one that knows none."""
    return not set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens)
