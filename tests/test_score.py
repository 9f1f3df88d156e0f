"""`python -m serving.score` as a process: equal to the Classifier, in order, resumable, silent about the texts."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from serving import Classifier
from serving.bulk.progress import Progress
from serving.score import INTERRUPTED, SCORED, SOME_REJECTED, USAGE, main
from tests.conftest import ROOT, corpus_rows

CANARY = "perroquet-bleu-7413"
LIMIT_S = 60
SETTLED = 1e-6 + 1e-9
"""Scores are rounded to six digits, and the last one may fall either way with a text's companions in the batch."""


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact, precision="fp32")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Some chunks, of which the first takes longer than the next; each text with the canary."""
    words = [row["text"] for row in corpus_rows(600, seed=3)]
    return [f"{text} {CANARY}" * (6 if index < 90 else 1) for index, text in enumerate(words)]


def command(artifact: Path, *arguments: str | Path) -> list[str]:
    options = ["--artifact", str(artifact), "--precision", "fp32"]
    return [sys.executable, "-m", "serving.score", *map(str, arguments), *options]


def score(artifact: Path, *arguments: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(artifact, *arguments), cwd=ROOT, input=given, capture_output=True, timeout=LIMIT_S, check=False
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows with the same keys, in the format that the name tells."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter=";")
            writer.writeheader()
            writer.writerows(rows)
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_scores(found: list[dict[str, Any]], texts: list[str], classifier: Classifier) -> None:
    """Flat rows hold what `predict` answers; CSV holds it as strings."""
    assert len(found) == len(texts)
    for row, answer in zip(found, classifier.predict(texts), strict=True):
        scores = {label: value["score"] for label, value in answer["categories"].items()}
        scores |= {"minor_involved": answer["minor_involved"]["score"], **answer["voice"]["scores"]}
        assert {label: float(row[label]) for label in scores} == pytest.approx(scores, abs=SETTLED)
        flagged = row["flagged"].split("|") if isinstance(row["flagged"], str) else row["flagged"]
        expected = [label for label, value in answer["categories"].items() if value["flagged"]]
        assert [label for label in flagged if label] == expected
        assert (row["voice"] or None, row["route"]) == (answer["voice"]["label"], answer["route"])
        assert row["model_version"] == classifier.artifact.version


def test_rows_come_in_order_with_the_scores_of_the_classifier(
    artifact: Path, classifier: Classifier, texts: list[str], tmp_path: Path
) -> None:
    """From two processes; and once it is complete, nothing but OUT is left beside IN."""
    given = write(tmp_path / "in.jsonl", [{"id": f"r{index}", "text": text} for index, text in enumerate(texts)])
    result = score(artifact, given, tmp_path / "out.jsonl", "--workers", "2")
    assert result.returncode == SCORED, result.stderr
    found = read(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == [f"r{index}" for index in range(len(texts))]
    check_scores(found, texts, classifier)
    assert len({row["racism"] for row in found}) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("600 rows, 0 rejected, ") and "; flagged: " in line and "; route: " in line


@pytest.mark.parametrize(
    ("source", "target"), [("in.csv", "out.parquet"), ("in.parquet", "out.csv"), ("in.jsonl.gz", "out.jsonl")]
)
def test_every_format_is_read_and_written(
    artifact: Path, classifier: Classifier, texts: list[str], tmp_path: Path, source: str, target: str
) -> None:
    rows = [{"ref": index + 10, "message": text} for index, text in enumerate(texts[:20])]
    given = write(tmp_path / source, rows)
    result = score(artifact, given, tmp_path / target, "--text-column", "message", "--id-column", "ref")
    assert result.returncode == SCORED, result.stderr
    found = read(tmp_path / target)
    check_scores(found, texts[:20], classifier)
    # CSV has no numbers; elsewhere an id stays what it was, except that CSV input only has strings.
    kind = str if "csv" in source + target else int
    assert [row["id"] for row in found] == [kind(index + 10) for index in range(20)]


def test_row_numbers_stand_in_for_ids_and_are_numbers_in_parquet(artifact: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "in.csv", [{"text": "un", "x": ""}, {"text": "deux", "x": ""}])
    assert score(artifact, given, tmp_path / "out.parquet", "--workers", "1").returncode == SCORED
    assert [row["id"] for row in read(tmp_path / "out.parquet")] == [1, 2]


def test_a_pipe_is_answered_as_predict_answers(artifact: Path, classifier: Classifier, texts: list[str]) -> None:
    given = "".join(json.dumps({"text": text}) + "\n" for text in texts[:9]).encode()
    options = ["--full", "--workers", "1", "--operating-point", "recall_first"]
    result = score(artifact, "-", "-", *options, given=b"{\n" + given)
    assert result.returncode == SOME_REJECTED, result.stderr
    reject = {"row": 1, "line": 1, "reason": "broken JSON at character 2 of the line"}
    assert json.loads(result.stderr.splitlines()[0]) == reject
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row.pop("id") for row in found] == list(range(2, 11))
    model = {"name": classifier.artifact.name, "version": classifier.artifact.version}
    assert all(row.pop("model") == model for row in found)
    for row, answer in zip(found, classifier.predict(texts[:9], operating_point="recall_first"), strict=True):
        for label, value in answer["categories"].items():
            assert row["categories"][label]["score"] == pytest.approx(value["score"], abs=SETTLED)
            assert row["categories"][label]["flagged"] == value["flagged"]
        assert row.keys() == answer.keys() and row["voice"].keys() == answer["voice"].keys()


def test_bad_rows_go_aside_with_their_lines_and_no_text_goes_anywhere(artifact: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": "a", "text": f"un {CANARY}"}).encode(),
        b"",
        f'{{"text": "{CANARY}'.encode(),
        json.dumps({"id": CANARY, "text": [CANARY]}).encode(),
        f'{{"text": "{CANARY} caf'.encode() + b'\xe9"}',
        json.dumps({"text": CANARY * 30}).encode(),
        json.dumps({"id": "b", "text": "demi \ud83d paire"}).encode(),
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    options = ["--workers", "1", "--max-characters", "500", "--rejects", tmp_path / "aside.jsonl"]
    result = score(artifact, tmp_path / "in.jsonl", tmp_path / "out.csv", *options)
    assert result.returncode == SOME_REJECTED, result.stderr
    assert [row["id"] for row in read(tmp_path / "out.csv")] == ["a", "b"]
    rejects = read(tmp_path / "aside.jsonl")
    assert [(reject["row"], reject["line"]) for reject in rejects] == [(2, 3), (3, 4), (4, 5), (5, 6)]
    assert "570 characters; at most 500" in rejects[3]["reason"]
    assert b"6 rows, 4 rejected" in result.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.name != "in.jsonl")
    assert CANARY.encode() not in written + result.stderr + result.stdout


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of an exit with code 2, which is found before any process is started."""
    monkeypatch.setattr(sys, "argv", ["score", *map(str, arguments)])
    assert main() == USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@contextmanager
def begun(command: list[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process group of its own that has recorded its first rows; what is left of it is killed."""
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not output.with_name(f"{output.name}.progress.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT_S)


@pytest.fixture
def hears_sigint() -> Iterator[None]:
    """Whoever starts the tests in the background may have them, and what they start, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


LONG = 20_000
"""Rows of a run that is still at work long after its first record, whatever else the machine does meanwhile."""


@pytest.fixture(scope="module")
def long_run(artifact: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Some seconds of work with a bad row now and then; its output and its rejects when nothing interrupts it."""
    folder = tmp_path_factory.mktemp("long")
    rows = [{"id": index, "text": None if index % 97 == 5 else texts[index % 600]} for index in range(LONG)]
    given = write(folder / "in.jsonl", rows)
    assert score(artifact, given, folder / "whole.jsonl", "--workers", "1").returncode == SOME_REJECTED
    return given, folder / "whole.jsonl", folder / "whole.jsonl.rejects.jsonl"


@pytest.mark.usefixtures("hears_sigint")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    artifact: Path,
    long_run: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """The whole group is hit, as by Ctrl-C or the system; lines written after the last record are cut off again."""
    given, whole, rejects = long_run
    output = tmp_path / "out.jsonl"
    with begun(command(artifact, given, output, "--workers", "2"), output) as process:
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=LIMIT_S)
    assert not output.exists()
    record = json.loads((tmp_path / "out.jsonl.progress.json").read_text(encoding="utf-8"))
    with (tmp_path / "out.jsonl.partial").open("ab") as file:
        file.write(b'{"id": 1, "groo')
    assert 0 < record["state"]["place"]["rows"] < LONG
    if number is signal.SIGINT:
        assert process.returncode == INTERRUPTED
        assert said.decode().splitlines() == ["interrupted; --resume goes on where it stopped"]
    again = command(artifact, given, output)[3:]
    assert "--resume goes on, --overwrite" in fails(monkeypatch, capsys, *again)
    other = fails(monkeypatch, capsys, *again, "--resume", "--operating-point", "recall_first")
    assert "another --operating-point" in other
    result = score(artifact, given, output, "--workers", "2", "--resume")
    assert result.returncode == SOME_REJECTED, result.stderr
    assert output.read_bytes() == whole.read_bytes()
    assert (tmp_path / "out.jsonl.rejects.jsonl").read_bytes() == rejects.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.rejects.jsonl"]


@pytest.mark.usefixtures("hears_sigint")
def test_an_interrupt_whose_exception_is_lost_ends_the_run_all_the_same(
    artifact: Path,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it is lost in a finaliser: Python drops what is raised there."""

    class Lossy(Progress):
        def update(self, *figures: Any) -> None:
            super().update(*figures)
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("serving.score.Progress", Lossy)
    given = write(tmp_path / "in.jsonl", [{"id": index, "text": text} for index, text in enumerate(texts[:50])])
    monkeypatch.setattr(sys, "argv", ["score", *command(artifact, given, tmp_path / "out.jsonl", "--workers", "1")[3:]])
    assert main() == INTERRUPTED
    assert "interrupted; --resume goes on where it stopped" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def _scorers(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the scoring processes in /proc")
def test_a_scoring_process_that_dies_ends_the_run_with_a_reason(
    artifact: Path, long_run: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    with begun(command(artifact, long_run[0], output, "--workers", "2"), output) as process:
        os.kill(_scorers(process.pid)[0], signal.SIGKILL)
        _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == INTERRUPTED
    (line,) = said.decode().splitlines()
    assert "ended by itself (exit code -9)" in line and "--resume" in line


PEAK = """\
import resource, sys
from serving.score import main
if __name__ == "__main__":
    print(main(), *(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""
# The peak of a process counts what its parent held when it was started, and pytest holds much: hence a shell between.
SHELL = ["sh", "-c", '"$@"; exit $?', "sh"]


def test_memory_does_not_grow_with_the_file(artifact: Path, texts: list[str], tmp_path: Path) -> None:
    """Ids of 20 kB, which are cheap to score, pass through every stage: 6 MB of them, then 24 MB."""
    peaks = []
    for count in (300, 1200):
        rows = [{"id": f"{index:020000}", "text": texts[index % 200][:40]} for index in range(count)]
        given = write(tmp_path / f"{count}.jsonl", rows)
        options = command(artifact, given, tmp_path / f"{count}.out.jsonl", "--workers", "1")[3:]
        measured = [*SHELL, sys.executable, "-c", PEAK, *options]
        result = subprocess.run(measured, cwd=ROOT, capture_output=True, timeout=LIMIT_S, check=True)
        code, reader, scorer = map(int, result.stdout.split())
        assert code == SCORED and len(read(tmp_path / f"{count}.out.jsonl")) == count
        peaks.append((reader + scorer) * (1 if sys.platform == "darwin" else 1024))
    assert peaks[1] - peaks[0] < 9e6, peaks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IN", "OUT", "--resume"], "OUT: exists already"),
        (["IN", "OUT"], "OUT: exists already; --overwrite"),
        (["IN", "IN"], "must be different files"),
        (["IN", "new.jsonl", "--rejects", "OUT"], "OUT: exists already"),
        (["-", "new.jsonl", "--resume"], "standard input cannot be read a second time"),
        (["IN", "-", "--resume"], "standard output cannot be taken back"),
        (["IN", "-", "--output-format", "parquet"], "cannot be written to standard output"),
        (["-", "new.jsonl", "--format", "parquet"], "cannot be read from standard input"),
        (["IN", "new.csv", "--full"], "only JSONL can hold"),
        (["IN", "new.txt"], "add --output-format with one of: jsonl, csv, parquet"),
        (["IN", "new.csv.gz"], "leave .gz away"),
        (["missing.jsonl", "new.jsonl"], "no such file"),
        (["IN", "/dev/null", "--output-format", "jsonl", "--overwrite"], "/dev/null: not a regular file"),
        (["IN", "new.jsonl", "--rejects", "."], ".: not a regular file"),
        (["IN", "nowhere/new.jsonl"], "nowhere: no such folder"),
        (["IN", "new.jsonl", "--text-column", "id"], "the texts cannot be the ids"),
        (["IN", "new.jsonl", "--operating-point", "best"], "one of: recall_first, balanced, precision_first"),
        (["IN", "new.jsonl", "--artifact", "nowhere"], "no artifact to serve"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_changes_nothing(
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIGIE_ARTIFACT", str(artifact))
    write(tmp_path / "IN", [{"text": CANARY}])
    (tmp_path / "OUT").write_text("kept", encoding="utf-8")
    formats = ["--format", "jsonl"] if "IN" in arguments else []
    formats += ["--output-format", "jsonl"] if arguments[1] in ("OUT", "IN") else []
    line = fails(monkeypatch, capsys, *arguments, *formats)
    assert message in line and CANARY not in line
    assert (tmp_path / "OUT").read_text(encoding="utf-8") == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["IN", "OUT"]


def test_without_pyarrow_one_line_says_what_to_install(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    given = write(tmp_path / "in.jsonl", [{"text": "un"}])
    assert 'pip install "vigie[bulk]"' in fails(monkeypatch, capsys, given, tmp_path / "out.parquet")


def test_an_input_that_changed_is_not_gone_on_with(artifact: Path, tmp_path: Path) -> None:
    """Its record was kept by a damaged file, whose rows before the damage are scored."""
    whole = gzip.compress("".join(json.dumps({"text": f"{n} {n * n}"}) + "\n" for n in range(2000)).encode())
    given, output = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl"
    given.write_bytes(whole[:-2000])
    result = score(artifact, given, output, "--workers", "1")
    assert result.returncode == INTERRUPTED and b"is the file damaged?" in result.stderr
    assert not output.exists() and (tmp_path / "out.jsonl.progress.json").exists()
    given.write_bytes(whole)
    resumed = score(artifact, given, output, "--resume")
    assert resumed.returncode == USAGE and b"another input size" in resumed.stderr
    assert score(artifact, given, output, "--workers", "1", "--overwrite").returncode == SCORED
    assert len(read(output)) == 2000
