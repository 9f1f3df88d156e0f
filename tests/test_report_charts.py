"""training.report_charts and the figures of training.report_tables: drawn where the numbers say, by hand."""

from __future__ import annotations

import pytest

from training import report_charts, report_tables


def test_a_curve_is_drawn_where_its_figures_say() -> None:
    """A panel's square is 142 wide from (30, 20): recall 0.5 is 101 across, precision 1 is 20 down, 0.5 is 91."""
    row = {"support": 5, "examples": 20, "average_precision": 0.75, "precision": 0.4, "recall": 0.9}
    curve = {"precision": [1.0, 0.5], "recall": [0.5, 1.0], "thresholds": [0.8, 0.3]}
    figures = {"operating_point": "balanced", "labels": {"a": row}, "curves": {"a": curve}}
    points = {"a": {"wide": {"threshold": 0.2}, "balanced": {"threshold": 0.25}, "sure": {"threshold": 0.5}}}
    drawn = report_charts.precision_recall(figures, points, {"a": "A"})
    assert 'class="curve" d="M30.0 20.0L101.0 20.0L101.0 91.0L172.0 91.0"' in drawn
    assert 'class="share dashed" d="M30.0 126.5L172.0 126.5"' in drawn
    assert "wide: precision 0.50, recall 1.00; balanced: precision 0.40, recall 0.90; sure: precision 1.00" in drawn
    assert drawn.count("mark filled") == 1


def test_an_operating_point_that_nothing_passes_has_no_mark() -> None:
    row = {"support": 5, "examples": 20, "average_precision": 1.0, "precision": None, "recall": 0.0}
    curve = {"precision": [1.0], "recall": [1.0], "thresholds": [0.8]}
    figures = {"operating_point": "balanced", "labels": {"a": row}, "curves": {"a": curve}}
    points = {"a": {"balanced": {"threshold": 0.9}, "sure": {"threshold": 0.9}, "none": {"threshold": None}}}
    assert 'class="mark' not in report_charts.precision_recall(figures, points, {"a": "A"})


def test_reliability_stands_on_square_root_axes() -> None:
    """A score of 0.25 stands half way across; a rate of 0.64 at 0.8 of the height."""
    side = {"ece": 0.39, "bins": [{"score": 0.25, "observed": 0.64, "count": 3}]}
    drawn = report_charts.reliability({"a": {"before": side, "after": side}}, {"a": "A"})
    assert 'class="dot" cx="101.0" cy="48.4"' in drawn


def test_an_interval_is_drawn_to_scale() -> None:
    drawn = report_charts.whisker(0.5, [0.25, 1.0])
    assert 'd="M32.0 7.0H116.0"' in drawn and 'cx="60.0"' in drawn
    assert "reach" not in report_charts.whisker(0.5, None)
    assert report_charts.whisker(None, None) == ""


@pytest.mark.parametrize(("value", "shown"), [(-12.766, "−12.8"), (0.04, "0.0"), (-0.04, "0.0"), (5.1, "+5.1")])
def test_a_change_has_a_sign_unless_it_rounds_to_none(value: float, shown: str) -> None:
    assert report_tables.signed(value) == shown
