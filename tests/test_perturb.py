"""Ways of writing: deterministic, as French people do it, and undone by the normaliser where that is promised."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import perturb
from training.perturb import PERTURBATIONS, SMS
from training.tokenizer import normalizer

TEXT = "Je suis désolée, j’ai envoyé un message à ma sœur parce que c'est pas grave, tu es trop gentille avec moi."


class Always(random.Random):
    """A source of chance that always says yes to a share."""

    def random(self) -> float:
        return 0.0

    def getrandbits(self, bits: int) -> int:
        """Choices stay by chance: without this they would be made from `random`."""
        return super().getrandbits(bits)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_same_chance_gives_the_same_text(name: str) -> None:
    """And another one another text, wherever chance has a part in it."""
    apply = PERTURBATIONS[name].apply
    made = [apply(TEXT, random.Random(seed)) for seed in (1, 1, 2, 3)]
    assert made[0] == made[1] != TEXT
    if name not in ("accents", "upper_case", "full_width"):
        assert len(set(made)) > 1


@pytest.mark.parametrize("name", PERTURBATIONS)
@given(text=st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_is_taken(name: str, text: str) -> None:
    """Nothing that can be typed makes one fail, and a text without a letter or a space between words stays."""
    made = PERTURBATIONS[name].apply(text, Always(1))
    assert made or not text or all(unicodedata.combining(character) for character in text)
    assert PERTURBATIONS[name].apply("?! 12", Always(1)).replace("１２", "12").replace(" ", "")[:2] == "?!"


@pytest.mark.parametrize("name", ["lookalikes", "zero_width", "upper_case", "full_width"])
def test_the_normaliser_undoes_what_the_eye_does_not_see(name: str) -> None:
    """For every letter with a disguise; except the lunate sigma, which decomposes into a final sigma."""
    chain, letters = normalizer(), " ".join([TEXT, *(f"a{letter}b" for letter in perturb.LOOKALIKES)])
    for seed in range(20):
        made = PERTURBATIONS[name].apply(letters, random.Random(seed))
        assert made != letters
        assert chain.normalize_str(made) == chain.normalize_str(letters)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("accents", "été à Noël, ça gêne", "ete a Noel, ca gene"),
        ("sms", "Je ne sais pas pourquoi, c’est quoi ?", "jsp pk, c koi ?"),
        ("sms", "Parce que tu es toujours avec elle", "pck t tjrs avc elle"),
        ("sms", "les passants, le quoiqu, la ſ", "les passants, le quoiqu, la ſ"),
        ("spaced", "la menace", "la m e n a c e"),
        ("upper_case", "ça va", "ÇA VA"),
        ("full_width", "chat 12 é", "ｃｈａｔ １２ é"),
    ],
)
def test_examples(name: str, text: str, expected: str) -> None:
    """Whole words only, the longest form first, either apostrophe, any case."""
    assert PERTURBATIONS[name].apply(text, Always(1)) == expected


def test_leet_replaces_letters_by_their_digits() -> None:
    made = perturb.leet("as", Always(1))
    assert made[0] in "4@" and made[1] in "5$"


def test_dotted_parts_letters_by_one_sign() -> None:
    assert perturb.dotted("menace", Always(1)) in {sign.join("menace") for sign in perturb.SPLITTERS}


def test_hashtags_join_two_or_three_words() -> None:
    made = {perturb.hashtags("tu me manques", Always(seed)) for seed in range(20)}
    assert made == {"#TuMe manques", "#TuMeManques"}
    assert perturb.hashtags("j'ai peur", Always(1)) == "#JAiPeur"


def test_a_typo_is_one_slip() -> None:
    """A neighbouring key, a letter fewer, a letter twice, or two letters swapped; never the first letter."""
    made = {perturb.typos("chat", Always(seed)) for seed in range(200)}
    assert {"cat", "cht", "chhat", "chaat", "caht", "chta", "cgat", "cjat", "chzt", "chqt"} <= made
    assert all(word[0] == "c" and 3 <= len(word) <= 5 for word in made)


def test_a_drawn_out_letter_keeps_the_word() -> None:
    made = {perturb.repeated("non", Always(seed)) for seed in range(50)}
    assert "nooon" in made and all(word.replace("o", "").startswith("nn") for word in made)


def test_emoji_stand_between_words() -> None:
    words = perturb.emoji("un deux trois", Always(1)).split(" ")
    assert words[::2] == ["un", "deux", "trois"] and set(words[1::2]) <= set(perturb.EMOJI)


def test_short_words_are_left_to_be_read() -> None:
    assert perturb.spaced("tu es la", Always(1)) == perturb.typos("tu es la", Always(1)) == "tu es la"


def test_the_list_of_short_forms_is_of_some_size_and_changes_every_entry() -> None:
    assert len(SMS) >= 60
    assert all(long == long.lower() and "’" not in long and long != short for long, short in SMS.items())
