"""data_cards/: every card is complete and maps a file of its corpus's shape as its prose says. No data is needed."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tests.conftest import ROOT
from training.cards import Mapping, _check_mapping, _data_files, _Tolerable, open_source, read_header
from training.config import DataConfig
from training.data import load_corpus
from training.errors import UserError
from training.labels import Labels
from training.rows import Example

FOLDER = ROOT / "data_cards"
CARDS = sorted(path.parent.name for path in FOLDER.glob("*/README.md") if path.parent.name != "testimonies")
SECTIONS = [
    "What it is good for, and what not",
    "Where it is",
    "Licence",
    "Fields",
    "How its labels map, and why",
    "What stays unlabelled",
    "Known faults",
]
FOUR = {"racism", "sexism", "homophobia", "cyberbullying"}
THREE = FOUR - {"cyberbullying"}


def load(path: Path, labels: Labels) -> tuple[Example, ...]:
    return load_corpus([str(path)], labels, DataConfig(), trainable=False).examples


def write(folder: Path, header: str, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\n{header}\n---\nInvented.\n", encoding="utf-8")
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return folder


def prompt(text: str, **means: float) -> str:
    scales = [
        "Toxicity",
        "IdentityAttack",
        "Bias",
        "Microaggression",
        "Violence",
        "SelfHarm",
        "Insult",
        "SexualContent",
    ]
    return json.dumps({"Prompt": text, "Locale": "FR", "PromptAnnotations": dict.fromkeys(scales, 1.0) | means})


# A few invented rows in each corpus's own columns, and what the card must make of them: text → positive, known.
Expected = dict[str, tuple[set[str], set[str]]]
SHAPES: dict[str, tuple[dict[str, str], Expected]] = {
    "mlma_fr": (
        {
            "fr_dataset.csv": """HITId,tweet,sentiment,directness,annotator_sentiment,target,group
1,contre une origine,hateful_offensive,direct,anger,origin,arabs
2,contre un parti,offensive,direct,anger,origin,left_wing_people
3,contre une femme,abusive,direct,anger,gender,women
4,contre un couple,hateful,direct,anger,sexual_orientation,gay
5,contre quelqu'un,abusive,direct,shock,other,individual
6,rien de spécial,normal,direct,indifference,origin,arabs
7,avis partagés,abusive_normal,direct,indifference,origin,arabs
8,un peu sec,disrespectful,direct,indifference,origin,arabs
9,cible et groupe se contredisent,offensive,direct,shock,other,women
10,motif douteux,offensive,direct,shock,origin,special_needs
"""
        },
        {
            "contre une origine": ({"racism"}, THREE),
            "contre un parti": (set(), THREE),
            "contre une femme": ({"sexism"}, THREE),
            "contre un couple": ({"homophobia"}, THREE),
            "contre quelqu'un": ({"cyberbullying"}, FOUR),
            "rien de spécial": (set(), FOUR),
            "cible et groupe se contredisent": (set(), {"racism", "homophobia"}),
            "motif douteux": (set(), {"sexism", "homophobia"}),
        },
    ),
    "ftr": (
        {"FTR_new_labels.csv": "id,tweet,label\na1,un tweet visé,1\na2,un autre tweet,0\na3,abîm\ufffd en route,1\n"},
        {"un tweet visé": ({"racism"}, {"racism"}), "un autre tweet": (set(), {"racism"})},
    ),
    "jigsaw_fr": (
        {
            "subset_jigsaw.csv": """msg_id,toxic,severe_toxic,obscene,threat,insult,identity_hate,content
1,1,0,0,0,1,0,une insulte
2,1,0,0,1,0,1,une menace contre un groupe
3,1,0,1,0,0,0,un juron en l'air
4,0,0,0,0,0,0,merci pour cette page
"""
        },
        {
            "une insulte": ({"cyberbullying"}, FOUR),
            "une menace contre un groupe": ({"cyberbullying"}, {"cyberbullying"}),
            "un juron en l'air": (set(), THREE),
            "merci pour cette page": (set(), FOUR),
        },
    ),
    "cyberagression_ado": (
        {
            "cyberagression_ado.csv": """ID,TIME,NAME,TEXT,ROLE,HATE,TARGET,VERBAL_ABUSE,INTENTION,CONTEXT,SCENARIO
0,[10:00:00],<A>,tu es nul,bully,OAG,victim,NCG,ATK,NULL,s1
1,[10:00:01],<B>,laisse-moi,victim,NAG,NULL,NULL,DFN,ATK,s1
2,[10:00:02],<C>,on mange où,bully_support,NAG,NULL,NULL,OTH,NULL,s1
3,[10:00:03],<C>,quel talent,bully_support,CAG,victim,DNG,ATK,NULL,s1
0,[10:00:00],<D>,tu es nul,bully,OAG,victim,NCG,ATK,NULL,s2
1,[10:00:09],<E>,toi aussi,victim,OAG,bully,NCG,DFN,ATK,s2
"""
        },
        {
            "tu es nul": ({"cyberbullying"}, {"cyberbullying"}),
            "on mange où": (set(), {"cyberbullying"}),
            "toi aussi": ({"cyberbullying"}, {"cyberbullying"}),
        },
    ),
    "toxifrench": (
        {
            "train_dataset.csv": "content;literal_conclusion_annotator;CoT_explication\n"
            "quelle pluie;non;…\nun commentaire jugé toxique;oui;…\ndans les deux fichiers;non;…\n",
            "test_dataset.csv": "content;literal_conclusion_annotator\ndans les deux fichiers;non\n",
        },
        {"quelle pluie": (set(), FOUR), "dans les deux fichiers": (set(), FOUR)},
    ),
    "hatecheck_fr": (
        {
            "hatecheck_cases_final_french.csv": """mhc_case_id,functionality,test_case,label_gold,target_ident,\
disagreement_in_case
french-1,derog_neg_emote_h,phrase contre un groupe,hateful,Muslims,False
french-2,derog_neg_emote_h,phrase contre un genre,hateful,women,False
french-3,derog_neg_emote_h,phrase contre une identité,hateful,trans people,False
french-4,derog_neg_emote_h,phrase contre un handicap,hateful,disabled people,False
french-5,ident_pos_nh,phrase aimable,non-hateful,women,False
french-6,profanity_nh,phrase sans groupe,non-hateful,,False
french-7,slur_h,phrase haineuse sans groupe,hateful,,False
french-8,counter_quote_nh,phrase qui cite,non-hateful,women,False
french-9,ident_pos_nh,phrase disputée,non-hateful,women,True
"""
        },
        {
            "phrase contre un groupe": ({"racism"}, THREE),
            "phrase contre un genre": ({"sexism"}, THREE),
            "phrase contre une identité": ({"homophobia"}, THREE),
            "phrase contre un handicap": (set(), THREE),
            "phrase aimable": (set(), THREE),
            "phrase sans groupe": (set(), THREE),
        },
    ),
    "rtp_lx_fr": (
        {
            "RTP_LX_FR.jsonl": "\n".join(
                [
                    prompt("il fait beau et"),
                    prompt("un début insultant", Insult=2.3333333333333335, Toxicity=4.0),
                    prompt("un début de cliché", Bias=1.3333333333333333),
                    prompt("les deux à la fois", IdentityAttack=3.0, Violence=3.0),
                ]
            )
        },
        {
            "il fait beau et": (set(), FOUR),
            "un début insultant": (set(), THREE),
            "un début de cliché": (set(), {"cyberbullying"}),
        },
    ),
    "edos": (
        {
            "edos_labelled.csv": """rewire_id,text,label_sexist,label_category,label_vector,split
e-1,an invented stereotype,sexist,3. animosity,3.2 immutable gender differences and gender stereotypes,train
e-2,a word about games,not sexist,none,none,dev
e-3,a word about trains,not sexist,none,none,test
"""
        },
        {
            "an invented stereotype": ({"sexism"}, {"sexism"}),
            "a word about games": (set(), {"sexism"}),
            "a word about trains": (set(), {"sexism"}),
        },
    ),
}


@pytest.fixture
def placed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a card with a tiny invented file of its corpus's shape in place."""
    folder = tmp_path / request.param
    folder.mkdir()
    shutil.copy(FOLDER / request.param / "README.md", folder)
    for name, content in SHAPES[request.param][0].items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def test_every_card_has_a_shape_to_be_tried_on() -> None:
    assert sorted(SHAPES) == CARDS


@pytest.mark.parametrize("name", CARDS)
def test_the_header_is_valid_without_the_data(name: str, labels: Labels) -> None:
    readme = FOLDER / name / "README.md"
    header = read_header(readme)
    mapping = Mapping.model_validate(header["vigie"])
    _check_mapping(readme, mapping, labels)
    assert _data_files(readme, header)
    assert mapping.annotates
    assert header["license"] and header["language"] and header["pretty_name"]


@pytest.mark.parametrize("name", CARDS)
def test_the_prose_has_its_sections_the_limits_first(name: str) -> None:
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    for section in text.split("\n## ")[1:]:
        assert len(section.split()) > 10, section.splitlines()[0]
    assert "Not good" in text.split("\n## ")[1]
    assert "https://" in text.split("\n## ")[2]


@pytest.mark.parametrize("name", CARDS)
def test_a_missing_file_is_told_with_how_to_get_it(name: str, tmp_path: Path, labels: Labels) -> None:
    shutil.copy(FOLDER / name / "README.md", tmp_path)
    with pytest.raises(UserError, match=r"not in place; .*https://"):
        open_source(tmp_path, labels)


@pytest.mark.parametrize("placed", CARDS, indirect=True)
def test_a_file_of_the_corpus_gets_the_expected_labels(placed: Path, labels: Labels) -> None:
    examples = load(placed, labels)
    expected = SHAPES[placed.name][1]
    assert {example.text: (set(example.positive), set(example.known)) for example in examples} == expected
    assert len(examples) == len(expected)


@pytest.mark.parametrize("placed", ["hatecheck_fr", "rtp_lx_fr"], indirect=True)
def test_what_is_for_evaluation_only_is_never_trained_on(placed: Path, labels: Labels) -> None:
    assert {example.split for example in load(placed, labels)} == {"test"}


@pytest.mark.parametrize("placed", ["edos"], indirect=True)
def test_a_corpus_keeps_its_own_splits(placed: Path, labels: Labels) -> None:
    assert {example.id: example.split for example in load(placed, labels)} == {
        "e-1": "train",
        "e-2": "validation",
        "e-3": "test",
    }


@pytest.mark.parametrize("placed", ["toxifrench"], indirect=True)
def test_of_a_text_in_two_splits_the_one_in_test_stays(placed: Path, labels: Labels) -> None:
    (example,) = [example for example in load(placed, labels) if example.text == "dans les deux fichiers"]
    assert example.split == "test"


@pytest.mark.parametrize("placed", ["cyberagression_ado"], indirect=True)
def test_a_conversation_stays_in_one_split(placed: Path, labels: Labels) -> None:
    assert {example.group for example in load(placed, labels)} == {"s1", "s2"}


@pytest.mark.parametrize("placed", ["toxifrench"], indirect=True)
def test_an_answer_that_was_not_foreseen_is_refused(placed: Path, labels: Labels) -> None:
    """Taken for "not toxic", it would make negatives of hateful texts."""
    path = placed / "train_dataset.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(";oui;", ";OUI;"), encoding="utf-8")
    with pytest.raises(UserError, match=r"csv:3: column 'literal_conclusion_annotator': 'OUI' is not among"):
        load(placed, labels)


def test_the_example_of_the_readme_does_what_the_readme_says(tmp_path: Path, labels: Labels) -> None:
    (example,) = re.findall(r"```yaml\n---\n(.*?)\n---\n```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.S)
    posts = """number,post,tone,aim,ground,agreement,language
1,le premier,insult+threat,person,none,0.9,fr
2,le second,neutral,person,none,0.9,fr
3,le suivant,unclear,person,none,0.9,fr
4,le quatrième,insult,group,origin,0.9,fr
5,le cinquième,insult,group,origin,0.3,fr
6,the sixth,insult,group,origin,0.9,en
"""
    examples = load(write(tmp_path / "posts", example, posts__csv=posts), labels)
    assert {example.id: set(example.positive) for example in examples} == {
        "1": {"cyberbullying"},
        "2": set(),
        "4": {"racism"},
        "5": set(),
    }


@pytest.mark.parametrize("placed", ["toxifrench"], indirect=True)
def test_the_false_alarms_are_counted_as_the_readme_shows(
    placed: Path, artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace("data_cards/toxifrench", str(placed)).replace("artifacts/vigie-compact", str(artifact))
    exec(compile(code, "README.md", "exec"), {})
    assert re.fullmatch(r"(\w+: [01] false alarms in 1 texts\n){4}", capsys.readouterr().out)


def test_the_readme_explains_every_key_and_every_kind() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for word in [*Mapping.model_fields, *get_args(_Tolerable)]:
        assert f"\n| `{word}` |" in text, word
    for name in CARDS:
        assert f"({name}/README.md)" in text


def test_the_template_loads_with_texts_of_one_s_own(tmp_path: Path, labels: Labels) -> None:
    shutil.copy(FOLDER / "TEMPLATE.md", tmp_path / "README.md")
    row = {
        "id": "1",
        "text": "Une phrase inventée",
        "labels": ["racism"],
        "minor_involved": False,
        "voice": "testimony",
    }
    row |= {"group": "7", "register": "oral", "source": "form", "note": ""}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (example,) = load(tmp_path, labels)
    assert example.positive == {"racism", "testimony"}


def test_the_guide_knows_every_label_and_the_help_lines(labels: Labels) -> None:
    guide = (FOLDER / "GUIDE_ANNOTATION.md").read_text(encoding="utf-8")
    for label in (*labels.categories, *labels.context, *labels.voices):
        assert f"`{label.id}`" in guide and label.name in guide, label.id
    for number in ("3018", "3919", "119", "112"):
        assert number in guide


def test_the_table_of_the_guide_can_be_trained_on(tmp_path: Path, labels: Labels) -> None:
    (table,) = re.findall(r"```csv\n(.*?)```", (FOLDER / "GUIDE_ANNOTATION.md").read_text(encoding="utf-8"), re.DOTALL)
    header = "configs: [{config_name: default, data_files: rows.csv}]\nvigie: {metadata: [note]}"
    first, second, third = load(write(tmp_path, header, rows__csv=table), labels)
    assert first.positive == {"sexual_extortion", "direct"}
    assert second.positive == {"image_solicitation", "minor_involved", "testimony"}
    assert not third.positive


HEADER = """configs: [{config_name: default, data_files: [%s]}]
vigie:
  columns: {text: text, id: number}
  annotates: [racism]
  rules: [{label: racism, when: {mark: [x]}}]
  %s"""
ONE_FILE = "{path: rows.csv}"


def card(folder: Path, rows: str, extra: str = "", files: str = ONE_FILE, **more: str) -> Path:
    return write(folder, HEADER % (files, extra), rows__csv="number,text,mark,score,group\n" + rows, **more)


FAULTS = {
    "broken": "1,bonjour\n2,un texte entier,x,1,\n",
    "empty": "1,,x,1,\n2,un texte entier,x,1,\n",
    "mojibake": "1,dÃ©jÃ  vu,x,1,\n2,un texte entier,x,1,\n",
    "control_characters": "1,a\x07b,x,1,\n2,un texte entier,x,1,\n",
    "contradictions": "1,le même texte,x,1,\n3,le même texte,,1,\n2,un texte entier,x,1,\n",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_refused_unless_the_card_tolerates_it(
    kind: str, tmp_path: Path, labels: Labels, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="1 problem in the data"):
        load(card(tmp_path, FAULTS[kind]), labels)
    others = [other for other in get_args(_Tolerable) if other != kind]
    with pytest.raises(UserError, match="1 problem in the data"):
        load(card(tmp_path, FAULTS[kind], f"tolerate: [{', '.join(others)}]"), labels)
    with caplog.at_level(logging.WARNING):
        examples = load(card(tmp_path, FAULTS[kind], f"tolerate: [{kind}]"), labels)
    assert [example.id for example in examples] == ["2"]
    left_out = f"2 rows that the card tolerates: 2 {kind}"
    if kind != "contradictions":
        left_out = f"1 row that the card tolerates: 1 {kind}"
    assert caplog.messages[-1].endswith(f"left out {left_out}")


def test_copies_are_left_out_across_splits_test_first(tmp_path: Path, labels: Labels) -> None:
    long = "samedi nous allons tous ensemble voir la grande parade des géants dans les rues de la vieille ville"
    train = f"1,Le même texte,x,1,\n2,{long},x,1,\n3,un texte à part,,1,\n"
    test = f"number,text,mark,score,group\n4,le MÊME texte,x,1,\n5,{long} !,x,1,\n"
    files = "{split: train, path: rows.csv}, {split: test, path: test.csv}"

    def loaded(tolerate: str) -> tuple[list[str], dict[str, int]]:
        folder = card(tmp_path, train, f"tolerate: [{tolerate}]", files, test__csv=test)
        corpus = load_corpus([str(folder)], labels, DataConfig(), trainable=False)
        return sorted(example.id for example in corpus.examples), corpus.sources[0].left_out

    with pytest.raises(UserError, match="2 problems"):
        loaded("")
    with pytest.raises(UserError, match="near-identical"):
        loaded("duplicates")
    assert loaded("near_duplicates") == (["3", "4", "5"], {"near_duplicates": 2})
    assert loaded("duplicates, near_duplicates") == (["3", "4", "5"], {"duplicates": 1, "near_duplicates": 1})


def test_near_copies_labelled_alike_do_not_hide_a_contradiction(tmp_path: Path, labels: Labels) -> None:
    rows = "1,le même texte,x,1,\n2,le même texte,,1,\n"
    with pytest.raises(UserError, match="labels: differ"):
        load(card(tmp_path, rows, "tolerate: [duplicates, near_duplicates]"), labels)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("skip: {score: ['>=2']}", ["1", "3"]),
        ("skip: {score: ['>2']}", ["1", "2", "3"]),
        ("skip: {score: ['<1.5']}", ["2", "4"]),
        ("skip: {score: ['<=1', '> 3']}", ["2", "3"]),
    ],
)
def test_conditions_compare_numbers(tmp_path: Path, labels: Labels, extra: str, expected: list[str]) -> None:
    rows = "1,un,x,-0.5,\n2,deux,x,2.0,\n3,trois,x,1.25,\n4,quatre,x,10,\n"
    assert [example.id for example in load(card(tmp_path, rows, extra), labels)] == expected


@pytest.mark.parametrize("value", ["", "beaucoup", "nan"])
def test_a_comparison_with_no_number_is_told_not_passed_over(tmp_path: Path, labels: Labels, value: str) -> None:
    with pytest.raises(UserError, match=r"csv:2 .*column 'score': must hold a number"):
        load(card(tmp_path, f"1,un,x,{value},\n", "skip: {score: ['>=2']}"), labels)


def test_a_column_that_excludes_must_be_there_too(tmp_path: Path, labels: Labels) -> None:
    """A misspelt `unless` would otherwise exclude nothing, in silence."""
    extra = "undecided: [{labels: [racism], when: {mark: [x]}, unless: {scor: ['1']}}]"
    with pytest.raises(UserError, match="column 'scor' is missing"):
        load(card(tmp_path, "1,un,x,1,\n", extra), labels)


def test_a_combination_needs_all_its_values(tmp_path: Path, labels: Labels) -> None:
    rows = "1,un,x,1,\n2,deux,x+y,1,\n3,trois,y+z+x,1,\n4,quatre,y,1,\n"
    folder = card(tmp_path, rows, "multi_value: {mark: '+'}\n  skip: {mark: [x+y]}")
    assert [example.id for example in load(folder, labels)] == ["1", "4"]


def test_a_foreign_column_with_one_of_our_names_is_not_ours(tmp_path: Path, labels: Labels) -> None:
    """Corpora name their target `group`; taken for our group it would tie unrelated rows to one split."""
    folder = card(tmp_path, "1,un,x,1,femmes\n")
    assert load(folder, labels)[0].group is None
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("id: number", "id: number, group: group"))
    assert load(folder, labels)[0].group == "femmes"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("tolerate: [typos]", r"vigie\.tolerate\.0"),
        ("splits: {dev: dev}", r"vigie\.splits\.dev"),
        ("undecided: [{labels: [sexism], when: {mark: [x]}}]", r"lacks 'sexism', which vigie\.undecided names"),
        ("undecided: [{labels: [racims], when: {mark: [x]}}]", "unknown label 'racims'"),
        ("skip: {score: ['>=two']}", "'>=two' compares with no number"),
        ("skip: {score: [1]}", r"vigie\.skip\.score\.0"),
    ],
)
def test_a_wrong_key_of_the_card_is_told(tmp_path: Path, labels: Labels, extra: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        open_source(card(tmp_path, "1,un,x,1,\n", extra), labels)


def test_a_value_that_could_be_a_text_is_not_quoted(tmp_path: Path, labels: Labels) -> None:
    slipped: dict[str, Any] = {"mark": "un texte glissé dans une autre colonne"}
    folder = card(tmp_path, f"1,un,{slipped['mark']},1,\n", yaml.safe_dump({"values": {"mark": ["x"]}}).strip())
    with pytest.raises(UserError) as caught:
        load(folder, labels)
    assert "vigie.values" in str(caught.value) and slipped["mark"] not in str(caught.value)
