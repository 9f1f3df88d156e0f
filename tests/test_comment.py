"""serving.protocols.comment: what is read of a comment in HTML, and where its parts stand in the original."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.protocols.comment import Comment

MARKUP = [
    "<",
    ">",
    "</",
    "<!--",
    "-->",
    "<b",
    "<p>",
    "</p>",
    "=",
    "'",
    '"',
    "<script>",
    "</script>",
    "<![CDATA[",
    "/",
    "?",
]
ENTITIES = ["&", "&#233;", "&eacute", "&notit;", ";", "&#1114112;"]
SOUP = st.lists(st.sampled_from([*MARKUP, *ENTITIES, *"aé😀/? \n\ud83d", ". ", "! », "]), max_size=40).map("".join)
WORDS = st.text("abcé 😀.!?\n", max_size=8)
DOCUMENT = st.recursive(
    WORDS,
    lambda inner: st.builds(
        lambda tag, parts: f"<{tag} title='a &gt; b'>{''.join(parts)}</{tag}>",
        st.sampled_from(["b", "em", "span", "a"]),
        st.lists(inner | st.sampled_from(["&amp;", "&#233;", "&#x1F600;", "<!-- c -->", "<br>"]), max_size=4),
    ),
    max_leaves=8,
)


def units(original: str, begin: int, end: int) -> str:
    """The part between two places in UTF-16 code units."""
    return original.encode("utf-16-le", "surrogatepass")[2 * begin : 2 * end].decode("utf-16-le", "surrogatepass")


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>un</p><p>deux</p>", "\nun\n\ndeux\n"),
        ("un<br/>deux", "un\ndeux"),
        ("gro<b></b>s <i>m</i>ot", "gros mot"),
        ("<script>x</script><STYLE a>y</style >z", "z"),
        # A ">" in quotes ends no tag, and a quote that is no value's begins nothing.
        ('<a title="a>b">lien</a>', "lien"),
        ('<b "> vu <b ">', " vu "),
        ('<b =">vu">', 'vu">'),
        # What browsers take for comments, and where they end.
        ("a<!-- > <b> -->b", "ab"),
        ("a<!-->vu-->", "avu-->"),
        ("a<!-- x --!>b", "ab"),
        ("<!doctype html><?php echo ?></ x></>a", "a"),
        ("a<![CDATA[b]]>c", "ac"),
        # No tag begins without a letter.
        ("i <3 u, 1 < 2 > 0", "i <3 u, 1 < 2 > 0"),
        # Left open at the end: somebody may show it.
        ("a <b et la suite", "a <b et la suite"),
        ("a <!-- et la suite &amp;", "a <!-- et la suite &"),
        ("a <script>et la suite", "a <script>et la suite"),
        ("&eacute;t&eacute &notit; &#x1F600;&#0000000000000000103; &rien; &", "été ¬it; 😀g &rien; &"),
        ("&#" + "0" * 6000 + "103;", "g"),
        ("&#" + "1" * 6000 + ";", "&#" + "1" * 6000 + ";"),
    ],
)
def test_html_is_read_as_a_browser_shows_it(html: str, text: str) -> None:
    assert Comment(html, is_html=True).text == text


@pytest.mark.parametrize("part", ["<a ", "<a b='", "<!--", "<script>", "<a \"'", "<b =", "<a/"])
def test_what_is_left_open_is_read_to_its_end(part: str) -> None:
    """As much as a comment may hold: a parser that began anew at each "<" would take seconds for some of these."""
    html = "z " + part * (20_000 // len(part)) + "menace"
    assert Comment(html, is_html=True).text == html


@given(DOCUMENT)
def test_sound_html_reads_as_the_standard_librarys_parser_reads_it(html: str) -> None:
    class Reference(HTMLParser):
        text = ""

        def handle_data(self, data: str) -> None:
            self.text += data

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.text += "\n" if tag == "br" else ""

    reference = Reference()
    reference.feed(html)
    reference.close()
    assert Comment(html, is_html=True).text == reference.text


@given(SOUP, st.booleans(), st.integers(0, 5))
def test_sentences_stand_where_they_say(original: str, is_html: bool, most: int) -> None:
    """In order, apart from each other, within the comment, no more than asked; and without markup, to the letter."""
    comment = Comment(original, is_html=is_html)
    spans = comment.sentences(most)
    places = [place for span in spans for place in (span.begin, span.end)]
    assert places == sorted(places) and all(span.begin < span.end for span in spans)
    assert not places or (places[0] >= 0 and places[-1] <= comment.whole.end)
    assert len(spans) <= max(1, most)
    assert "".join("".join(span.text.split()) for span in spans) == "".join(comment.text.split())
    if not is_html:
        assert [units(original, span.begin, span.end) for span in spans] == [span.text for span in spans]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Tu viens ? Oui !", ["Tu viens ?", "Oui !"]),
        ("« Envoie ! » Il menace… Voilà", ["« Envoie ! »", "Il menace…", "Voilà"]),
        ("un\n\n deux\ntrois", ["un", "deux", "trois"]),
        ("3.14 et fin.de phrase", ["3.14 et fin.de phrase"]),
        ("Quoi ?!... Rien", ["Quoi ?!...", "Rien"]),
        (" \n ", []),
    ],
)
def test_sentences_end_as_in_french(text: str, sentences: list[str]) -> None:
    assert [span.text for span in Comment(text).sentences(9)] == sentences


def test_an_entity_is_inside_its_span() -> None:
    html = "Oui. <b>T&eacute;l&eacute;</b> &#128512; fin"
    spans = Comment(html, is_html=True).sentences(9)
    assert [units(html, span.begin, span.end) for span in spans] == ["Oui.", "T&eacute;l&eacute;</b> &#128512; fin"]
    assert Comment("😀&amp;", is_html=True).whole.end == 7
