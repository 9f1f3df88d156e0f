"""training.figures: what a split's figures say, worked out on a handful of invented texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from training import figures
from training.data import label_matrix
from training.intervals import FIGURES, interval, label_figures, resample
from training.labels import Labels
from training.metrics import precision_recall_curve
from training.rows import Example

CANARY = "perroquet-bleu-7413"


def example(
    index: int, labels: Labels, *positive: str, group: str | None = None, known: frozenset[str] | None = None
) -> Example:
    decided = frozenset(labels.ids) if known is None else known
    text, name = f"{CANARY} {index}", f"e{index}"
    return Example(text, frozenset(positive), decided, name, group, "test", "rows.jsonl", index)


def at(labels: Labels, default: float = 0.0, **scores: float) -> list[float]:
    """One text's scores by label."""
    return [scores.get(name, default) for name in labels.ids]


def thresholds(labels: Labels, value: float | None = 0.5, **other: float | None) -> dict[str, dict[str, Any]]:
    return {name: {"balanced": {"threshold": other.get(name, value)}} for name in labels.ids}


@pytest.fixture(scope="module")
def split(labels: Labels) -> tuple[list[Example], np.ndarray]:
    """Two hundred texts of eight groups: two categories of unequal size, a flag, three voices or none."""
    chance = np.random.default_rng(0)
    examples, voices = [], [*labels.voice_ids, None]
    for index in range(200):
        voice = voices[index % 4]
        labelled = {name for name, odds in (("grooming", 0.4), ("racism", 0.1)) if voice and chance.random() < odds}
        if "grooming" in labelled and chance.random() < 0.5:
            labelled.add("minor_involved")
        examples.append(example(index, labels, *labelled, *([voice] if voice else []), group=f"w{index // 25}"))
    noise = chance.random((200, len(labels.ids)))
    return examples, 0.55 * noise + 0.4 * (label_matrix(examples, labels) == 1)


@pytest.fixture(scope="module")
def result(split: tuple[list[Example], np.ndarray], labels: Labels) -> dict[str, Any]:
    return figures.evaluation(*split, thresholds(labels), labels)


@pytest.fixture
def few(labels: Labels) -> tuple[list[Example], np.ndarray]:
    """Two direct texts, one of them taken for a testimony; a testimony; a commentary taken for direct; an ordinary text
    with a false alarm and a direct voice."""
    examples = [
        example(0, labels, "grooming", "direct"),
        example(1, labels, "grooming", "direct"),
        example(2, labels, "grooming", "testimony"),
        example(3, labels, "commentary"),
        example(4, labels),
    ]
    scores = [
        at(labels, grooming=0.9, direct=0.8, testimony=0.1, commentary=0.1),
        at(labels, grooming=0.8, direct=0.3, testimony=0.6, commentary=0.1),
        at(labels, grooming=0.7, direct=0.1, testimony=0.9),
        at(labels, racism=0.6, direct=0.7, commentary=0.3),
        at(labels, racism=0.9, direct=0.9),
    ]
    return examples, np.array(scores)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def test_every_value_is_plain_json_of_six_digits(result: dict[str, Any]) -> None:
    """No numpy type, no tuple, no NaN: what is written is what is read."""
    for leaf in leaves(result):
        assert leaf is None or type(leaf) in (str, int, float, bool)
        assert type(leaf) is not float or leaf == round(leaf, 6)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_two_runs_are_identical(
    result: dict[str, Any], split: tuple[list[Example], np.ndarray], labels: Labels
) -> None:
    """Scores that differ in the ninth digit, as another machine's do, change nothing that is written."""
    again = figures.evaluation(split[0], split[1] + 1e-10, thresholds(labels), labels)
    assert json.dumps(again) == json.dumps(result)


def test_no_text_is_in_the_figures(result: dict[str, Any]) -> None:
    assert result["hardest"] and CANARY not in json.dumps(result)


def test_the_flag_is_judged_like_a_label_and_no_category(result: dict[str, Any], labels: Labels) -> None:
    row = result["labels"]["minor_involved"]
    assert row["support"] > 0 and row["average_precision"] > 0.5 and set(row["intervals"]) == set(FIGURES)
    for average in ("macro", "weighted", "micro"):
        assert (result[average]["over"], result[average]["of"]) == (2, len(labels.category_ids))
    rows = [result["labels"][name] for name in ("grooming", "racism")]
    assert result["macro"]["f1"] == pytest.approx(np.mean([row["f1"] for row in rows]), abs=1e-6)
    by_support = np.average([row["f1"] for row in rows], weights=[row["support"] for row in rows])
    assert result["weighted"]["f1"] == pytest.approx(by_support, abs=1e-6) != result["macro"]["f1"]


def test_intervals_stand_beside_the_figures(
    result: dict[str, Any], split: tuple[list[Example], np.ndarray], labels: Labels
) -> None:
    """They are those of training.intervals, hold the figure, and are None where the figure is."""
    examples, scores = split
    assert (result["groups"], result["resamples"]) == (8, 1000)
    groups = [example.group or "" for example in examples]
    drawn = resample(label_figures(label_matrix(examples, labels), scores, scores >= 0.5), groups)
    assert drawn is not None
    expected = interval(drawn[:, FIGURES.index("recall"), labels.ids.index("grooming")])
    assert result["labels"]["grooming"]["intervals"]["recall"] == pytest.approx(expected, abs=1e-6)
    protection = result["testimony_protection"]
    for held in (result["labels"]["grooming"], result["macro"], protection, protection["without_voices"]):
        for key, (low, high) in held["intervals"].items():
            assert 0 <= low <= held[key] <= high <= 1 and low < high
    assert result["labels"]["sexism"]["intervals"]["recall"] is None


@pytest.mark.parametrize("resamples", [0, 1000])
def test_without_resamples_or_with_one_group_there_are_no_intervals(
    few: tuple[list[Example], np.ndarray], labels: Labels, resamples: int
) -> None:
    """Nothing else changes; a text without a group is a group of its own."""
    examples, scores = few
    alone = [example(i, labels, *given.positive, group="ann") for i, given in enumerate(examples)]
    given = alone if resamples else examples
    found = figures.evaluation(given, scores, thresholds(labels), labels, resamples=resamples)
    assert found["groups"] == (1 if resamples else 5)
    protection = found["testimony_protection"]
    for held in (*found["labels"].values(), found["macro"], protection, protection["without_voices"]):
        assert held["intervals"] is None
    assert found["labels"]["grooming"]["average_precision"] == 1.0


def test_decision_scores_by_hand(few: tuple[list[Example], np.ndarray], labels: Labels) -> None:
    """The second text has 0.3 of 1.0 for direct: never acted upon, or at 0.8 · 0.3; the third 0.1 of 1.0."""
    scores = figures.decision_scores(few[1], labels)
    assert scores["likeliest_voice"] == pytest.approx([0.9, 0.0, 0.0, 0.6, 0.9])
    assert scores["without_voices"] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.9])
    assert scores["by_voice_share"] == pytest.approx([0.72, 0.24, 0.07, 0.42, 0.9])


def test_testimony_protection_by_hand(few: tuple[list[Example], np.ndarray], labels: Labels) -> None:
    """With voices: the first direct text and the commentary. Without: every text, for each has a flagged category.

    At a recall of 0.9, so of both direct texts: the likeliest voice reaches one of them; without voices the second
    needs 0.8, above both protected texts; by share it needs 0.24, which the commentary passes and the testimony not.
    """
    protection = figures.evaluation(*few, thresholds(labels), labels, resamples=0)["testimony_protection"]
    assert (protection["protected_texts"], protection["direct_texts"]) == (2, 2)
    assert (protection["wrongly_acted_upon"], protection["direct_recall"]) == (0.5, 0.5)
    without = protection["without_voices"]
    assert (without["wrongly_acted_upon"], without["direct_recall"]) == (1.0, 1.0)
    assert protection["at_direct_recall"] == {
        "target": 0.9,
        "likeliest_voice": {"threshold": None, "wrongly_acted_upon": None, "direct_recall": 0.5},
        "without_voices": {"threshold": 0.75, "wrongly_acted_upon": 0.0, "direct_recall": 1.0},
        "by_voice_share": {"threshold": 0.155, "wrongly_acted_upon": 0.5, "direct_recall": 1.0},
    }
    assert protection["at_validation_threshold"] is None


def test_another_splits_threshold_is_applied_as_it_stands(
    few: tuple[list[Example], np.ndarray], labels: Labels
) -> None:
    """What validation could not reach stays None; a threshold of 0.65 takes three of the four texts, of 0.5 two."""
    strict = {"likeliest_voice": None, "without_voices": 0.65, "by_voice_share": 0.4}
    found = figures.evaluation(*few, thresholds(labels), labels, resamples=0, strictness=strict)
    assert found["testimony_protection"]["at_validation_threshold"] == {
        "likeliest_voice": {"threshold": None, "wrongly_acted_upon": None, "direct_recall": None},
        "without_voices": {"threshold": 0.65, "wrongly_acted_upon": 0.5, "direct_recall": 1.0},
        "by_voice_share": {"threshold": 0.4, "wrongly_acted_upon": 0.5, "direct_recall": 0.5},
    }


def test_a_threshold_gives_its_own_split_the_same_figures(
    result: dict[str, Any], split: tuple[list[Example], np.ndarray], labels: Labels
) -> None:
    """Rounded as it is written, the threshold of the curve point takes exactly the texts of the curve point."""
    own = figures.strictness(result)
    again = figures.evaluation(*split, thresholds(labels), labels, resamples=0, strictness=own)["testimony_protection"]
    points = {name: result["testimony_protection"]["at_direct_recall"][name] for name in figures.DECISIONS}
    assert points["by_voice_share"]["direct_recall"] >= 0.9
    assert again["at_validation_threshold"] == {
        name: point if point["threshold"] is not None else dict.fromkeys(point) for name, point in points.items()
    }


def test_a_text_with_no_direct_share_is_never_acted_upon(labels: Labels) -> None:
    """A threshold of 0 would take everything; a decision score of 0 stays out all the same."""
    examples = [example(0, labels, "grooming", "direct"), example(1, labels, "grooming", "testimony")]
    scores = np.array([at(labels, grooming=0.9, direct=0.9), at(labels, grooming=0.9, testimony=0.9)])
    strict = dict.fromkeys(figures.DECISIONS, 0.0)
    found = figures.evaluation(examples, scores, thresholds(labels), labels, strictness=strict)["testimony_protection"]
    shares = {name: point["wrongly_acted_upon"] for name, point in found["at_validation_threshold"].items()}
    assert shares == {"likeliest_voice": 0.0, "without_voices": 1.0, "by_voice_share": 0.0}


def test_curves_are_thinned_points_of_the_curve(
    result: dict[str, Any], split: tuple[list[Example], np.ndarray], labels: Labels
) -> None:
    """From the first hit to the last; a label without positives has none."""
    truth = label_matrix(split[0], labels)[:, labels.ids.index("commentary")]
    whole = precision_recall_curve(truth, split[1][:, labels.ids.index("commentary")])
    points = {tuple(round(float(value), 6) for value in point) for point in zip(*whole, strict=True)}
    assert truth.sum() == 50
    assert len(result["curves"]["commentary"]["recall"]) == 50
    for name in ("commentary", "grooming", "racism"):
        curve = result["curves"][name]
        assert curve["recall"] == sorted(curve["recall"]) and curve["recall"][-1] == 1.0
        assert curve["recall"][0] == pytest.approx(1 / result["labels"][name]["support"], abs=1e-6)
    assert set(zip(*result["curves"]["commentary"].values(), strict=True)) <= points
    assert result["curves"]["sexism"] is None


def test_a_long_curve_keeps_its_ends(labels: Labels) -> None:
    examples = [example(index, labels, "grooming") for index in range(300)]
    scores = np.zeros((300, len(labels.ids)))
    scores[:, 0] = np.linspace(0.1, 0.9, 300)
    curve = figures.evaluation(examples, scores, thresholds(labels), labels, resamples=0)["curves"]["grooming"]
    assert len(curve["recall"]) == figures.CURVE_POINTS
    assert (curve["thresholds"][0], curve["thresholds"][-1]) == (0.9, 0.1)


def test_hardest_by_hand(few: tuple[list[Example], np.ndarray], labels: Labels) -> None:
    """The false alarm at 0.9 is log 9 above 0.5, so is its voice. The commentary's worst error is its voice, 0.7 where
    the truth has 0.3: 2 · log 7/3. The second direct text has 0.6 for testimony and 0.3 for direct."""
    found = figures.evaluation(*few, thresholds(labels), labels, resamples=0)["hardest"]
    assert [error["id"] for error in found] == ["e4", "e3", "e1"]
    margins = [np.log(9), 2 * np.log(7 / 3), np.log(0.6 / 0.4) + np.log(0.7 / 0.3)]
    assert [error["margin"] for error in found] == pytest.approx(margins, abs=1e-6)
    assert {key: value for key, value in found[1].items() if key != "margin"} == {
        "id": "e3", "truth": [], "answered": ["racism"], "voice_truth": "commentary", "voice_answered": "direct",
    }  # fmt: skip
    assert found[0]["voice_truth"] == "none" and found[2]["truth"] == found[2]["answered"] == ["grooming"]


def test_a_miss_below_a_low_threshold_weighs_like_a_false_alarm(labels: Labels) -> None:
    """0.01 under a threshold of 0.1 is as far as 0.55 above it: log 11. What is undecided, and a label without a
    threshold, is no error."""
    examples = [
        example(0, labels, "grooming"),
        example(1, labels, known=frozenset(labels.ids) - {"grooming"}),
        example(2, labels, "sexism"),
        example(3, labels),
    ]
    scores = [at(labels, grooming=0.01), at(labels, grooming=0.99), at(labels), at(labels, grooming=0.55)]
    chosen = thresholds(labels, grooming=0.1, sexism=None)
    found = figures.evaluation(examples, np.array(scores), chosen, labels, resamples=0)["hardest"]
    assert [error["id"] for error in found] == ["e0", "e3"]
    assert [error["margin"] for error in found] == pytest.approx([np.log(11), np.log(11)], abs=1e-6)


def test_an_unsure_voice_is_measured_from_its_threshold(labels: Labels) -> None:
    """A testimony at 0.2 under a threshold of 0.5 answers no voice: log 4. Of an undecided voice only the label
    counts: 0.4 under 0.5 is log 3/2."""
    voiceless = frozenset(labels.ids) - set(labels.voice_ids)
    examples = [example(0, labels, "testimony"), example(1, labels, "grooming", known=voiceless)]
    scores = np.array([at(labels, testimony=0.2), at(labels, grooming=0.4, direct=0.9)])
    found = figures.evaluation(examples, scores, thresholds(labels), labels, resamples=0)["hardest"]
    assert [(error["id"], error["voice_truth"], error["voice_answered"]) for error in found] == [
        ("e0", "testimony", "none"),
        ("e1", "undecided", "direct"),
    ]
    assert [error["margin"] for error in found] == pytest.approx([np.log(4), np.log(1.5)], abs=1e-6)


def test_only_the_worst_thirty_are_kept(result: dict[str, Any]) -> None:
    """Of equal margins the id decides, so the list is the same on every run."""
    margins = [error["margin"] for error in result["hardest"]]
    assert len(margins) == figures.HARDEST and margins == sorted(margins, reverse=True) and margins[-1] > 0
