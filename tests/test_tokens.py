"""serving.tokens: remembering words never changes an id."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import serving.tokens
from serving.tokens import KNOWN_CHAIN, PLAIN, TokenReader, chain, clean

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "training" / "encoder" / "tokenizer.json"
CARD = ROOT / "data_cards" / "testimonies"
PLAIN_CHARACTERS = [character for character in map(chr, range(sys.maxunicode + 1)) if PLAIN.fullmatch(character)]
# What the chain treats apart: invisible, composing, look-alike and white characters, control tokens, runs.
HOSTILE = st.sampled_from([
    "<s>", "</s>", "<mask>", "<", "＜s>", "<0x41>", "▁", "\u200b", "\u200d", "\ufe0f", "\u0301", "\u0327", "e\u0301",
    "´", "¨", "\x85", "\x1c", "\u2028", "\u3000", "\u00a0", "\u202f", "аеο", "ﬁ", "ΑΣ", "İ", "aaaaa", "!!!!!!", "\t\n",
    "\ud83d", "\U0001f469\u200d\U0001f692", "٣٣٣٣", "👍🏽", "’", "…", "œŒ", "ÉÉÉÉÉ",
    "m e n a", "a b c", "c\xa0t\u202fa\xa0l", "é è\ufe0f à ç", "l'a b c d", "m.e.n.a", "x_y_z", "ph0to", "nooon", " a",
    "b ",
])  # fmt: skip
PLAIN_TEXT = st.lists(st.sampled_from(PLAIN_CHARACTERS) | st.sampled_from(" \n\t\xa0\u202f\u200d\ufe0f'aAé!.…0_*"))
# Letters and white space by turns, with something invisible or a sign here and there.
SPELLED = st.lists(
    st.tuples(
        st.sampled_from("aéÇœßxy7'.!☀"),
        st.sampled_from(["", "\ufe0f", "\u200d", "'", "b"]),
        st.sampled_from("   \xa0\u202f\n._"),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def stock() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(FILE))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def reader() -> TokenReader:
    """One for all tests, so that what one text left behind meets every other."""
    return TokenReader(FILE)


def ids(stock: Tokenizer, text: str) -> list[int]:
    return list(stock.encode(clean(text), add_special_tokens=False).ids)


def corpus() -> Iterator[str]:
    for split in ("train", "validation", "test"):
        for line in (CARD / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["text"]


def test_the_projects_chain_is_known(artifact: Path) -> None:
    """With another normaliser `PLAIN` has to be proven anew; until then the tokenizer reads every text whole."""
    for file in (FILE, artifact / "tokenizer.json"):
        assert chain(json.loads(file.read_text(encoding="utf-8"))) == KNOWN_CHAIN


def test_all_texts_of_the_corpus_keep_their_ids(stock: Tokenizer, reader: TokenReader) -> None:
    texts = list(corpus())
    assert sum(PLAIN.fullmatch(text) is not None for text in texts) > 0.95 * len(texts)
    assert [reader.ids(text) for text in texts] == [ids(stock, text) for text in texts]


def test_every_plain_character_keeps_its_ids_anywhere(stock: Tokenizer, reader: TokenReader) -> None:
    for character in PLAIN_CHARACTERS:
        text = f"{character} a{character}a {character}e {character * 5} A{character} {character}"
        assert reader.ids(text) == ids(stock, text), f"U+{ord(character):04X}"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=8) | HOSTILE | st.sampled_from(["il ment", " ", "\n\n"]), max_size=8).map("".join))
@example("<s>")
@example("a <s>")
@example("")
@example(" \n ")
def test_hostile_texts_keep_their_ids(stock: Tokenizer, reader: TokenReader, text: str) -> None:
    assert reader.ids(text) == ids(stock, text)


@settings(max_examples=300, deadline=None)
@given(PLAIN_TEXT.map("".join))
@example("\ufe0f")
@example("a \ufe0f b \u200d")
@example("il m e n a c e tout le monde")
def test_plain_texts_keep_their_ids(stock: Tokenizer, reader: TokenReader, text: str) -> None:
    assert PLAIN.fullmatch(text)
    assert reader.ids(text) == ids(stock, text)


@settings(max_examples=500, deadline=None)
@given(SPELLED.map(lambda parts: "".join(map("".join, parts))))
def test_words_spelled_out_keep_their_ids(stock: Tokenizer, reader: TokenReader, text: str) -> None:
    """The one place where the chain looks across white space."""
    assert PLAIN.fullmatch(text)
    assert reader.ids(text) == ids(stock, text)


def test_memory_is_bounded(stock: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.tokens, "_MOST", 10)
    reader = TokenReader(FILE)
    for number in range(50):
        text = f"mot{number} {'long' * 20}{number} chorale {number}"
        assert reader.ids(text) == ids(stock, text)
    assert len(reader._words) <= 10 and all(len(word) <= 24 for word in reader._words)


def test_another_chain_is_read_whole(stock: Tokenizer, tmp_path: Path) -> None:
    """A tokenizer that joins words across spaces: remembering words would give other ids."""
    described = json.loads(FILE.read_text(encoding="utf-8"))
    described["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": ""}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    other = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    reader = TokenReader(tmp_path / "tokenizer.json")
    assert reader.ids("la chorale chante") == other.encode("la chorale chante", add_special_tokens=False).ids
    assert reader.ids("la chorale chante") != ids(stock, "la chorale chante")
