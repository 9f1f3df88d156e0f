"""How people write French to slip past a filter, or by habit: functions of a text and a source of chance.

Each leaves the meaning, hence the labels, as they are (codebook rule 6). The same text and the same state of `chance`
give the same answer. Strengths are set so that a French reader still reads the text at first sight; several tricks
(look-alikes, invisible characters, full width, capitals) are undone by the tokenizer's normaliser.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SMS_SHARE = 0.8
"""Of the words that have a short form; nobody shortens every one."""
LEET_WORDS, LEET_LETTERS = 0.5, 0.6
"""Words touched, and letters replaced in them: beyond this people stop recognising words."""
LOOKALIKE_SHARE, ZERO_WIDTH_SHARE = 0.5, 0.3
"""Of letters, and of gaps between letters: the eye sees no difference, so an evader need not be sparing."""
SPLIT_SHARE, SPLIT_LENGTH = 0.3, 4
"""Words of at least so many letters taken apart: evaders hide the few words that they think a filter looks for."""
EMOJI_SHARE = 0.2
"""Of gaps between words: about one emoji a clause."""
HASHTAG_SHARE = 0.3
"""Of runs of two or three words."""
TYPO_SHARE, TYPO_LENGTH = 0.25, 4
"""Words of at least so many letters with one typo: hasty typing on a phone."""
REPEAT_SHARE, REPEAT_LENGTH, REPEAT_TIMES = 0.3, 3, (2, 5)
"""Words of at least so many letters with one letter drawn out, and by how many."""

WORD = re.compile(r"[^\W\d_]+")
ZERO_WIDTH = ("\u200b", "\u200c", "\u200d", "\u2060", "\u00ad")
# None that would bring a meaning of its own into a text.
EMOJI = ("😂", "😭", "🙏", "👀", "💀", "✨", "🥺", "🔥", "💯", "😅", "🤔", "❤️")
SPLITTERS = (".", "-", "*")
LEET = {"a": "4@", "à": "4@", "â": "4@", "e": "3", "é": "3", "è": "3", "ê": "3", "i": "1", "î": "1", "o": "0",
        "ô": "0", "s": "5$", "t": "7"}  # fmt: skip
# Cyrillic and Greek.
LOOKALIKES = {
    "a": "а", "c": "сϲ", "e": "е", "h": "һ", "i": "іι", "j": "ј", "n": "η", "o": "оο", "p": "рρ", "q": "ԛ", "s": "ѕ",
    "v": "ν", "w": "ԝ", "x": "х", "y": "у", "A": "АΑ", "B": "ВΒ", "C": "С", "E": "ЕΕ", "H": "Н", "I": "ІΙ", "J": "Ј",
    "K": "КΚ", "M": "М", "O": "ОΟ", "P": "РΡ", "S": "Ѕ", "T": "ТΤ", "X": "ХΧ",
}  # fmt: skip
AZERTY = ("azertyuiop", "qsdfghjklm", "wxcvbn")
SMS = {
    "je suis": "jsuis", "je sais pas": "jsp", "je ne sais pas": "jsp", "je vais": "jvais", "je veux": "jveux",
    "je peux": "jpeux", "je te": "jte", "je me": "jme", "je t'aime": "jtm", "j'ai": "g", "j'avais": "javé",
    "j'étais": "jété", "tu es": "t", "t'es": "t", "tu as": "ta", "t'as": "ta", "t'inquiète": "tkt", "c'est": "c",
    "c'était": "ct", "c'est-à-dire": "cad", "s'il te plaît": "stp", "s'il te plait": "stp", "s'il vous plaît": "svp",
    "parce que": "pck", "est-ce que": "esk", "qu'est-ce que": "keske", "qu'est-ce qui": "keski", "qu'il": "kil",
    "qu'elle": "kel", "il y a": "ya", "il n'y a": "ya", "quoi": "koi", "que": "ke", "qui": "ki", "quand": "kan",
    "quel": "kel", "quelle": "kel", "quelque": "qlq", "quelques": "qlqs", "quelqu'un": "qqn", "quelque chose": "qqch",
    "n'importe quoi": "nimp", "pourquoi": "pk", "pour": "pr", "beaucoup": "bcp", "toujours": "tjrs", "tout": "tt",
    "tous": "ts", "toute": "tte", "toutes": "ttes", "avec": "avc", "dans": "ds", "mais": "mé", "même": "mm",
    "moi": "moa", "toi": "toa", "jamais": "jms", "maintenant": "mtn", "aujourd'hui": "ajd", "demain": "dm1",
    "bien": "bi1", "rien": "ri1", "vraiment": "vrmt", "vous": "vs", "nous": "ns", "salut": "slt", "bonjour": "bjr",
    "bonsoir": "bsr", "merci": "mci", "comme": "cm", "comment": "cmt", "message": "msg", "messages": "msgs",
    "problème": "pb", "photo": "tof", "photos": "tofs", "téléphone": "tel", "numéro": "num", "rendez-vous": "rdv",
    "week-end": "we", "d'accord": "dac", "avant": "avt", "après": "apr", "pas": "pa", "plus": "+", "longtemps": "lgtps",
    "temps": "tps", "deux": "2", "demande": "dmd", "désolé": "dsl", "désolée": "dsl", "petit": "ptit",
    "petite": "ptite", "puis": "pi", "peut-être": "ptet", "plutôt": "ptot", "grave": "grv", "tranquille": "trkl",
    "garçon": "garson", "ça va": "cv", "ça": "sa", "oui": "wi", "ouais": "wé", "non": "nn", "alors": "alr",
    "aussi": "oci", "encore": "encor", "trop": "tro", "chez": "ché", "vidéo": "vid", "vidéos": "vids",
    "conversation": "conv", "personne": "prsn", "maman": "mam", "quelqu'une": "qqne", "vas-y": "vazy", "cela": "sla",
    "c'est bon": "c bon", "tellement": "tlmt", "franchement": "frchmt", "parents": "rents", "snapchat": "snap",
}  # fmt: skip
# The longest first, so that « je ne sais pas » is not read as « pas »; either apostrophe.
_SHORTENED = re.compile(
    r"(?<!\w)(?:" + "|".join(sorted(map(re.escape, SMS), key=len, reverse=True)).replace("'", "['’]") + r")(?!\w)",
    re.IGNORECASE,
)
_RUN_OF_WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*(?: [^\W_]+(?:['’][^\W_]+)*){1,2}")
Edit = Callable[[str, random.Random], str]


def drop_accents(text: str, chance: random.Random) -> str:
    """« été à la plage » → « ete a la plage »: keyboards without accents, haste."""
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def sms(text: str, chance: random.Random) -> str:
    """« je suis avec toi » → « jsuis avc toa »: short and phonetic forms."""

    def shorten(match: re.Match[str]) -> str:
        # Ignoring case, « ſ » and « ı » match too, and have no entry.
        short = SMS.get(match[0].lower().replace("’", "'"), match[0])
        return short if chance.random() < SMS_SHARE else match[0]

    return _SHORTENED.sub(shorten, text)


def leet(text: str, chance: random.Random) -> str:
    """« menace » → « m3n4ce »: digits and signs for letters."""

    def disguise(word: str, chance: random.Random) -> str:
        return "".join(
            chance.choice(LEET[letter.lower()]) if letter.lower() in LEET and chance.random() < LEET_LETTERS else letter
            for letter in word
        )

    return _some_words(text, chance, share=LEET_WORDS, at_least=2, edit=disguise)


def lookalikes(text: str, chance: random.Random) -> str:
    """Cyrillic and Greek letters for the Latin ones that look the same."""
    return "".join(
        chance.choice(LOOKALIKES[letter]) if letter in LOOKALIKES and chance.random() < LOOKALIKE_SHARE else letter
        for letter in text
    )


def spaced(text: str, chance: random.Random) -> str:
    """« menace » → « m e n a c e » in some of the longer words."""
    return _some_words(text, chance, share=SPLIT_SHARE, at_least=SPLIT_LENGTH, edit=lambda word, _: " ".join(word))


def dotted(text: str, chance: random.Random) -> str:
    """« menace » → « m.e.n.a.c.e » in some of the longer words; hyphens and asterisks too."""

    def split(word: str, chance: random.Random) -> str:
        return chance.choice(SPLITTERS).join(word)

    return _some_words(text, chance, share=SPLIT_SHARE, at_least=SPLIT_LENGTH, edit=split)


def zero_width(text: str, chance: random.Random) -> str:
    """Invisible characters between the letters of a word."""

    def fill(word: str, chance: random.Random) -> str:
        inside = (chance.choice(ZERO_WIDTH) if chance.random() < ZERO_WIDTH_SHARE else "" for _ in word[1:])
        return word[0] + "".join(gap + letter for gap, letter in zip(inside, word[1:], strict=True))

    return _some_words(text, chance, share=1.0, at_least=2, edit=fill)


def emoji(text: str, chance: random.Random) -> str:
    """Emoji between words."""
    return re.sub(" ", lambda _: f" {chance.choice(EMOJI)} " if chance.random() < EMOJI_SHARE else " ", text)


def upper_case(text: str, chance: random.Random) -> str:
    """Everything in capitals."""
    return text.upper()


def hashtags(text: str, chance: random.Random) -> str:
    """« tu me manques » → « #TuMeManques »: some runs of two or three words joined."""

    def join(match: re.Match[str]) -> str:
        if chance.random() >= HASHTAG_SHARE:
            return match[0]
        words = match[0].split(" ")
        taken = chance.randint(2, len(words))
        pieces = [piece for word in words[:taken] for piece in re.split("['’]", word)]
        return " ".join(["#" + "".join(piece[0].upper() + piece[1:] for piece in pieces), *words[taken:]])

    return _RUN_OF_WORDS.sub(join, text)


def typos(text: str, chance: random.Random) -> str:
    """One slip in some words: a neighbouring key (AZERTY), a letter dropped, doubled or swapped with the next."""

    def slip(word: str, chance: random.Random) -> str:
        at = chance.randrange(1, len(word) - 1)
        before, letter, after = word[:at], word[at], word[at + 1 :]
        return chance.choice(
            (
                before + chance.choice(NEIGHBOURS.get(letter.lower(), letter)) + after,
                before + after,
                before + letter + letter + after,
                before + after[0] + letter + after[1:],
            )
        )

    return _some_words(text, chance, share=TYPO_SHARE, at_least=TYPO_LENGTH, edit=slip)


def full_width(text: str, chance: random.Random) -> str:
    """« chat » → « ｃｈａｔ »: the wide forms of ASCII letters and digits."""
    return "".join(chr(ord(sign) + 0xFEE0) if sign.isascii() and sign.isalnum() else sign for sign in text)


def repeated(text: str, chance: random.Random) -> str:
    """« non » → « nooon »: one letter of some words drawn out."""

    def draw_out(word: str, chance: random.Random) -> str:
        at = chance.randrange(1, len(word))
        return word[:at] + word[at] * chance.randint(*REPEAT_TIMES) + word[at:]

    return _some_words(text, chance, share=REPEAT_SHARE, at_least=REPEAT_LENGTH, edit=draw_out)


@dataclass(frozen=True)
class Perturbation:
    """A way of writing: what it does, in one line for people."""

    apply: Edit
    french: str
    english: str


PERTURBATIONS = {
    "accents": Perturbation(drop_accents, "accents omis", "accents dropped"),
    "sms": Perturbation(sms, "langage SMS", "text-message spelling"),
    "leet": Perturbation(leet, "chiffres et signes à la place de lettres", "digits and signs for letters"),
    "lookalikes": Perturbation(lookalikes, "lettres sosies cyrilliques et grecques", "Cyrillic and Greek look-alikes"),
    "spaced": Perturbation(spaced, "lettres espacées", "letters spaced out"),
    "dotted": Perturbation(dotted, "lettres séparées par des signes", "letters parted by signs"),
    "zero_width": Perturbation(zero_width, "caractères invisibles", "invisible characters"),
    "emoji": Perturbation(emoji, "émojis entre les mots", "emoji between words"),
    "upper_case": Perturbation(upper_case, "tout en capitales", "all capitals"),
    "hashtags": Perturbation(hashtags, "mots soudés en mots-dièse", "words joined as hashtags"),
    "typos": Perturbation(typos, "fautes de frappe", "typing errors"),
    "full_width": Perturbation(full_width, "lettres pleine chasse", "full-width letters"),
    "repeated": Perturbation(repeated, "lettres étirées", "letters drawn out"),
}
"""name → way of writing; the names are those of `optim.augment_kinds` and of the robustness table."""


def _neighbours(rows: Sequence[str]) -> dict[str, str]:
    """letter → letters beside it in its row, and above and below it."""
    keys = {(line, column): letter for line, row in enumerate(rows) for column, letter in enumerate(row)}
    steps = ((0, -1), (0, 1), (-1, 0), (1, 0))
    return {
        letter: "".join(keys.get((line + down, column + right), "") for down, right in steps)
        for (line, column), letter in keys.items()
    }


NEIGHBOURS = _neighbours(AZERTY)


def _some_words(text: str, chance: random.Random, *, share: float, at_least: int, edit: Edit) -> str:
    """Edit a share of the words of at least so many letters."""

    def maybe(match: re.Match[str]) -> str:
        chosen = len(match[0]) >= at_least and chance.random() < share
        return edit(match[0], chance) if chosen else match[0]

    return WORD.sub(maybe, text)
