"""From a sentencepiece model to a `tokenizer.json` that gives the same ids without sentencepiece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE, Unigram

from rwtrain.data.tokenizer import BOS_ID, SPECIAL_PIECES, UNK_ID
from rwtrain.data.tokenizer import Tokenizer as SentencePieceTokenizer
from rwtrain.errors import DataError
from rwtrain.files import write_json

NORMAL, USER_DEFINED = 1, 4  # piece types of sentencepiece_model.proto that text can turn into
NEVER = -1e6  # log probability of pieces that text must not turn into; far below any path of real pieces

# Texts on which the two tokenizers must agree before an export is accepted.
PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "  two  spaces,\ta tab,\nand a newline \n\n",
    "Zażółć gęślą jaźń; Straße; naïve café; Ελλάδα; Москва; Հայաստան",
    "日本語の文章と、中文，한국어 텍스트。",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดี",
    "🙂👩‍👩‍👧 ∑ x² ≥ 0 — “quoted” … №5",
    "literal <s> </s> <unk> <pad> <mask> <image> <0x41> ▁ pieces",
    "code: for (int i=0; i<n; ++i) { a[i] += 3.14e-10; }",
    "\x00\x01\x7f control",
    "1234567890 €5.99",
)


def build_fast_tokenizer(path: str | Path) -> Tokenizer:
    """The `tokenizers` equivalent of a sentencepiece model: begin mark added, end mark not, special pieces never read from text.

    Raises:
        DataError: the model normalises its input, which a `tokenizer.json` could not reproduce exactly.
    """
    proto = model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(Path(path).read_bytes())
    rules = proto.normalizer_spec
    if rules.precompiled_charsmap or rules.add_dummy_prefix or rules.remove_extra_whitespaces:
        raise DataError(path, "the tokenizer normalises text or adds a leading space", "Train one with `rwtrain tokenizer train`, which does neither")
    tokenizer = Tokenizer(_unigram(proto) if proto.trainer_spec.model_type == 1 else _bpe(proto))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL_PIECES.values()])
    tokenizer.encode_special_tokens = True
    begin = SPECIAL_PIECES["bos"]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, BOS_ID)])
    return tokenizer


def _unigram(proto: Any) -> Unigram:
    vocab = [(piece.piece, piece.score if piece.type in (NORMAL, USER_DEFINED) else NEVER) for piece in proto.pieces]
    return Unigram(vocab=vocab, unk_id=UNK_ID, byte_fallback=proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> BPE:
    """Merges in the order of their result's score; every split of a piece into two pieces is a merge."""
    vocab = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    usable = {piece.piece: piece.score for piece in proto.pieces if piece.type in (NORMAL, USER_DEFINED)}
    merges = [
        (-score, len(piece[:cut]), piece[:cut], piece[cut:])
        for piece, score in usable.items()
        for cut in range(1, len(piece))
        if piece[:cut] in usable and piece[cut:] in usable
    ]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    return BPE(vocab=vocab, merges=pairs, unk_token=SPECIAL_PIECES["unk"], fuse_unk=True, byte_fallback=proto.trainer_spec.byte_fallback)


def write_fast_tokenizer(path: str | Path, folder: str | Path, *, max_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`, after comparing ids with sentencepiece's.

    Args:
        path: the sentencepiece model.
        max_length: longest input of the model, in tokens.

    Raises:
        DataError: some probe text gets other ids than from sentencepiece.
    """
    fast, reference = build_fast_tokenizer(path), SentencePieceTokenizer(path)
    for text in PROBE_TEXTS:
        ids, expected = fast.encode(text, add_special_tokens=False).ids, reference.encode(text).tolist()
        if ids != expected:
            raise DataError(
                path, f"its `tokenizer.json` would read {text!r} as {ids}, sentencepiece reads {expected}", "Train a tokenizer with `rwtrain tokenizer train`"
            )
    fast.save(str(Path(folder) / "tokenizer.json"))
    names = {f"{name}_token": piece for name, piece in SPECIAL_PIECES.items() if name != "image"}
    settings = {
        "tokenizer_class": "TokenizersBackend",
        **names,
        "extra_special_tokens": {"image_token": SPECIAL_PIECES["image"]},
        "model_max_length": max_length,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "processor_class": "RefinedWebProcessor",
    }
    write_json(Path(folder) / "tokenizer_config.json", settings)
