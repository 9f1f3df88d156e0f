"""Train the tokenizer of the compact encoder and write it as one self-contained tokenizer.json.

Everything a text goes through is inside that file, so `transformers.AutoTokenizer` and the bare `tokenizers.Tokenizer`
give the same ids. The normaliser undoes what people do to slip past filters and what phones do by themselves; whatever
it does not know is spelled in bytes, so no character is ever unknown.

    python -m training.tokenizer --config configs/pretrain.yaml --output DIR
"""

import io
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
FILES = ("tokenizer.json", "tokenizer_config.json")
"""What `save_tokenizer` writes."""
SPECIAL_TOKENS = (BOS, PAD, EOS, UNK, MASK)
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# Far below any learned piece: bytes are spelled only for a character that no piece holds, and somebody who types the
# name of a byte piece gets its letters.
BYTE_SCORE = -100.0

# Hangul fillers, the braille blank and the like: not format characters, yet drawn as nothing.
INVISIBLE = r"[[\p{Cc}\p{Cf}\p{Co}&&[^\t\n\x0b\f\r\x85]]\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0]+"
# Typed as apostrophes; decomposition would make them a space and an accent.
LONE_ACUTE = r"[´΄]"
FRENCH_MARKS = r"\u0300\u0301\u0302\u0308\u0327"
FOREIGN_MARK = rf"[\p{{M}}&&[^{FRENCH_MARKS}]]+"
MISPLACED_MARK = rf"(?<![aceiouy])[{FRENCH_MARKS}]+"
# After lower-casing: Cyrillic, Greek and Latin-like letters that a reader takes for the Latin one, ligatures as people
# type them, and the many apostrophes, quotation marks and dashes.
LOOKALIKES = {
    "a": "аαɑᴀ", "b": "ьβʙв", "c": "сςᴄ", "d": "ԁᴅɗđ", "e": "еєεҽᴇ", "f": "ғ", "g": "ɡɢ", "h": "һнʜħ",
    "i": "іιıɪӏ", "j": "јϳᴊ", "k": "кκᴋ", "l": "łʟ", "m": "мᴍ", "n": "пηɴ", "o": "оοσөøᴏ", "p": "рρᴘ", "q": "ԛ",
    "r": "гʀ", "s": "ѕꜱ", "t": "тτᴛŧ", "u": "υᴜ", "v": "νѵᴠ", "w": "ԝωшᴡ", "x": "хχ", "y": "уγүʏ", "z": "ᴢ",
    "oe": "œɶ", "ae": "æ", "ss": "ß", "'": "`‘’‛ʹʻʼʽˈ′‵", '"': "“”„‟«»", "-": "‐‑‒–—―−⁃",
}  # fmt: skip
LONG_RUN = r"([^\p{L}\d])(?=\1\1\1)"
# French has no letter three times in a row: of such a run one is kept (« nooon »).
DRAWN_OUT = r"(\p{L})(?=\1\1)|(?<=(\p{L}))\2(?=\2)"
# Digits and signs that stand for a letter, between two letters only: « ph0to », but not « 18h30 » or « salle 3 ».
LEET = {"o": "0", "i": "1", "e": "[3€]", "a": "[4@]", "s": "[5$]", "t": "7"}
_NAMES = "|".join(token[1:] for token in SPECIAL_TOKENS)
# A special name inside a text is broken apart ("< s>"). A text that is nothing but the name must stay as it is,
# because the library normalises the names of its own special tokens with this same chain before it looks for them.
SPECIAL_NAME_IN_TEXT = rf"(?<=[\s\S])<(?=(?:{_NAMES}))|<(?=(?:{_NAMES})[\s\S])"


def _spelled_out(separator: str, letters: int) -> str:
    """Matches each separator inside a run of at least `letters` single letters that it parts: « m.e.n.a.c.e »."""
    alternatives = []
    for before in range(1, letters):
        behind = rf"(?:\p{{L}}{separator}){{{before - 1}}}\p{{L}}"
        ahead = rf"(?:\p{{L}}{separator}){{{letters - before - 1}}}\p{{L}}(?![\p{{L}}\p{{N}}])"
        alternatives.append(rf"(?<=\A{behind}|[^\p{{L}}\p{{N}}]{behind}){separator}(?={ahead})")
    return "|".join(alternatives)


# Four for spaces: three single letters in a row are everyday writing in messages (« c t a la plage »).
SPELLED_OUT = "|".join([_spelled_out(" ", 4), *(_spelled_out(sign, 3) for sign in (r"\.", r"\*", "_"))])


def normalizer() -> normalizers.Normalizer:
    """The chain every text goes through: one spelling for what looks the same, lower case, accents kept."""
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(LONE_ACUTE), "'"),
            normalizers.Replace(Regex(INVISIBLE), ""),
            normalizers.NFKD(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(FOREIGN_MARK), ""),
            normalizers.Precompiled(_lookalike_table()),
            normalizers.Replace(Regex(MISPLACED_MARK), ""),
            normalizers.NFC(),
            normalizers.Replace(Regex(SPELLED_OUT), ""),
            *(normalizers.Replace(Regex(rf"(?<=\p{{L}}){signs}(?=\p{{L}})"), letter) for letter, signs in LEET.items()),
            normalizers.Replace(Regex(DRAWN_OUT), ""),
            normalizers.Replace(Regex(LONG_RUN), ""),
            normalizers.Replace(Regex(r"\s{2,}|[^\S ]"), " "),
            normalizers.Strip(),
            normalizers.Replace(Regex(SPECIAL_NAME_IN_TEXT), "< "),
        ]
    )


def _lookalike_table() -> bytes:
    """`LOOKALIKES` as the compiled table that replaces all of them in one pass (one `Replace` each costs 80 µs a text).

    sentencepiece compiles such a table only while it trains a model, so a throw-away one is trained on a few letters.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text(
            "".join(
                f"{ord(letter):X}\t{' '.join(f'{ord(plain):X}' for plain in spelling)}\n"
                for spelling, letters in LOOKALIKES.items()
                for letter in letters
            ),
            encoding="ascii",
        )
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c"]), model_writer=model, model_type="char", vocab_size=10,
            hard_vocab_limit=False, normalization_rule_tsv=str(rules), minloglevel=2,
        )  # fmt: skip
    parsed = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    return bytes(parsed.normalizer_spec.precompiled_charsmap)


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Split at spaces, then keep runs of signs and emoji apart from letters; an apostrophe stays with its word."""
    signs = pre_tokenizers.Split(Regex(r"▁?[^\p{L}\p{N}▁']+"), behavior="isolated")
    return pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="always"), signs])


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn a unigram tokenizer of about `vocab_size` pieces, special tokens and the 256 byte pieces included.

    Raises ValueError where the size leaves no room for learned pieces or there is no text.
    """
    learned = vocab_size - len(SPECIAL_TOKENS) - len(BYTE_PIECES)
    if learned < 50:
        raise ValueError(f"vocab_size {vocab_size} leaves {learned} learned pieces: give at least 311")
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizer()
    trained.pre_tokenizer = pre_tokenizer()
    trainer = trainers.UnigramTrainer(vocab_size=learned, show_progress=False, max_piece_length=16)
    trained.train_from_iterator(texts, trainer)
    reserved = {*SPECIAL_TOKENS, *BYTE_PIECES}
    vocab = json.loads(trained.to_str())["model"]["vocab"]
    # The trainer adds up in the order of a hash table that differs from process to process. Rounding, and an order that
    # does not depend on the scores, give every process of a run (and a resumed one) the same numbers.
    pieces = sorted((piece, round(score, 3)) for piece, score in vocab if piece not in reserved)
    if not pieces:
        raise ValueError("no text to train the tokenizer on")
    return assemble(pieces)


def assemble(pieces: list[tuple[str, float]]) -> Tokenizer:
    """The complete tokenizer around learned `pieces` (piece, log-probability)."""
    vocab = [(token, 0.0) for token in SPECIAL_TOKENS]
    vocab += [(piece, BYTE_SCORE) for piece in BYTE_PIECES]
    vocab += [(piece, float(score)) for piece, score in pieces]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=SPECIAL_TOKENS.index(UNK), byte_fallback=True))
    tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # normalized=True: the names are looked for after the chain, which has broken apart those that a person typed.
    tokenizer.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {EOS} $B {EOS}",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (BOS, EOS)],
    )
    return tokenizer


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The number of a special token; ValueError for a tokenizer that lacks it."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"the tokenizer has no {token}: it was not made by training.tokenizer")
    return int(number)


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy the files of `save_tokenizer` as they are."""
    for name in FILES:
        shutil.copy(source / name, directory / name)


def save_tokenizer(tokenizer: Tokenizer, directory: Path, *, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json; `max_length` is in tokens, special tokens included.

    The class is the generic one: `CamembertTokenizer` would silently put its own normaliser in place of ours.
    """
    from transformers import PreTrainedTokenizerFast

    directory.mkdir(parents=True, exist_ok=True)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        bos_token=BOS,
        cls_token=BOS,
        eos_token=EOS,
        sep_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        mask_token=MASK,
    )
    wrapped.save_pretrained(str(directory))


def main() -> int:
    """Train a tokenizer alone, on the sources of a pretraining configuration."""
    import argparse

    from training.errors import UserError
    from training.pretrain_config import load_config
    from training.pretrain_text import sample_for_tokenizer

    parser = argparse.ArgumentParser(prog="python -m training.tokenizer", description="Train the encoder's tokenizer.")
    parser.add_argument("--config", type=Path, default=Path("configs/pretrain.yaml"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    config = load_config(options.config, options.set)
    try:
        tokenizer = train_tokenizer(sample_for_tokenizer(config), vocab_size=config.vocab_size)
    except ValueError as error:
        raise UserError(str(error)) from None
    save_tokenizer(tokenizer, options.output, max_length=config.shape.max_tokens)
    return 0


if __name__ == "__main__":
    import sys

    from training.errors import command

    sys.exit(command(main)())
