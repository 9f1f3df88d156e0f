"""training.metrics: every metric worked out by hand once, and equal to scikit-learn where that has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training import metrics

TRUTH = np.array([1.0, 0.0, 1.0, 0.0])
SCORES = np.array([0.9, 0.8, 0.7, 0.1])
LABELS = ["a", "b", "c", "d"]
# Few distinct values, so that ties abound.
truths = hnp.arrays(np.int64, 30, elements=st.integers(0, 1))
scores = hnp.arrays(np.float64, 30, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]))
matrices = hnp.arrays(np.int64, (25, 4), elements=st.integers(0, 1))
score_matrices = hnp.arrays(np.float64, (25, 4), elements=st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8]))


def same(ours: float | None, theirs: Any) -> None:
    assert ours == pytest.approx(float(theirs), abs=1e-9)


def test_average_precision_by_hand() -> None:
    """Hits at ranks 1 and 3: ½ · 1/1 + ½ · 2/3 = 5/6."""
    assert metrics.average_precision(TRUTH, SCORES) == pytest.approx(5 / 6)


def test_roc_auc_by_hand() -> None:
    """Of the four pairs, only (0.7, 0.8) is the wrong way round: 3/4."""
    assert metrics.roc_auc(TRUTH, SCORES) == pytest.approx(3 / 4)


def test_f_by_hand() -> None:
    """Two flagged, one rightly, of two positives: P = R = F1 = 1/2; with nothing flagged precision is undefined."""
    flagged = np.array([1.0, 1.0, 0.0, 0.0])
    assert metrics.precision_recall_f(TRUTH, flagged) == {"precision": 0.5, "recall": 0.5, "f": 0.5}
    assert metrics.precision_recall_f(TRUTH, np.zeros(4)) == {"precision": None, "recall": 0.0, "f": 0.0}


def test_f2_weighs_recall_four_times() -> None:
    """P = 1, R = 1/2: F2 = 5 · 1 / (4 · 2 + 1) = 5/9."""
    assert metrics.precision_recall_f(TRUTH, np.array([1.0, 0, 0, 0]), beta=2.0)["f"] == pytest.approx(5 / 9)


def test_recall_at_precision_by_hand() -> None:
    """Precision from the top is 1, 1/2, 2/3, 1/2: 0.9 holds for the first text alone, 0.6 still for three of four."""
    assert metrics.recall_at_precision(TRUTH, SCORES) == 0.5
    assert metrics.recall_at_precision(TRUTH, SCORES, 0.6) == 1.0
    assert metrics.recall_at_precision(1 - TRUTH, SCORES) is None, "the first is no hit: never above 1/2"


def test_precision_at_recall_by_hand() -> None:
    """Recall from the top is 1/2, 1/2, 1, 1: 0.9 needs three texts of which two are right, 0.5 needs the first."""
    assert metrics.precision_at_recall(TRUTH, SCORES) == pytest.approx(2 / 3)
    assert metrics.precision_at_recall(TRUTH, SCORES, 0.5) == 1.0


def test_nine_of_ten_is_ninety_percent() -> None:
    """Both targets hold where they are met exactly: the first ten have nine hits, and the nine are nine of ten."""
    truth = np.array([1.0] * 8 + [0, 1] + [0, 0, 0, 1])
    falling = np.arange(14, 0, -1) / 20
    assert metrics.recall_at_precision(truth, falling) == 0.9
    assert metrics.precision_at_recall(truth, falling) == 0.9


def test_brier_by_hand() -> None:
    """(0.01 + 0.64 + 0.09 + 0.01) / 4."""
    assert metrics.brier(TRUTH, SCORES) == pytest.approx(0.1875)


def test_ece_by_hand() -> None:
    """Two bins of two: |½ - 0.4| and |½ - 0.85|, halved and added: 0.05 + 0.175."""
    assert metrics.expected_calibration_error(TRUTH, SCORES, bins=2) == pytest.approx(0.225)


@settings(max_examples=60, deadline=None)
@given(truths, scores)
def test_rankings_are_equal_to_scikit_learn_with_ties(truth: np.ndarray, score: np.ndarray) -> None:
    same(metrics.brier(truth, score), reference.brier_score_loss(truth, score, pos_label=1))
    if not truth.sum():
        return
    same(metrics.average_precision(truth, score), reference.average_precision_score(truth, score))
    precision, recall, _ = reference.precision_recall_curve(truth, score)
    precision, recall = precision[:-1], recall[:-1]  # Its last point flags nothing.
    same(metrics.precision_at_recall(truth, score), precision[recall >= 0.9].max())
    sure = recall[precision >= 0.9]
    ours = metrics.recall_at_precision(truth, score)
    assert ours == (pytest.approx(sure.max(), abs=1e-9) if len(sure) else None)
    if truth.sum() < len(truth):
        same(metrics.roc_auc(truth, score), reference.roc_auc_score(truth, score))


@settings(max_examples=60, deadline=None)
@given(matrices, score_matrices)
def test_rows_and_averages_are_equal_to_scikit_learn(truth: np.ndarray, score: np.ndarray) -> None:
    """Each label, and macro, weighted and micro over the labels with positives; what is undefined is NaN there."""
    flags = (score >= 0.5).astype(int)
    rows = metrics.per_category(truth, score, [0.5] * 4, LABELS)
    for beta, name in ((1.0, "f1"), (2.0, "f2")):
        each = reference.precision_recall_fscore_support(truth, flags, beta=beta, average=None, zero_division=np.nan)
        for column, row in enumerate(rows.values()):
            assert row["support"] == each[3][column]
            for key, values in zip(("precision", "recall", name), each, strict=False):
                if row["support"] or key == "precision":
                    expected = None if np.isnan(values[column]) else pytest.approx(values[column], abs=1e-9)
                    assert row[key] == expected
    held = [column for column in range(4) if truth[:, column].any()]
    averages = {"macro": metrics.macro(rows, LABELS), "weighted": metrics.weighted(rows, LABELS)}
    averages["micro"] = metrics.micro(truth, flags)
    for how, ours in averages.items():
        assert (ours["over"], ours["of"]) == (len(held), 4)
        for beta, name in ((1.0, "f1"), (2.0, "f2")):
            theirs = reference.precision_recall_fscore_support(
                truth, flags, beta=beta, labels=held, average=how, zero_division=np.nan
            )
            for key, value in zip(("precision", "recall", name), theirs, strict=False):
                if held:
                    assert ours[key] == (None if np.isnan(value) else pytest.approx(value, abs=1e-9)), (how, key)


@settings(max_examples=30, deadline=None)
@given(matrices, score_matrices)
def test_mean_average_precision_and_auc_are_equal_to_scikit_learn(truth: np.ndarray, score: np.ndarray) -> None:
    rows = metrics.per_category(truth, score, [0.5] * 4, LABELS)
    both = [column for column in range(4) if 0 < truth[:, column].sum() < len(truth)]
    if len(both) < 4:
        return
    for how, ours in (("macro", metrics.macro(rows, LABELS)), ("weighted", metrics.weighted(rows, LABELS))):
        same(ours["average_precision"], reference.average_precision_score(truth, score, average=how))
        same(ours["roc_auc"], reference.roc_auc_score(truth, score, average=how))


def test_a_row_holds_every_figure_of_the_decided_examples() -> None:
    """The four examples of above; a fifth that nobody decided, scored wrongly, changes nothing."""
    truth, score = np.append(TRUTH, -100.0)[:, None], np.append(SCORES, 1.0)[:, None]
    row = metrics.per_category(truth, score, [0.75], ["a"])["a"]
    assert row == metrics.per_category(TRUTH[:, None], SCORES[:, None], [0.75], ["a"])["a"]
    ece = metrics.expected_calibration_error(TRUTH, SCORES)
    assert row == {
        "support": 2, "examples": 4, "threshold": 0.75, "precision": 0.5, "recall": 0.5, "f1": 0.5, "f2": 0.5,
        "average_precision": pytest.approx(5 / 6), "roc_auc": 0.75, "recall_at_precision_90": 0.5,
        "precision_at_recall_90": pytest.approx(2 / 3), "brier": pytest.approx(0.1875), "ece": ece,
    }  # fmt: skip


def test_undefined_is_none_and_left_out_of_the_means() -> None:
    truth = np.array([[1.0, 0.0, -100.0], [0.0, 0.0, 1.0]])
    score = np.array([[0.9, 0.2, 0.9], [0.1, 0.1, 0.8]])
    rows = metrics.per_category(truth, score, [0.5, 0.5, None], ["a", "b", "c"])
    assert rows["b"]["support"] == 0
    undefined = {"precision", "recall", "f1", "f2", "average_precision", "roc_auc", "brier", "ece"}
    assert {key for key, value in rows["b"].items() if value is None} >= undefined | {"recall_at_precision_90"}
    assert rows["c"]["examples"] == 1 and rows["c"]["recall"] == 0.0 and rows["c"]["roc_auc"] is None
    for means in (metrics.macro(rows, ["a", "b"]), metrics.weighted(rows, ["a", "b"])):
        assert (means["over"], means["of"], means["left_out"]) == (1, 2, {})
        assert all(means[key] == 1.0 for key in metrics.AVERAGED)


def test_a_label_that_was_never_flagged_has_no_precision_to_average() -> None:
    """b has a positive and flags nothing: its recall and F1 are 0, its precision is none; the mean says so."""
    truth, score = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[0.9, 0.3], [0.1, 0.1]])
    means = metrics.macro(metrics.per_category(truth, score, [0.5, 0.5], ["a", "b"]), ["a", "b"])
    assert (means["precision"], means["recall"], means["f1"]) == (1.0, 0.5, 0.5)
    assert means["left_out"] == {"precision": ["b"]}


def test_no_positives_at_all_gives_no_mean() -> None:
    rows = metrics.per_category(np.zeros((3, 2)), np.ones((3, 2)), [0.5, 0.5], ["a", "b"])
    assert rows["a"]["precision"] == 0.0, "three false alarms are seen"
    for means in (metrics.macro(rows, ["a", "b"]), metrics.weighted(rows, ["a", "b"])):
        assert means["over"] == 0 and all(means[key] is None for key in metrics.AVERAGED)
    assert metrics.micro(np.zeros((3, 2)), np.ones((3, 2)))["f1"] is None


def test_weighted_by_hand() -> None:
    """Recall 1 of three positives and 0 of one: 3/4, where the plain mean is 1/2."""
    truth = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    score = np.array([[0.9, 0], [0.9, 0], [0.9, 0], [0, 0.1]])
    rows = metrics.per_category(truth, score, [0.5, 0.5], ["a", "b"])
    assert metrics.weighted(rows, ["a", "b"])["recall"] == 0.75 and metrics.macro(rows, ["a", "b"])["recall"] == 0.5


def test_micro_counts_decided_pairs_only() -> None:
    """Flagged: a hit, a false alarm; missed: one. The pair (1, 2) is undecided, the third label has no positive."""
    truth = np.array([[1.0, -100.0, 0.0], [0.0, 1.0, 0.0]])
    values = metrics.micro(truth, np.array([[1, 1, 1], [1, 0, 1]]))
    assert (values["precision"], values["recall"], values["f1"], values["f2"]) == (0.5, 0.5, 0.5, 0.5)
    assert (values["over"], values["of"]) == (2, 3)


def test_voice_confusion_by_hand() -> None:
    """Direct answered right, testimony answered as direct, no voice answered as none; the undecided row is left out."""
    truth = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0], [-100, -100, -100]])
    table = metrics.voice_confusion(truth, [0, 0, None, 1])
    assert table == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_voice_confusion_is_equal_to_scikit_learn() -> None:
    chance = np.random.default_rng(0)
    true, answered = chance.integers(4, size=(2, 200))
    table = metrics.voice_confusion(np.eye(4)[true][:, :3], [None if voice == 3 else int(voice) for voice in answered])
    assert table == reference.confusion_matrix(true, answered).tolist()


def test_testimony_protection_by_hand() -> None:
    """Acted upon: one direct text of two, one protected text of two."""
    acted, direct = np.array([True, False, True, False]), np.array([True, True, False, False])
    figures = metrics.testimony_protection(acted, direct, ~direct)
    assert figures == {"wrongly_acted_upon": 0.5, "direct_recall": 0.5}
    assert metrics.testimony_protection(acted, direct & False, direct) == {
        "wrongly_acted_upon": 0.5,
        "direct_recall": None,
    }


def test_the_strictest_threshold_that_reaches_the_recall() -> None:
    """Direct texts at 0.9, 0.8, 0.4, 0.2: a recall of 3/4 needs 0.4, where one protected text of two is acted upon.

    The next score below is 0.3, so the threshold is 0.35. All of them need 0.2, and 0 is below that.
    """
    decision = np.array([0.9, 0.8, 0.4, 0.2, 0.7, 0.3])
    direct = np.array([True] * 4 + [False] * 2)
    point = metrics.at_direct_recall(decision, direct, ~direct, recall=0.75)
    assert point == {"threshold": pytest.approx(0.35), "wrongly_acted_upon": 0.5, "direct_recall": 0.75}
    point = metrics.at_direct_recall(decision, direct, ~direct)
    assert point == {"threshold": 0.1, "wrongly_acted_upon": 1.0, "direct_recall": 1.0}


def test_a_text_that_is_never_acted_upon_is_never_reached() -> None:
    """One direct text of two scores 0: half is the highest recall there is, and no threshold reaches 0.9."""
    decision, direct = np.array([0.9, 0.0, 0.0]), np.array([True, True, False])
    point = metrics.at_direct_recall(decision, direct, ~direct)
    assert point == {"threshold": None, "wrongly_acted_upon": None, "direct_recall": 0.5}
    nothing = metrics.at_direct_recall(decision, direct & False, ~direct)
    assert nothing == {"threshold": None, "wrongly_acted_upon": None, "direct_recall": None}
