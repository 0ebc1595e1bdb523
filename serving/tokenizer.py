"""The tokenizers of CLIP and T5 from a diffusers directory, without transformers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.conditioning import T5_TOKENS
from serving.errors import ModelError
from serving.model import Model

# CLIP's own pattern for splitting words, with Unicode classes
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_LONGEST = 10_000  # "no limit" is written as 1e30 in tokenizer_config.json


class Tokenizer(Protocol):
    """Text to token ids of one fixed length."""

    length: int

    def __call__(self, text: str) -> NDArray[np.int64]:
        """Token ids, shape [length]."""
        ...

    def cuts(self, text: str) -> bool:
        """Is the text longer than that?"""
        ...


def open_tokenizers(model: Model) -> dict[str, Tokenizer]:
    """The tokenizer of each text encoder of the model, by the encoder's part. Raises ModelError."""
    made: dict[str, Tokenizer] = {}
    for part, (tokenizer, kind) in model.layout.tokenizers.items():
        folder = model.folder / tokenizer
        made[part] = T5Tokenizer(folder) if kind == "T5Tokenizer" else ClipTokenizer(folder, model.texts[part].max_position_embeddings)
    return made


class ClipTokenizer:
    """Text to token ids of one fixed length: start, words, end, padding; a longer text is cut. Thread-safe."""

    def __init__(self, folder: Path, length: int) -> None:
        """Read `tokenizer.json`, or `vocab.json` and `merges.txt`, of `folder`.

        `length` is the text encoder's number of positions; the tokenizer's own model_max_length may be shorter.
        Raises ModelError.
        """
        config = _read(folder / "tokenizer_config.json") | {
            key: value for key, value in _read(folder / "special_tokens_map.json").items() if value is not None
        }
        told = config.get("model_max_length")
        self.length = int(told) if isinstance(told, int | float) and 2 <= told < _LONGEST else length
        if self.length > length:
            raise ModelError(
                f"{folder}/tokenizer_config.json: model_max_length {self.length} exceeds the text encoder's {length} positions"
            )
        self._tokenizer = _open(
            folder, lambda: _from_file(path) if (path := folder / "tokenizer.json").is_file() else _from_vocabulary(folder, config)
        )
        self._tokenizer.enable_truncation(self.length)
        self._pad = _pad(folder, self._tokenizer, _text(config.get("pad_token"), "<|endoftext|>"))

    def __call__(self, text: str) -> NDArray[np.int64]:
        """Token ids, shape [length]."""
        return _filled(self._tokenizer.encode(text).ids, self.length, self._pad)

    def cuts(self, text: str) -> bool:
        """Is the text longer than `length` tokens?"""
        return bool(self._tokenizer.encode(text).overflowing)


class T5Tokenizer:
    """Text to token ids of one fixed length: pieces, end, padding; a longer text is cut. Thread-safe."""

    def __init__(self, folder: Path, length: int = T5_TOKENS) -> None:
        """Read `tokenizer.json` of `folder`. Raises ModelError."""
        self.length, path = length, folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{path}: is missing, and spiece.model alone is not read; save it with transformers' T5TokenizerFast.save_pretrained"
            )
        self._tokenizer = _open(folder, lambda: _from_file(path))
        self._tokenizer.enable_truncation(length)
        self._pad = _pad(folder, self._tokenizer, _text(_read(folder / "tokenizer_config.json").get("pad_token"), "<pad>"))

    def __call__(self, text: str) -> NDArray[np.int64]:
        """Token ids, shape [length]."""
        return _filled(self._tokenizer.encode(text).ids, self.length, self._pad)

    def cuts(self, text: str) -> bool:
        """Is the text longer than `length` tokens?"""
        return bool(self._tokenizer.encode(text).overflowing)


def _open(folder: Path, read: Callable[[], Any]) -> Any:
    try:
        tokenizer = read()
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelError(f"{folder}: the tokenizer cannot be read ({error}); copy the directory again") from None
    tokenizer.no_padding()
    return tokenizer


def _pad(folder: Path, tokenizer: Any, token: str) -> int:
    pad = tokenizer.token_to_id(token)
    if pad is None:
        raise ModelError(f"{folder}: the pad_token {token!r} is not in the vocabulary; copy the directory again")
    return int(pad)


def _filled(ids: Sequence[int], length: int, pad: int) -> NDArray[np.int64]:
    row = np.full(length, pad, np.int64)
    row[: len(ids)] = ids
    return row


def _from_file(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def _from_vocabulary(folder: Path, config: dict[str, Any]) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: is missing, and there is no tokenizer.json; copy the whole model directory")
    start, end, unknown = (
        _text(config.get(name), usual)
        for name, usual in (("bos_token", "<|startoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"))
    )
    model = models.BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=unknown
    )
    tokenizer = Tokenizer(model)
    start_id, end_id = tokenizer.token_to_id(start), tokenizer.token_to_id(end)
    if start_id is None or end_id is None:
        raise ModelError(f"{folder / 'vocab.json'}: lacks the token {start if start_id is None else end!r}; copy the directory again")
    tokenizer.add_special_tokens([start, end])
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.post_processor = processors.RobertaProcessing((end, end_id), (start, start_id), trim_offsets=False, add_prefix_space=False)
    return tokenizer


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path}: is not valid JSON ({error}); copy it again") from None


def _text(token: object, usual: str) -> str:
    """A special token is written as a string or as {"content": …}."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else usual
