"""training.intervals: the figures of weighted examples are those of the repeated sample, and groups stay whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from training import intervals, metrics

TRUTH = np.array([[1.0], [0], [1], [0]])
SCORES = np.array([[0.9], [0.8], [0.7], [0.1]])
GROUPS = ["ann", "ann", "bo", "cy"]


def random_split(seed: int, *, examples: int = 60, groups: int = 9) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Truth with undecided pairs, scores with ties, and groups of unequal size."""
    chance = np.random.default_rng(seed)
    truth = (chance.random((examples, 4)) < [0.5, 0.3, 0.1, 0.0]).astype(float)
    truth[chance.random(truth.shape) < 0.1] = -100
    scores = np.round(chance.random((examples, 4)) * 0.5 + 0.4 * (truth == 1), 1)
    return truth, scores, [f"w{int(index)}" for index in np.minimum(chance.geometric(0.3, examples), groups)]


def repeated(groups: Sequence[str], seed: int, resamples: int) -> list[np.ndarray]:
    """Row numbers of every resample, drawn the plain way: whole groups, one after the other."""
    names = sorted(set(groups))
    members = [np.flatnonzero(np.array(groups) == name) for name in names]
    chance = np.random.default_rng(seed)
    draws = [chance.integers(len(names), size=len(names)) for _ in range(resamples)]
    return [np.concatenate([members[index] for index in draw]) for draw in draws]


def test_weighted_average_precision_by_hand() -> None:
    """Weights 1, 2, 1, 0: hits at rank 1 and 4 of the repeated list: ½ · 1 + ½ · 2/4 = 3/4; without hits undefined."""
    values = intervals.average_precisions(TRUTH, SCORES)(np.array([[1.0, 2, 1, 0], [1, 1, 1, 1], [0, 1, 0, 2]]))
    assert values[:2, 0] == pytest.approx([3 / 4, 5 / 6]) and np.isnan(values[2, 0])


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.int64, 20, elements=st.sampled_from([0, 1, -100])),
    hnp.arrays(np.float64, 20, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])),
    hnp.arrays(np.int64, 20, elements=st.integers(0, 3)),
)
def test_weighted_figures_equal_those_of_the_repeated_sample(
    truth: np.ndarray, score: np.ndarray, counts: np.ndarray
) -> None:
    """Also against scikit-learn, with its weights and on the repeated rows."""
    flags = score >= 0.25
    statistic = intervals.label_figures(truth[:, None], score[:, None], flags[:, None])
    precision, recall, f1, ap = statistic(counts[None].astype(float))[0, :, 0]
    rows = np.repeat(np.arange(20), counts)
    rows = rows[truth[rows] >= 0]
    if not truth[rows].sum():
        assert np.isnan([recall, f1, ap]).all()
        return
    assert ap == pytest.approx(metrics.average_precision(truth[rows], score[rows]), abs=1e-9)
    held = truth >= 0
    assert ap == pytest.approx(average_precision_score(truth[held], score[held], sample_weight=counts[held]), abs=1e-9)
    expected = precision_recall_fscore_support(truth[rows], flags[rows], average="binary", zero_division=np.nan)[:3]
    assert [precision, recall, f1] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_all_resamples_equal_those_drawn_the_plain_way() -> None:
    """Label by label and for the macro averages, against the metrics of the repeated rows."""
    truth, scores, groups = random_split(1)
    flags = scores >= 0.5
    values = intervals.resample(intervals.label_figures(truth, scores, flags), groups, resamples=40, seed=7)
    assert values is not None and values.shape == (40, 4, 4)
    means = intervals.macro_of(values)
    for index, rows in enumerate(repeated(groups, 7, 40)):
        table = metrics.per_category(truth[rows], scores[rows], [0.5] * 4, list("abcd"))
        expected = [[row[key] for row in table.values()] for key in intervals.FIGURES]
        assert values[index] == pytest.approx(np.array(expected, dtype=float), abs=1e-9, nan_ok=True)
        macro = metrics.macro(table, list("abcd"))
        assert means[index] == pytest.approx([macro[key] for key in intervals.FIGURES], abs=1e-9)


def test_three_groups_have_the_ten_samples_they_can_have() -> None:
    """Each computed once, drawn as often as chance has it: all the same group in 3 of 27 draws, each once in 6."""
    asked = []

    def statistic(weights: np.ndarray) -> np.ndarray:
        asked.append(len(weights))
        return weights

    values = intervals.resample(statistic, GROUPS)
    assert values is not None and values.shape == (1000, 4) and sum(asked) == 10
    possible = {draw for draw in itertools.product(range(4), repeat=3) if sum(draw) == 3}
    assert {(int(w[0]), int(w[2]), int(w[3])) for w in values} == possible
    assert (values[:, 0] == values[:, 1]).all(), "a group is drawn whole"
    assert np.mean((values[:, [0, 2, 3]] == 1).all(axis=1)) == pytest.approx(6 / 27, abs=0.05)
    assert np.mean((values == 3).any(axis=1)) == pytest.approx(3 / 27, abs=0.05)


def test_the_same_seed_gives_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in small portions, as a large split is worked through; another seed gives others."""
    truth, scores, groups = random_split(2)
    statistic = intervals.average_precisions(truth, scores)
    whole = intervals.resample(statistic, groups, resamples=50)
    assert whole is not None
    assert not np.array_equal(whole, intervals.resample(statistic, groups, resamples=50, seed=1), equal_nan=True)  # type: ignore[arg-type]
    monkeypatch.setattr(intervals, "_CELLS", 7 * len(groups))
    assert np.array_equal(whole, intervals.resample(statistic, groups, resamples=50), equal_nan=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(("groups", "resamples"), [(["ann"] * 4, 1000), (GROUPS, 0)])
def test_nothing_to_draw_from_gives_no_interval(groups: list[str], resamples: int) -> None:
    drawn = intervals.resample(intervals.average_precisions(TRUTH, SCORES), groups, resamples=resamples)
    assert drawn is None and intervals.interval(drawn) is None


def test_interval_by_hand() -> None:
    """Of 0 … 100 the middle 95 % runs from 2.5 to 97.5; a few undefined resamples are left out, many leave none."""
    values = np.arange(101.0)
    assert intervals.interval(values) == [2.5, 97.5]
    assert intervals.interval(np.append(values, np.full(5, np.nan))) == [2.5, 97.5]
    assert intervals.interval(np.append(values, np.full(6, np.nan))) is None


def test_groups_make_intervals_wider_than_texts_would() -> None:
    """Forty texts of four writers, all alike within a writer: as if there were four texts."""
    flags = np.repeat([True, True, True, False], 10)
    statistic = intervals.share(flags, np.ones(40, dtype=bool))
    widths = []
    for groups in ([str(index // 10) for index in range(40)], [str(index) for index in range(40)]):
        drawn = intervals.interval(intervals.resample(statistic, groups))
        assert drawn is not None and drawn[0] <= 0.75 <= drawn[1]
        widths.append(drawn[1] - drawn[0])
    assert widths[0] > 2 * widths[1]


def test_share_by_hand() -> None:
    """Among the last three the second counts: weights 1, 2, 1 make 2 of 4; among none it is undefined."""
    held, among = np.array([True, False, True, False]), np.array([False, True, True, True])
    assert intervals.share(held, among)(np.array([[5.0, 1, 2, 1]])) == pytest.approx([0.5])
    assert np.isnan(intervals.share(held, among)(np.array([[5.0, 0, 0, 0]]))).all()


def test_the_paired_bootstrap_equals_the_plain_one() -> None:
    """Two runs against one, on redrawn rows, each macro over the labels that have positives there."""
    truth, scores, groups = random_split(3)
    chance = np.random.default_rng(0)
    ours, theirs = np.stack([scores, scores**2 + 0.1]), np.round(chance.random((1, *scores.shape)), 1)

    def plain(rows: np.ndarray) -> float:
        def macro(run: np.ndarray) -> float:
            table = metrics.per_category(truth[rows], run[rows], [None] * 4, list("abcd"))
            return float(metrics.macro(table, list("abcd"))["average_precision"])

        return float(np.mean([macro(run) for run in ours]) - np.mean([macro(run) for run in theirs]))

    low, high = np.percentile([plain(rows) for rows in repeated(groups, 5, 60)], [2.5, 97.5])
    result = intervals.paired_bootstrap(truth, ours, theirs, groups, seed=5, resamples=60)
    assert result.pop("groups") == len(set(groups))
    expected = {"difference": plain(np.arange(len(truth))), "low": low, "high": high}
    assert result == pytest.approx(expected, abs=1e-9)


def test_pairing_makes_a_small_sure_difference_sure() -> None:
    """Flagging one text more in every group is a gain in every resample, however unlike the groups are."""
    groups = [str(index // 10) for index in range(60)]
    among = np.ones(60, dtype=bool)
    theirs = np.arange(60) % 10 < np.repeat([0, 8, 1, 7, 2, 5], 10)
    ours = theirs | (np.arange(60) % 10 == 9)
    shares = [intervals.share(flags, among) for flags in (ours, theirs)]
    result = intervals.paired_difference(shares[:1], shares[1:], groups)
    assert result == pytest.approx({"difference": 0.1, "low": 0.1, "high": 0.1, "groups": 6})
    alone = intervals.interval(intervals.resample(shares[0], groups))
    assert alone is not None and alone[1] - alone[0] > 0.3


def test_another_metric_and_what_is_undefined() -> None:
    """One group has a difference and no interval; without positives there is no difference either."""
    one = intervals.paired_bootstrap(TRUTH, SCORES[None], 1 - SCORES[None], ["ann"] * 4, seed=0)
    assert one == {"difference": pytest.approx(5 / 6 - 1 / 2), "low": None, "high": None, "groups": 1}
    nothing = intervals.paired_bootstrap(TRUTH * 0, SCORES[None], SCORES[None], GROUPS, seed=0)
    assert nothing == {"difference": None, "low": None, "high": None, "groups": 3}

    def recall_at_half(truth: np.ndarray, scores: np.ndarray) -> intervals.Statistic:
        return intervals.share(scores[:, 0] >= 0.5, truth[:, 0] == 1)

    other = intervals.paired_bootstrap(TRUTH, SCORES[None], SCORES[None] / 2, GROUPS, seed=0, metric=recall_at_half)
    assert other["difference"] == 1.0
