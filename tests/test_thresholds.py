"""training.thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from training.thresholds import FIGURES, OPERATING_POINTS, choose_thresholds, intervals, reach_target

# Twelve positives: ten lead, one follows a negative, the last comes after eight more.
TRUTH = np.array([1.0] * 10 + [0] + [1] + [0] * 8 + [1] + [0] * 20)
SCORE = np.linspace(0.99, 0.01, len(TRUTH))


def overlapping(count: int = 300, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores of one label, of shape (count, 1), in which no threshold is perfect."""
    chance = np.random.default_rng(seed)
    truth = (chance.random((count, 1)) < 0.2).astype(float)
    return truth, np.clip(truth * 0.3 + chance.random((count, 1)) * 0.7, 0, 1)


def test_operating_points_by_hand() -> None:
    points = choose_thresholds(TRUTH[:, None], SCORE[:, None], ["label"])["label"]
    assert points["balanced"]["recall"] == pytest.approx(11 / 12, abs=1e-3)
    assert points["balanced"]["precision"] == pytest.approx(11 / 12, abs=1e-3)
    assert points["recall_first"]["recall"] >= 0.9
    assert points["precision_first"]["precision"] >= 0.9
    thresholds = [points[name]["threshold"] for name in OPERATING_POINTS]
    assert thresholds == sorted(thresholds)


def test_the_described_precision_and_recall_are_those_of_the_threshold() -> None:
    truth, score = overlapping()
    for point in choose_thresholds(truth, score, ["label"])["label"].values():
        flagged = score[:, 0] >= point["threshold"]
        assert truth[flagged, 0].mean() == pytest.approx(point["precision"], abs=1e-4)
        assert flagged[truth[:, 0] == 1].mean() == pytest.approx(point["recall"], abs=1e-4)


def test_scores_that_differ_in_the_seventh_digit_are_still_told_apart() -> None:
    """As of a calibrated label that is nearly never positive."""
    points = choose_thresholds(TRUTH[:, None], SCORE[:, None] * 1e-6, ["label"])["label"]
    assert points["precision_first"]["precision"] >= 0.9 and points["precision_first"]["recall"] > 0.8


def test_too_few_positives_give_no_threshold() -> None:
    truth = np.zeros((40, 1))
    truth[:9] = 1
    points = choose_thresholds(truth, truth * 0.8, ["label"])["label"]
    nothing = {
        "threshold": None, "precision": None, "precision_interval": None, "recall": None, "recall_interval": None,
        "positives": 9, "reason": "9 positives, fewer than 10",
    }  # fmt: skip
    assert points == dict.fromkeys(OPERATING_POINTS, nothing)
    assert reach_target(truth, truth * 0.8, ["label"], figure="recall", target=0.5) == {"label": nothing}


def test_what_nobody_decided_changes_nothing() -> None:
    truth, score = overlapping()
    groups = [f"w{index % 5}" for index in range(len(truth))]
    more = np.concatenate([truth, np.full((50, 1), -100.0)]), np.concatenate([score, np.ones((50, 1))])
    assert choose_thresholds(*more, ["label"], [*groups, *["new"] * 50]) == choose_thresholds(
        truth, score, ["label"], groups
    )


@pytest.mark.parametrize(("figure", "target"), [("recall", 0.8), ("recall", 1.0), ("precision", 0.5)])
def test_a_target_is_kept_with_the_best_of_the_other_figure(figure: str, target: float) -> None:
    """Against every threshold there is."""
    truth, score = overlapping()
    point = reach_target(truth, score, ["label"], figure=figure, target=target)["label"]
    positive = truth[:, 0] == 1
    best = 0.0
    for threshold in np.unique(score):
        flagged = score[:, 0] >= threshold
        values = {"precision": positive[flagged].mean(), "recall": flagged[positive].mean()}
        if values.pop(figure) >= target:
            best = max(best, *values.values())
    (other,) = {*FIGURES} - {figure}
    assert point[figure] >= target - 1e-4 and point[other] == pytest.approx(best, abs=1e-4)


def test_of_equal_thresholds_the_one_that_finds_more() -> None:
    """Precision is 1 from the first positive to the tenth, and the target holds from the sixth: the tenth is taken."""
    assert reach_target(TRUTH[:, None], SCORE[:, None], ["label"], figure="recall", target=0.5)["label"]["recall"] == (
        pytest.approx(10 / 12, abs=1e-4)
    )


def test_a_target_out_of_reach_is_said() -> None:
    score = np.where(TRUTH == 1, 0.4, 0.5)
    point = reach_target(TRUTH[:, None], score[:, None], ["label"], figure="precision", target=0.9)["label"]
    assert point["threshold"] is None
    assert point["reason"] == f"no threshold reaches precision 0.9; the best is {TRUTH.mean():.4f}"


@pytest.mark.parametrize(("figure", "target"), [("f1", 0.9), ("recall", 0.0), ("recall", 1.1), ("recall", np.nan)])
def test_what_is_no_target_is_refused(figure: str, target: float) -> None:
    with pytest.raises(ValueError, match="a target is precision or recall"):
        reach_target(TRUTH[:, None], SCORE[:, None], ["label"], figure=figure, target=target)


def decisions(hits: int, misses: int, alarms: int, rest: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth (examples,) and flags (examples, 1) with these counts."""
    counts = [hits, misses, alarms, rest]
    return np.repeat([1.0, 1, 0, 0], counts), np.repeat([True, False, True, False], counts)[:, None]


def test_an_interval_of_one_writer_is_wilsons() -> None:
    """There is nothing to redraw. 81 of 263 is Newcombe's example (Statistics in Medicine 1998): 0.2553 to 0.3662."""
    truth, flags = decisions(81, 182, 0)
    (row,) = intervals(truth, flags, ["w"] * 263)
    assert row["recall"] == pytest.approx(81 / 263, abs=1e-4)
    assert row["recall_interval"] == pytest.approx([0.2553, 0.3662], abs=1e-4)


def test_a_perfect_figure_is_not_called_certain() -> None:
    """Redrawing three right answers gives three right answers; Wilson's lower bound is n / (n + z²)."""
    truth, flags = decisions(3, 0, 0, 30)
    (row,) = intervals(truth, flags, [f"w{index}" for index in range(33)])
    assert row["precision"] == 1 and row["precision_interval"] == [pytest.approx(3 / (3 + 1.959964**2), abs=1e-4), 1.0]


def test_writers_who_differ_widen_the_interval() -> None:
    """The same texts from writers alike, and from writers of whom half are never found."""
    truth, flags = decisions(200, 200, 0)
    alike = [f"w{index % 20}" for index in range(400)]
    apart = [f"w{index // 20}" for index in range(400)]
    (narrow,), (wide,) = intervals(truth, flags, alike), intervals(truth, flags, apart)
    assert narrow["recall_interval"] == pytest.approx([0.45, 0.55], abs=0.005)
    # 20 writers of 0 or 1: a standard error of 0.5 / √20, and 1.96 of them either way.
    assert wide["recall_interval"] == pytest.approx([0.5 - 0.219, 0.5 + 0.219], abs=0.04)


def test_groups_drawn_by_kind_are_groups_drawn_one_by_one() -> None:
    """Alike groups are drawn together for speed: the spread must be that of the plain bootstrap over groups."""
    chance = np.random.default_rng(3)
    owner = np.repeat(np.arange(40), 5)
    truth = np.ones(200)
    flags = chance.random((200, 1)) < np.repeat(chance.choice([0.2, 0.9], 40), 5)[:, None]
    recalls = flags[:, 0].reshape(40, 5).sum(axis=1)
    plain = [recalls[chance.integers(40, size=40)].sum() / 200 for _ in range(4000)]
    (row,) = intervals(truth, flags, [f"w{index}" for index in owner])
    assert row["recall_interval"] == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.02)


def test_what_is_undefined_has_no_interval() -> None:
    truth, flags = decisions(0, 12, 0, 5)
    (row,) = intervals(truth, flags)
    assert row["precision"] is None and row["precision_interval"] is None
    assert row["recall"] == 0 and row["recall_interval"][0] == 0


def test_intervals_hold_their_figure_and_are_the_same_every_time() -> None:
    truth, score = overlapping()
    groups = [f"w{index % 2}" for index in range(len(truth))]
    points = choose_thresholds(truth, score, ["label"], groups)
    assert points == choose_thresholds(truth, score, ["label"], groups)
    for point in points["label"].values():
        for figure in FIGURES:
            low, high = point[f"{figure}_interval"]
            assert 0 <= low <= point[figure] <= high <= 1
