"""How sound a corpus is: `python -m training.audit CARD`.

Prints counts against the card's quotas, near duplicates, vocabulary shared between splits, words that give a label
away, lengths, personal data, and agreement between two labellings. Ends with exit code 1 when something is not met. No
text is printed; single words of the corpus are.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from training.agreement import krippendorff_alpha
from training.cards import SPLITS, read_header
from training.config import DataConfig
from training.data import Corpus, load_corpus
from training.errors import UserError, command
from training.labels import Labels, load_labels
from training.metrics import average_precision
from training.readers import read_records
from training.rows import Example
from training.similarity import near_duplicates

WORD = re.compile(r"[^\W\d_]+", re.UNICODE)
FUNCTION_WORDS = frozenset(
    WORD.findall(
        "le la les l un une des de du d et ou à a au aux en dans sur pour par avec sans que qu qui ne n pas je j tu t "
        "il elle on nous vous ils elles c ce cet cette ça ca est es suis ma mon mes ta ton tes sa son ses me m te se s"
    )
)
PERSONAL = {
    "link": re.compile(r"https?://|www\.", re.IGNORECASE),
    "e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.\w+"),
    "handle": re.compile(r"(?<!\w)@\w{2,}"),
    "long number": re.compile(r"(?:\+?\d[ .\-]?){9,}"),
    "street address": re.compile(
        r"\b\d{1,3},? (?:bis |ter )?(?:rue|avenue|boulevard|impasse|allée|chemin|place) ", re.IGNORECASE
    ),
}


class Quotas(BaseModel):
    """`vigie.quotas` of a card: what the corpus promises. Shares are of all texts unless said."""

    model_config = ConfigDict(extra="forbid")

    texts: int = 0
    positives: int = 0
    direct_positives: int = 0
    test_positives: int = 0
    minor_involved: int = 0
    several_categories: int = 0
    voices: dict[str, float] = {}
    """Share of each voice, and of `none`, to within `tolerance`."""
    tolerance: float = 0.03
    splits: dict[str, float] = {}
    obfuscated_direct: float = 0.0
    """Share of the direct texts spelled to slip past filters; to within `tolerance`, at least."""
    obfuscated_rest: float = 0.0
    words: tuple[int, int] = (0, 10**6)
    near_duplicate: float = 0.5
    """Similarity of character 5-grams that no two texts may reach."""


@dataclass(frozen=True)
class Check:
    """One line of the audit: what, the figure found, the figure wanted, and whether that is met."""

    what: str
    found: str
    wanted: str
    met: bool


def audit(card: Path, labels: Labels) -> list[Check]:
    """Every check of a card against its quotas.

    Raises:
        UserError: the card or its data cannot be read.
    """
    corpus, quotas = load_corpus([str(card)], labels, DataConfig()), _quotas(card)
    checks = [*_counts(corpus, quotas, labels), *_spellings(corpus, quotas), *_lengths(corpus, quotas)]
    return [*checks, *_duplicates(corpus, quotas), *_personal_data(corpus), *_language(corpus)]


def findings(card: Path, labels: Labels) -> dict[str, Any]:
    """What is worth knowing of a corpus and neither met nor missed: vocabulary, give-away traits, agreement."""
    corpus = load_corpus([str(card)], labels, DataConfig())
    return {
        "composition": _composition(corpus, labels),
        "vocabulary": _vocabulary(corpus),
        "give_away": give_aways(corpus, labels),
        "agreement": agreement(card, labels),
    }


def _quotas(card: Path) -> Quotas:
    header = read_header(card / "README.md")
    try:
        return Quotas.model_validate((header.get("vigie") or {}).get("quotas") or {})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UserError(f"{card}/README.md: vigie.quotas.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def give_aways(corpus: Corpus, labels: Labels) -> dict[str, dict[str, Any]]:
    """How well each label can be told on the test split from length, from the register, and from single words alone.

    Returns:
        label → base rate, average precision of each of the three, and the words that occur at least 15 times in
        training, mostly (80 %) with this label.
    """
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    train, test, extras = corpus.split("train"), corpus.split("test"), _metadata(corpus)
    views: dict[str, Callable[[Example], dict[str, float]]] = {
        "length": lambda example: {"log words": float(np.log(len(example.text.split()) + 1))},
        "register": lambda example: {f"register {extras[example.id].get('register')}": 1.0},
        "words": lambda example: dict.fromkeys(_words(example.text), 1.0),
    }
    table: dict[str, dict[str, Any]] = {}
    for label in [*labels.ids]:
        truth = {name: np.array([label in e.positive for e in part], dtype=float) for name, part in
                 (("train", train), ("test", test))}  # fmt: skip
        if truth["train"].sum() < 2 or not truth["test"].sum():
            continue
        row: dict[str, Any] = {"base_rate": float(truth["test"].mean())}
        for name, view in views.items():
            vectorizer = DictVectorizer()
            features = vectorizer.fit_transform([view(example) for example in train])
            model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000).fit(features, truth["train"])
            scores = model.decision_function(vectorizer.transform([view(example) for example in test]))
            row[name] = average_precision(truth["test"], scores)
        row["telling_words"] = _telling_words(train, label)
        table[label] = row
    return table


def agreement(card: Path, labels: Labels) -> dict[str, Any] | None:
    """Krippendorff's alpha of each label between the two labellings in labelling.jsonl, None where there is no file.

    A line holds an id, `first` and `second` (each labels, minor_involved, voice) and, where they differ, `reason`.
    """
    path = card / "labelling.jsonl"
    if not path.is_file():
        return None
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for record in read_records(path):
        if record.values is None or not {"first", "second"} <= record.values.keys():
            raise UserError(f"{path}:{record.line}: {record.problem or 'needs id, first and second'}")
        pairs.append((record.values["first"], record.values["second"]))

    def alpha(read: Any) -> float | None:
        return krippendorff_alpha([read(first) for first, _ in pairs], [read(second) for _, second in pairs])

    table: dict[str, Any] = {
        label: alpha(lambda labelling, label=label: label in labelling["labels"]) for label in labels.category_ids
    }
    table["minor_involved"] = alpha(lambda labelling: labelling["minor_involved"])
    table["voice"] = alpha(lambda labelling: labelling["voice"])
    differing = sum(first != second for first, second in pairs)
    return {"texts": len(pairs), "differing": differing, "alpha": table}


def _counts(corpus: Corpus, quotas: Quotas, labels: Labels) -> Iterator[Check]:
    examples, total = corpus.examples, len(corpus.examples)
    yield _at_least("texts", total, quotas.texts)
    for label in labels.category_ids:
        held = [example for example in examples if label in example.positive]
        direct = sum("direct" in example.positive for example in held)
        test = sum(example.split == "test" for example in held)
        yield _at_least(f"{label}: positive", len(held), quotas.positives)
        yield _at_least(f"{label}: direct", direct, quotas.direct_positives)
        yield _at_least(f"{label}: in the test split", test, quotas.test_positives)
    yield _at_least("minor_involved", sum("minor_involved" in e.positive for e in examples), quotas.minor_involved)
    categories = set(labels.category_ids)
    several = sum(len(example.positive & categories) > 1 for example in examples)
    yield _at_least("two or more categories", several, quotas.several_categories)
    for voice, share in quotas.voices.items():
        held_by = sum(_voice(example, labels) == voice for example in examples) / total
        yield _near(f"voice {voice}", held_by, share, quotas.tolerance)
    for split, share in quotas.splits.items():
        yield _near(f"split {split}", len(corpus.split(split)) / total, share, quotas.tolerance)


def _spellings(corpus: Corpus, quotas: Quotas) -> Iterator[Check]:
    extras = _metadata(corpus)
    for name, wanted, direct in (
        ("direct texts with evasive spelling", quotas.obfuscated_direct, True),
        ("other texts with evasive spelling", quotas.obfuscated_rest, False),
    ):
        held = [extras[e.id].get("obfuscated") for e in corpus.examples if ("direct" in e.positive) is direct]
        share = sum(value is True for value in held) / max(len(held), 1)
        if wanted:
            yield Check(name, f"{share:.1%}", f"≥ {wanted - quotas.tolerance:.1%}", share >= wanted - quotas.tolerance)


def _lengths(corpus: Corpus, quotas: Quotas) -> Iterator[Check]:
    lengths = [len(example.text.split()) for example in corpus.examples]
    low, high = quotas.words
    found = f"{min(lengths)} to {max(lengths)}, median {int(np.median(lengths))}"
    yield Check("words a text", found, f"{low} to {high}", low <= min(lengths) and max(lengths) <= high)


def _duplicates(corpus: Corpus, quotas: Quotas) -> Iterator[Check]:
    counts: Counter[str] = Counter()
    examples = corpus.examples
    for i, j, _ in near_duplicates([example.text for example in examples], quotas.near_duplicate):
        a, b = examples[i], examples[j]
        counts[
            "across splits" if a.split != b.split else "within a writer" if a.group == b.group else "across writers"
        ] += 1
    for kind in ("across splits", "across writers", "within a writer"):
        yield Check(f"near duplicates {kind} (≥ {quotas.near_duplicate})", str(counts[kind]), "0", not counts[kind])


def _personal_data(corpus: Corpus) -> Iterator[Check]:
    for kind, pattern in PERSONAL.items():
        held = [example.id for example in corpus.examples if pattern.search(example.text)]
        shown = ", ".join(held[:5]) if held else "0"
        yield Check(f"personal data: {kind}", shown, "0", not held)


def _language(corpus: Corpus) -> Iterator[Check]:
    """Texts of some length without any French function word: another language, or none."""
    held = [
        example.id
        for example in corpus.examples
        if len(words := WORD.findall(example.text.lower())) >= 12 and not FUNCTION_WORDS.intersection(words)
    ]
    yield Check("texts that do not look French", ", ".join(held[:5]) if held else "0", "0", not held)


def _composition(corpus: Corpus, labels: Labels) -> dict[str, dict[str, dict[str, int]]]:
    """Trait → value → texts, in all and by split; the traits are voice and what the card keeps as metadata."""
    extras = _metadata(corpus)
    read: dict[str, Callable[[Example], str]] = {"voice": lambda example: _voice(example, labels)}
    for column in ("register", "region", "group"):
        read[column] = lambda example, column=column: str(extras[example.id].get(column))  # type: ignore[misc]
    return {
        trait: {
            value: {"all": count} | {split: sum(of(e) == value for e in corpus.split(split)) for split in SPLITS}
            for value, count in Counter(of(example) for example in corpus.examples).most_common()
        }
        for trait, of in read.items()
    }


def _vocabulary(corpus: Corpus) -> dict[str, dict[str, float]]:
    """Share of a split's words, as running words and as distinct ones, that training has seen."""
    seen = {word for example in corpus.split("train") for word in _words(example.text)}
    table = {}
    for split in SPLITS[1:]:
        running = [word for example in corpus.split(split) for word in WORD.findall(example.text.lower())]
        distinct = set(running)
        table[split] = {
            "running": sum(word in seen for word in running) / max(len(running), 1),
            "distinct": len(distinct & seen) / max(len(distinct), 1),
        }
    return table


def _telling_words(train: Sequence[Example], label: str) -> list[str]:
    total: Counter[str] = Counter()
    with_label: Counter[str] = Counter()
    for example in train:
        words = _words(example.text)
        total.update(words)
        if label in example.positive:
            with_label.update(words)
    return sorted(word for word, count in total.items() if count >= 15 and with_label[word] >= 0.8 * count)


def _metadata(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Every column of each row by example id, metadata included."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for source in corpus.sources:
        for file in source.files:
            name = source.file_name(file)
            for record in read_records(file.path, source.mapping.separator):
                rows[name, record.line] = record.values or {}
    return {example.id: rows[example.source, example.line] for example in corpus.examples}


def _voice(example: Example, labels: Labels) -> str:
    return next((voice for voice in labels.voice_ids if voice in example.positive), "none")


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))


def _at_least(what: str, found: int, wanted: int) -> Check:
    return Check(what, str(found), f"≥ {wanted}", found >= wanted)


def _near(what: str, found: float, wanted: float, tolerance: float) -> Check:
    return Check(what, f"{found:.1%}", f"{wanted:.0%} ± {tolerance:.0%}", abs(found - wanted) <= tolerance)


def _print(checks: Sequence[Check], found: dict[str, Any]) -> None:
    for check in checks:
        print(f"{'ok  ' if check.met else 'MISS'} {check.what:48}{check.found:>22}   wanted {check.wanted}")
    for trait, values in found["composition"].items():
        print(f"\n{trait}: texts, and by split ({', '.join(SPLITS)})")
        for value, row in values.items():
            print(f"  {value:14}{row['all']:>6}   " + " ".join(f"{row[split]:>5}" for split in SPLITS))
    print("\nshare of a split's words that training has seen: running words / distinct words")
    for split, shares in found["vocabulary"].items():
        print(f"  {split:12}{shares['running']:.1%} / {shares['distinct']:.1%}")
    print(
        "\naverage precision on test from one trait alone (base rate | length | register | single words), telling words"
    )
    for label, row in found["give_away"].items():
        figures = " | ".join(f"{row[name]:.2f}" for name in ("base_rate", "length", "register", "words"))
        print(f"  {label:20}{figures}   {', '.join(row['telling_words'][:8])}")
    agreed = found["agreement"]
    if agreed:
        print(f"\nKrippendorff's alpha, two labellings of {agreed['texts']} texts ({agreed['differing']} differ)")
        for label, value in agreed["alpha"].items():
            print(f"  {label:20}{'undefined' if value is None else f'{value:.3f}'}")


@command
def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training.audit", description="Check a corpus against its card.")
    parser.add_argument("card", type=Path, nargs="?", default=Path("data_cards/testimonies"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    arguments = parser.parse_args()
    labels = load_labels()
    checks, found = audit(arguments.card, labels), findings(arguments.card, labels)
    _print(checks, found)
    if arguments.json:
        value = {"checks": [vars(check) for check in checks], **found}
        arguments.json.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    missed = sum(not check.met for check in checks)
    print(f"\n{len(checks) - missed} of {len(checks)} checks met")
    if missed:
        print(f"error: {missed} checks not met", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
