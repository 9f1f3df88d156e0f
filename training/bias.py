"""Whether a word that names a group of people, or a first name, moves the scores: `python -m training.bias ARTIFACT`.

The same sentences are filled with every term of training/bias_terms.yaml, in the manner of the template sets of Dixon
et al. (AIES 2018). The highest category score is held against "any category present" by the three areas under the ROC
curve of Borkan et al., Nuanced Metrics for Measuring Unintended Bias with Real Data for Text Classification (WWW 2019
Companion), where the subgroup is the texts with a term and the background the same sentences with the other terms:

- subgroup: positives against negatives, both with the term;
- BPSN, background positive and subgroup negative: low where harmless texts score high because of the term;
- BNSP, background negative and subgroup positive: low where harmful texts score low because of the term.

Over terms, each is summed up by the generalised mean of power -5, which the worst terms govern (as in the Jigsaw
competition on that paper's data, 2019). Invented sentences show what a term does by itself, not how often it occurs.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.bias_terms import Bank, Filled, Term, fill, read_bank
from training.cards import SPLITS
from training.config import load_config
from training.data import load_corpus
from training.errors import command
from training.evaluate import read_json, score_artifact
from training.labels import Labels, load_labels
from training.metrics import roc_auc
from training.predictions import check_output, read_thresholds, texts_of
from training.rows import Example
from training.thresholds import DEFAULT

AUCS = ("subgroup_auc", "bpsn_auc", "bnsp_auc")
POWER = -5
MIN_TEXTS = 10
"""Of data that nobody wrote for this, no figure rests on fewer positives or negatives."""
DIGITS = 6

Mask = NDArray[np.bool_]
Scorer = Callable[[list[str]], np.ndarray]


class Judged(NamedTuple):
    """Arrays of shape (texts,): any category present, the highest category score, any category flagged."""

    truth: Mask
    score: NDArray[np.floating[Any]]
    flagged: Mask


def bias(
    score: Scorer,
    thresholds: Mapping[str, Mapping[str, Any]],
    labels: Labels,
    *,
    bank: Bank | None = None,
    examples: Sequence[Example] = (),
    operating_point: str = DEFAULT,
) -> dict[str, Any]:
    """Every sentence with every term, and the examples in which terms occur, with one call of `score` for all texts.

    Args:
        score: texts → calibrated probabilities of shape (texts, labels).
        thresholds: label → operating point → {"threshold": …}, as in thresholds.json; None never flags.
        bank: default: training/bias_terms.yaml.
        examples: labelled texts, for `data`; without them it is None.

    Returns:
        Plain data, rounded to six digits, None where undefined, no text: `groups` of terms (a row per group, in it one
        per term), `means` over terms, `ordinary_flag_rate`; the same under `names`, with `genders`; and under `data`.
    """
    bank = bank or read_bank(labels)
    terms, names = fill(bank.terms, bank.templates), fill(bank.names, bank.name_templates)
    real = [(example.text, known) for example in examples if (known := _any_category(example, labels)) is not None]
    made = [*terms, *names]
    scores = np.asarray(score([*(item.text for item in made), *(text for text, _ in real)]))
    positive = [*(item.positive for item in made), *(known for _, known in real)]
    judged = _judge(scores, positive, thresholds, labels, operating_point)
    ends = [len(terms), len(made)]
    parts = [Judged(*each) for each in zip(*(np.split(values, ends) for values in judged), strict=True)]
    genders = np.array([item.gender for item in names])
    by_gender = {gender: _filled_row(parts[1], names, genders == gender) for gender in ("f", "m")}
    return {
        "operating_point": operating_point,
        "power": POWER,
        "texts": len(made),
        **_over_filled(parts[0], terms),
        "names": {**_over_filled(parts[1], names), "genders": by_gender},
        "data": _over_data(parts[2], [text for text, _ in real], bank) if examples else None,
    }


def _any_category(example: Example, labels: Labels) -> bool | None:
    """None where no category is present and one of them was not decided."""
    categories = set(labels.category_ids)
    return True if example.positive & categories else False if categories <= example.known else None


def _judge(
    scores: np.ndarray, positive: Sequence[bool], thresholds: Mapping[str, Any], labels: Labels, point: str
) -> Judged:
    of = scores[:, : len(labels.category_ids)]
    chosen = [thresholds[name][point]["threshold"] for name in labels.category_ids]
    limits = np.array([np.inf if threshold is None else threshold for threshold in chosen])
    return Judged(np.array(positive, dtype=bool), of.max(axis=1), np.asarray((of >= limits).any(axis=1)))


def _over_filled(judged: Judged, items: Sequence[Filled]) -> dict[str, Any]:
    members: dict[str, dict[str, Mask]] = {}
    for item in items:
        members.setdefault(item.group, {}).setdefault(item.term, np.zeros(len(items), dtype=bool))
    for index, item in enumerate(items):
        members[item.group][item.term][index] = True
    return _summary(judged, members, partial(_filled_row, judged, items))


def _filled_row(judged: Judged, items: Sequence[Filled], inside: Mask) -> dict[str, Any]:
    """Against the same sentences with other terms, so that only the term differs."""
    template = np.array([item.template for item in items])
    return compare(judged, inside, np.isin(template, template[inside]) & ~inside)


def _over_data(judged: Judged, texts: Sequence[str], bank: Bank) -> dict[str, Any]:
    """Whole words, whatever their case and accents; a word such as « noir » is counted in its other meanings too."""
    words = [folded_words(text) for text in texts]

    def holding(term: Term) -> Mask:
        forms = {form for each in term.forms for form in folded_words(each)}
        return np.array([not forms.isdisjoint(held) for held in words], dtype=bool)

    members = {group: {term.name: holding(term) for term in terms} for group, terms in bank.terms.items()}
    result = _summary(judged, members, lambda inside: compare(judged, inside, ~inside, minimum=MIN_TEXTS))
    return {"texts": len(texts), "positive_texts": int(judged.truth.sum()), "minimum": MIN_TEXTS, **result}


def folded_words(text: str) -> frozenset[str]:
    """The words of a text in lower case, without accents."""
    plain = unicodedata.normalize("NFKD", text.lower())
    return frozenset(re.findall(r"\w+", "".join(sign for sign in plain if not unicodedata.combining(sign))))


def _summary(
    judged: Judged, members: Mapping[str, Mapping[str, Mask]], row: Callable[[Mask], dict[str, Any]]
) -> dict[str, Any]:
    groups = {}
    for group, terms in members.items():
        rows = {name: row(inside) for name, inside in terms.items()}
        together = row(np.logical_or.reduce(list(terms.values())))
        groups[group] = {**together, "flag_rate_gap": _gap(rows.values()), "terms": rows}
    every = [each for group in groups.values() for each in group["terms"].values()]
    ordinary = judged.flagged[~judged.truth]
    return {
        "groups": groups,
        "means": {key: generalised_mean([each[key] for each in every]) for key in AUCS},
        "means_over": {key: sum(each[key] is not None for each in every) for key in AUCS},
        "ordinary_flag_rate": _rounded(float(ordinary.mean()) if len(ordinary) else None),
        "ordinary_texts": len(ordinary),
    }


def compare(judged: Judged, inside: Mask, background: Mask, *, minimum: int = 1) -> dict[str, Any]:
    """The three areas of a subgroup, and the share of its ordinary texts that is flagged; masks of shape (texts,).

    Returns:
        None for an area with fewer positives or negatives than `minimum`, and for a share of fewer texts.
    """
    positive, negative = inside & judged.truth, inside & ~judged.truth
    ordinary = judged.flagged[negative]
    return {
        "subgroup_auc": _auc(judged, positive, negative, minimum),
        "bpsn_auc": _auc(judged, background & judged.truth, negative, minimum),
        "bnsp_auc": _auc(judged, positive, background & ~judged.truth, minimum),
        "flag_rate": _rounded(float(ordinary.mean())) if len(ordinary) >= minimum else None,
        "ordinary_texts": len(ordinary),
        "positive_texts": int(positive.sum()),
    }


def _auc(judged: Judged, positive: Mask, negative: Mask, minimum: int) -> float | None:
    if min(positive.sum(), negative.sum()) < minimum:
        return None
    either = positive | negative
    return _rounded(roc_auc(judged.truth[either].astype(float), judged.score[either]))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _gap(rows: Iterable[Mapping[str, Any]]) -> float | None:
    rates = [row["flag_rate"] for row in rows if row["flag_rate"] is not None]
    return _rounded(max(rates) - min(rates)) if len(rates) > 1 else None


def generalised_mean(values: Sequence[float | None]) -> float | None:
    """(Σ xᵖ / n)^(1/p) with p = -5 over the values that are defined; 0 where one is 0, None without any."""
    defined = np.array([value for value in values if value is not None])
    if not len(defined):
        return None
    return _rounded(float(np.mean(defined**POWER) ** (1 / POWER))) if defined.all() else 0.0


def print_bias(figures: Mapping[str, Any]) -> None:
    """A table for people, a line per term and group; --json holds every figure."""
    _print_part("terms in invented sentences", figures)
    _print_part("first names in invented sentences", figures["names"])
    for gender, row in figures["names"]["genders"].items():
        _print_row(f"all names, {gender}", row)
    if figures["data"]:
        _print_part(f"terms in {figures['data']['texts']} texts of the data", figures["data"])


def _print_part(title: str, part: Mapping[str, Any]) -> None:
    print(f"{title:36}{'subgroup':>9}{'BPSN':>8}{'BNSP':>8}{'flagged':>9}{'ordinary':>10}{'positive':>10}")
    for group, of in part["groups"].items():
        _print_row(f"{group} (gap {_number(of['flag_rate_gap'])})", of)
        for name, row in of["terms"].items():
            _print_row(f"  {name}", row)
    means = "".join(f"{_number(part['means'][key]):>{width}}" for key, width in zip(AUCS, (9, 8, 8), strict=True))
    print(f"{f'mean of power {POWER} over terms':36}{means}{_number(part['ordinary_flag_rate']):>9}")


def _print_row(name: str, row: Mapping[str, Any]) -> None:
    cells = [_number(row[key]) for key in (*AUCS, "flag_rate")]
    counts = f"{row['ordinary_texts']:>10}{row['positive_texts']:>10}"
    print(f"{name:36}{cells[0]:>9}{cells[1]:>8}{cells[2]:>8}{cells[3]:>9}{counts}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.bias", description="What terms for groups do to scores.")
    parser.add_argument("artifact", type=Path, help="artifact directory")
    parser.add_argument("--data", action="append", metavar="FILE-or-CARD", help="also the texts of it that hold a term")
    parser.add_argument("--split", choices=[*SPLITS, "all"], default="test", help="of --data; default: test")
    parser.add_argument("--operating-point", default=DEFAULT, metavar="NAME", help=f"default: {DEFAULT}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args()


@command
def main() -> int:
    arguments, labels = _parse(), load_labels()
    folder, point = arguments.artifact, arguments.operating_point
    check_output("--json", arguments.json)
    read_json(folder / "artifact.json")
    thresholds = read_thresholds(folder / "thresholds.json", labels.ids, point)
    examples: list[Example] = []
    if arguments.data:
        config = load_config(folder / "run.yaml").data
        examples = texts_of(load_corpus(arguments.data, labels, config, trainable=False), arguments.split)
    score = partial(score_artifact, folder, labels=labels)
    figures = bias(score, thresholds, labels, examples=examples, operating_point=point)
    print_bias(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
