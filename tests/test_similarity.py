"""training.similarity: near-identical texts, none missed."""

import random

from hypothesis import given
from hypothesis import strategies as st

from training.similarity import grams, jaccard, near_duplicates


def test_case_accents_and_spaces_do_not_hide_a_copy() -> None:
    assert list(near_duplicates(["Été  à la plage", "ete a la PLAGE"], 0.9)) == [(0, 1, 1.0)]


def test_jaccard_by_hand() -> None:
    """abcde and bcdef share nothing of length 5; abcdef holds both."""
    assert jaccard(grams("abcde"), grams("abcdef")) == 0.5
    assert jaccard(grams("abcde"), grams("bcdef")) == 0.0


@given(
    st.lists(st.text("ab ", min_size=1, max_size=20), max_size=12),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_the_prefix_filter_finds_what_comparing_all_pairs_finds(texts: list[str], threshold: float) -> None:
    sets = [grams(text) for text in texts]
    expected = {(i, j) for j in range(len(sets)) for i in range(j) if jaccard(sets[i], sets[j]) >= threshold}
    assert {(i, j) for i, j, _ in near_duplicates(texts, threshold)} == expected


def test_one_changed_word_in_a_long_text_is_still_a_near_duplicate() -> None:
    words = [random.Random(1).choice(["maison", "jardin", "soleil", "chemin", "riviere"]) + str(i) for i in range(60)]
    changed = [*words[:30], "autre", *words[31:]]
    ((_, _, similarity),) = near_duplicates([" ".join(words), " ".join(changed)], 0.8)
    assert 0.8 <= similarity < 1
