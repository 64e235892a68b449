#!/usr/bin/env bash
# tokenizers 0.23.3: training a WordPiece vocabulary twice on the same texts gives two vocabularies.
#
# Expected: training has no random part and no seed, so the same texts give the same tokens with the same ids, as the
# trainers of BPE, Unigram and WordLevel do.
# Found: ids, and some tokens, differ between trainings with WordPieceTrainer, in one process as well. A run that trains
# its own vocabulary cannot be repeated, and a checkpoint fits only the tokenizer that was saved with it: another one,
# trained on the same texts, gives the model other ids, all of them valid. (huggingface/tokenizers#1794)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

generator = random.Random(0)
words = ["".join(generator.choices("abcdefgh", k=generator.randint(2, 8))) for _ in range(400)]
kinds = {
    "WordPiece": (models.WordPiece, trainers.WordPieceTrainer),
    "BPE": (models.BPE, trainers.BpeTrainer),
    "Unigram": (models.Unigram, trainers.UnigramTrainer),
    "WordLevel": (models.WordLevel, trainers.WordLevelTrainer),
}
found = {}
for kind, (model, trainer) in kinds.items():
    vocabularies, ids = set(), set()
    for _ in range(5):
        tokenizer = Tokenizer(model())
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.train_from_iterator([" ".join(words)], trainer(vocab_size=100, show_progress=False))
        vocabularies.add(frozenset(tokenizer.get_vocab()))
        ids.add(frozenset(tokenizer.get_vocab().items()))
    found[kind] = (len(vocabularies), len(ids))
print("different vocabularies, and vocabularies with ids, of 5 trainings on the same text:", found)
assert min(found["WordPiece"]) > 1, "the behavior has changed"
assert all(found[kind] == (1, 1) for kind in ("BPE", "Unigram", "WordLevel")), "the behavior has changed"
PYTHON
