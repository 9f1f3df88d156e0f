"""training.similarity: near-identical texts, none missed."""

import random

from hypothesis import given
from hypothesis import strategies as st

from training.similarity import grams, near_duplicates


def test_case_accents_and_spaces_do_not_hide_a_copy() -> None:
    assert list(near_duplicates(["Été  à la plage", "ete a la PLAGE"], 0.9)) == [(0, 1, 1.0)]


def test_the_similarity_by_hand() -> None:
    """abcde and bcdef share nothing of length 5; abcdef holds both."""
    assert list(near_duplicates(["abcde", "abcdef", "bcdef"], 0.5)) == [(0, 1, 0.5), (1, 2, 0.5)]


@given(
    st.lists(st.text("ab ", min_size=1, max_size=20), max_size=12),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_the_prefix_filter_finds_what_comparing_all_pairs_finds(texts: list[str], threshold: float) -> None:
    sets = [grams(text) for text in texts]
    similar = [(i, j, len(sets[i] & b) / len(sets[i] | b)) for j, b in enumerate(sets) for i in range(j)]
    assert list(near_duplicates(texts, threshold)) == [pair for pair in similar if pair[2] >= threshold]


def test_one_changed_word_in_a_long_text_is_still_a_near_duplicate() -> None:
    words = [random.Random(1).choice(["maison", "jardin", "soleil", "chemin", "riviere"]) + str(i) for i in range(60)]
    changed = [*words[:30], "autre", *words[31:]]
    ((_, _, similarity),) = near_duplicates([" ".join(words), " ".join(changed)], 0.8)
    assert 0.8 <= similarity < 1
