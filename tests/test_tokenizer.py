"""The tokenizer: the same ids whoever loads it, nothing unknown, one spelling for what looks the same."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, CamembertConfig, PreTrainedTokenizerBase

from tests.conftest import ROOT
from training.tokenizer import SPECIAL_TOKENS, UNK, normalizer, save_tokenizer, train_tokenizer

CORPUS = [
    "Le chat dort sur le canapé pendant que la pluie tombe.",
    "Tu viens manger une crêpe à la maison ce soir ?",
    "J'ai oublié mon parapluie, c'est pas grave, l'été arrive !",
    "mdr trop bien le gâteau, on en refait demain 😀",
    "Les élèves lisent un livre, puis ils vont à la cantine.",
] * 8

SPELLINGS = [
    ("decomposed accents", "e\u0301te\u0301", "été"),
    ("capitals", "ÉTÉ À LA PLAGE", "été à la plage"),
    ("full width", "ｃｈａｔ", "chat"),
    ("mathematical letters", "𝓬𝓱𝓪𝓽 𝐜𝐡𝐚𝐭", "chat chat"),
    ("Cyrillic and Greek look-alikes", "сhаt οurs", "chat ours"),
    ("zero-width, soft hyphen, controls", "c\u200bh\u00ada\x00t\u2060\ufeff", "chat"),
    ("right-to-left marks", "\u202echat\u202c\u200f", "chat"),
    ("strike-through and stacked marks", "c\u0336h\u0336a\u0336t\u0336 e\u0301\u0317\u0489", "chat é"),
    ("variation selectors", "\u2764\ufe0f", "\u2764"),
    ("apostrophes", "l’été l`été l´été lʼété", "l'été l'été l'été l'été"),
    ("quotation marks and dashes", "« oui » – “non”", '" oui " - "non"'),
    ("ligatures", "cœur ﬁlle Straße", "coeur fille strasse"),
    ("long runs, but not of digits", "nooooooon !!!!!! 100000", "non !!! 100000"),
    ("letters drawn out, but not doubled ones", "ellle est alllllée, elle aussi", "ele est alée, elle aussi"),
    ("words spelled out", "c h a t  c.h.a.t c*h*a*t c_h_a_t, u.s.a.", "chat chat chat chat, usa."),
    ("three single letters are words", "c t a la plage, qu'y a-t-il", "c t a la plage, qu'y a-t-il"),
    (
        "digits and signs for letters",
        "ph0to chant4ge m3nace me$sage r1en",
        "photo chantage menace message rien",
    ),
    ("numbers stay", "14h30, salle 3, ps5, 2main, 3018", "14h30, salle 3, ps5, 2main, 3018"),
    ("a lunate sigma", "ϲhat", "chat"),
    ("spaces", "  un\u00a0 \tdeux\n\ntrois ", "un deux trois"),
]


def nasty_strings() -> list[str]:
    """What people, phones and attackers send, and 400 strings of random characters."""
    chance = random.Random(7)

    def character() -> str:
        low, high = chance.choice([(1, 0x250), (0x300, 0x370), (0x1F000, 0x1FB00), (0x250, 0xD800), (0xE000, 0x110000)])
        return chr(chance.randrange(low, high))

    made = ["".join(character() for _ in range(chance.randrange(1, 40))) for _ in range(400)]
    marks = ["a" + "\u0301" * 10_000, "\u0316\u0301" * 5_000, "e" * 20_000]
    emoji = ["👨\u200d👩\u200d👧", "❤️", "👍🏽", "🏴\U000e0067\U000e0062\U000e007f", "🇫🇷", "1️⃣"]
    plain = ["", " ", "\n", "\x00", "\ufffd", "\u2581", "<0x41>", "漢字 كتاب עברית ไทย", "\uffff\U0010ffff"]
    return made + marks + emoji + plain + typed_names() + [evasive for _, evasive, _ in SPELLINGS]


def typed_names() -> list[str]:
    """Names of special tokens inside a text, with the tricks to bring them past the normaliser."""
    texts = []
    for name in SPECIAL_TOKENS:
        disguised = [name.upper(), name[0] + "\u200b" + name[1:], "＜" + name[1:-1] + "＞", "<" + name]
        texts += [f"le {form} chat" for form in [name, *disguised]]
        texts += [name * 2, name + "chat", "chat" + name, f"\u2581{name}", f"{name} chat", f"\n{name}\n."]
    return texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and saved tokenizer beside the configuration of the model it belongs to."""
    path: Path = tmp_path_factory.mktemp("encoder")
    save_tokenizer(train_tokenizer(CORPUS, vocab_size=400), path, max_length=64)
    CamembertConfig(vocab_size=400).save_pretrained(str(path))
    return path


@pytest.fixture(scope="module")
def bare(folder: Path) -> Tokenizer:
    """As serving loads it."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def auto(folder: Path) -> PreTrainedTokenizerBase:
    """As training loads it."""
    return AutoTokenizer.from_pretrained(str(folder))


def test_auto_and_bare_tokenizer_agree_on_nasty_strings(auto: PreTrainedTokenizerBase, bare: Tokenizer) -> None:
    """Training and serving give the same ids."""
    differing = [text for text in nasty_strings() if auto(text)["input_ids"] != bare.encode(text).ids]
    assert not differing


def test_saving_again_changes_nothing(auto: PreTrainedTokenizerBase, bare: Tokenizer, tmp_path: Path) -> None:
    """An artifact made by fine-tuning holds the same tokenizer, normaliser included."""
    auto.save_pretrained(str(tmp_path))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    reloaded = AutoTokenizer.from_pretrained(str(tmp_path))
    for text in nasty_strings():
        assert bare.encode(text).ids == again.encode(text).ids == reloaded(text)["input_ids"]


def test_nothing_is_unknown(bare: Tokenizer) -> None:
    """Every character the corpus lacks is spelled in bytes."""
    unknown = bare.token_to_id(UNK)
    assert not [text for text in nasty_strings() if unknown in bare.encode(text).ids]
    assert "<0xE6>" in bare.encode("漢").tokens


def test_a_typed_special_name_is_plain_text(auto: PreTrainedTokenizerBase, bare: Tokenizer) -> None:
    """Somebody who writes `<mask>` or `</s>` in a message gets no special token for it."""
    special = {bare.token_to_id(token) for token in SPECIAL_TOKENS}
    for text in typed_names():
        assert not special & set(bare.encode(text).ids[1:-1])
        assert not special & set(auto(text)["input_ids"][1:-1])


def test_a_text_that_is_only_a_special_name_is_the_known_exception(bare: Tokenizer) -> None:
    """The limit of the normaliser's trick; harmless, since nothing else stands in such a text."""
    assert bare.encode("<mask>").tokens == ["<s>", "<mask>", "</s>"]


@pytest.mark.parametrize(("evasive", "plain"), [row[1:] for row in SPELLINGS], ids=[row[0] for row in SPELLINGS])
def test_spellings_that_look_the_same_are_the_same(bare: Tokenizer, evasive: str, plain: str) -> None:
    """The normaliser that was saved undoes the evasion, and leaves the plain spelling as it is."""
    assert bare.normalizer.normalize_str(evasive) == plain
    assert bare.normalizer.normalize_str(plain) == plain


def test_normalising_twice_is_normalising_once() -> None:
    """Over the alphabets, signs and compatibility forms a phone can send."""
    chain = normalizer()
    ranges = [*range(0x20, 0x3000), *range(0xF900, 0x10000), *range(0x1D400, 0x1D800)]
    once = [chain.normalize_str(chr(code)) for code in ranges]
    assert [text for text in once if chain.normalize_str(text) != text] == []


def test_special_ids_come_from_the_tokenizer(auto: PreTrainedTokenizerBase, bare: Tokenizer) -> None:
    """Texts are framed as CamemBERT's are, alone and in pairs."""
    bos, eos = auto.bos_token_id, auto.eos_token_id
    assert [auto.cls_token_id, auto.sep_token_id] == [bos, eos]
    assert len({bos, eos, auto.pad_token_id, auto.mask_token_id, auto.unk_token_id}) == 5
    left, right = (bare.encode(text, add_special_tokens=False).ids for text in ("le chat", "dort"))
    assert bare.encode("le chat").ids == [bos, *left, eos]
    assert bare.encode("le chat", "dort").ids == [bos, *left, eos, eos, *right, eos]


def test_decoding_gives_the_normalised_text(bare: Tokenizer) -> None:
    """Bytes are put together again."""
    assert bare.decode(bare.encode("Le chat 漢字 dort").ids) == "le chat 漢字 dort"


def test_a_lone_surrogate_is_refused_by_both(auto: PreTrainedTokenizerBase, bare: Tokenizer) -> None:
    """It is no character: callers replace it before (half an emoji cut off by a phone)."""
    for encode in (auto, bare.encode):
        with pytest.raises((TypeError, UnicodeEncodeError)):
            encode("chat \ud83d")


def test_training_twice_gives_the_same_tokenizer() -> None:
    """The pieces, their order and their scores depend on the corpus alone."""
    first, second = (train_tokenizer(CORPUS, vocab_size=400).to_str() for _ in range(2))
    assert first == second


def test_too_small_a_vocabulary_is_refused() -> None:
    """The bytes and special tokens alone need 261 pieces."""
    with pytest.raises(ValueError, match="300"):
        train_tokenizer(CORPUS, vocab_size=300)


def test_no_text_is_refused() -> None:
    """An empty corpus is an error, not an empty tokenizer."""
    with pytest.raises(ValueError, match="no text"):
        train_tokenizer([], vocab_size=400)


def test_every_process_learns_the_same_numbers(tmp_path: Path) -> None:
    """Processes of one run each train their own tokenizer, and a resumed run trains it again."""
    code = (
        "import hashlib; from tests.conftest import corpus_rows; from training.tokenizer import train_tokenizer;"
        "made = train_tokenizer([row['text'] for row in corpus_rows()], vocab_size=500);"
        "print(hashlib.sha256(made.to_str().encode()).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        for _ in range(4)
    ]
    assert len({result.stdout for result in runs}) == 1
