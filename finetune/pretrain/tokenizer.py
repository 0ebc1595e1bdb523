"""A word-level CLIP tokenizer for the captions' own words (BPE with `</w>`, so any other word still splits)."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

LENGTH = 20
_START, _END = "<|startoftext|>", "<|endoftext|>"


def build(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Train on the words of `captions`, each once, and save in diffusers' layout under `folder`.

    Every byte is in the alphabet: a character outside it would become `<|endoftext|>` in mid-prompt.
    """
    words = sorted({w for caption in captions for w in caption.lower().replace(",", " ").split() if w.isascii()})
    bpe = Tokenizer(models.BPE(unk_token=_END, end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=7000,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=[_START, _END],
        show_progress=False,
    )
    bpe.train_from_iterator([*words, *alphabet], trainer)
    trained = json.loads(bpe.to_str())["model"]
    vocab, merges = trained["vocab"], trained["merges"]
    for token in alphabet:
        vocab.setdefault(token, len(vocab))
        vocab.setdefault(f"{token}</w>", len(vocab))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = [" ".join(m) if isinstance(m, list) else m for m in merges]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=LENGTH, pad_token=_END, unk_token=_END
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
