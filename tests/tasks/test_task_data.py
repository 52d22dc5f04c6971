"""Which references name labelled examples, and how labels meet a classifier's outputs."""

import json
from pathlib import Path

import pytest

from robustness.errors import TaskError
from robustness.tasks.data import TaskData, load_task
from tests.support.checkpoints.shared import shared_data

ROWS = 40


def _file(path: Path, header: str, *row: str) -> Path:
    separator = "," if path.suffix == ".csv" else "\t"
    rows = [separator.join(part.format(n=n, odd=n % 2) for part in row) for n in range(ROWS)]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_table_with_one_text(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.tsv", "sentence\tlabel", "text {n}", "{odd}")
    data = load_task(f"{file}:sentence:label")
    assert data.texts[3] == ("text 3",)
    assert (data.n_examples, data.pairs, data.metric) == (ROWS, False, None)
    assert data.classes({0: "LABEL_0", 1: "LABEL_1"}) == [n % 2 for n in range(ROWS)]


def test_a_table_with_pairs(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.csv", "one,two,score", "a {n}", "b {n}", "{n}.5")
    data = load_task(f"{file}:one,two:score")
    assert data.pairs
    assert data.texts[7] == ("a 7", "b 7")
    assert data.values() == [n + 0.5 for n in range(ROWS)]


def test_columns_may_hold_commas_and_hashes(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.tsv", "#1 a, b\tlabel", "text {n}", "{odd}")
    assert load_task(f"{file}:#1 a, b:label").texts[0] == ("text 0",)


def test_json_lines_keep_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [json.dumps({"t": f"x {n}", "y": n / 2}) for n in range(ROWS)]
    file.write_text("\n".join(rows))
    assert load_task(f"{file}:t:y").values()[3] == 1.5


def test_the_fingerprint_is_of_the_texts_alone(tmp_path: Path) -> None:
    one = _file(tmp_path / "a.tsv", "s\tl", "text {n}", "{odd}")
    two = _file(tmp_path / "b.csv", "l,s", "{n}", "text {n}")
    three = _file(tmp_path / "c.tsv", "s\tl", "text  {n}", "{odd}")
    found = [load_task(f"{file}:s:l").texts_fingerprint for file in (one, two, three)]
    assert found[0] == found[1] != found[2]


def test_labels_meet_outputs_by_name_before_number(tmp_path: Path) -> None:
    """Two data sets may number the same labels differently (as MNLI and many checkpoints do)."""
    file = tmp_path / "a.tsv"
    names = ["entailment", "neutral", "contradiction"]
    rows = [f"text {n}\t{names[n % 3]}" for n in range(ROWS)]
    file.write_text("\n".join(["s\tl", *rows]))
    found = load_task(f"{file}:s:l").classes({0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"})
    assert found[:3] == [1, 2, 0]


def _labelled(path: Path, *labels: object) -> TaskData:
    rows = [{"s": f"text {n}", "l": labels[n % len(labels)]} for n in range(ROWS)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_task(f"{path}:s:l")


@pytest.mark.parametrize("labels", [(False, True), ("false", "True"), ("0", "1"), (0, 1)])
def test_true_and_false_are_one_and_zero(labels: tuple[object, ...], tmp_path: Path) -> None:
    data = _labelled(tmp_path / "a.jsonl", *labels)
    assert data.classes({0: "not_equivalent", 1: "equivalent"})[:2] == [0, 1]


def test_true_and_false_are_names_where_the_checkpoint_has_them(tmp_path: Path) -> None:
    assert _labelled(tmp_path / "a.jsonl", True, False).classes({0: "True", 1: "False"})[:2] == [
        0,
        1,
    ]


def test_names_are_alike_whatever_joins_their_words(tmp_path: Path) -> None:
    data = _labelled(tmp_path / "a.jsonl", "not-equivalent", "Equivalent ")
    assert data.classes({0: "EQUIVALENT", 1: "not equivalent"})[:2] == [1, 0]


@pytest.mark.parametrize(
    ("names", "unknown"),
    [(("entailment", "other"), "other"), (("good", "bad"), "good"), (("0", "other"), "0")],
)
def test_names_that_match_in_part_or_not_at_all_are_refused(
    names: tuple[str, str], unknown: str, tmp_path: Path
) -> None:
    data = _labelled(tmp_path / "a.jsonl", *names)
    with pytest.raises(TaskError, match=f"such as '{unknown}', are none of the checkpoint's"):
        data.classes({0: "entailment", 1: "contradiction"})


@pytest.mark.parametrize("label", ["2", "-1", "maybe", "0.5", "nan", "inf"])
def test_a_label_without_an_output_is_refused(label: str, tmp_path: Path) -> None:
    file = _file(tmp_path / "a.tsv", "s\tl", "text {n}", "{odd}")
    file.write_text(file.read_text() + f"one more\t{label}\n")
    with pytest.raises(TaskError) as caught:
        load_task(f"{file}:s:l").classes({0: "LABEL_0", 1: "LABEL_1"})
    assert f"{label!r} of example {ROWS + 1}" in str(caught.value)
    assert "LABEL_0, LABEL_1" in str(caught.value)


@pytest.mark.parametrize("label", ["", "high", "nan", "inf"])
def test_a_value_that_is_no_number_is_refused(label: str, tmp_path: Path) -> None:
    file = _file(tmp_path / "a.tsv", "s\tl", "text {n}", "{odd}")
    file.write_text(file.read_text() + f"one more\t{label}\n")
    with pytest.raises(TaskError, match=rf"example {ROWS + 1}"):
        load_task(f"{file}:s:l").values()


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("{dir}/a.tsv", "needs its columns, as in a.tsv:text:label"),
        ("{dir}/a.tsv:s", "needs its columns"),
        ("{dir}/a.tsv:s:l:m", "needs its columns"),
        ("{dir}/a.tsv:q:l", "has no column q; choose one of s, l"),
        ("{dir}/a.tsv:s:q", "has no column q"),
        ("{dir}/a.tsv:s,s,s:l", "one text or a pair, not 3"),
        ("{dir}/absent.tsv:s:l", "there is no task file"),
        ("{dir}/a.txt:s:l", "has no columns"),
        ("{dir}/few.tsv:s:l", "has 3 examples; nothing can be decided on fewer than 32"),
        ("{dir}/empty.tsv:s:l", "example 2 lacks a text"),
        ("{dir}/blank.tsv:s:l", "example 2 has no label"),
        ("glue/none", "is none of GLUE; name one of glue/cola"),
        ("glue/mrpc:a:b", "is none of GLUE"),
        ("nonsense", "is none that is known"),
        ("a b:c:d:e", "is none that is known"),
        ("glue/mrpc", "offline mode is on"),
        ("some/dataset:train:text:label", "offline mode is on"),
    ],
)
def test_what_is_no_task_is_refused_in_one_sentence(
    reference: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    _file(tmp_path / "a.tsv", "s\tl", "text {n}", "{odd}")
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "few.tsv").write_text("s\tl\na\t0\nb\t1\nc\t1\n")
    (tmp_path / "empty.tsv").write_text("s\tl\na\t0\n \t1\nc\t1\n")
    (tmp_path / "blank.tsv").write_text("s\tl\na\t0\nb\t\nc\t1\n")
    with pytest.raises(TaskError) as caught:
        load_task(reference.format(dir=tmp_path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    file = _file(tmp_path / "a\x1b[2J.tsv", "s\tl", "text {n}", "{odd}")
    assert "\x1b" not in load_task(f"{file}:s:l").name


def test_glue_files_with_their_own_columns() -> None:
    glue = shared_data("glue")
    mrpc = load_task(f"{glue}/MRPC/dev.tsv:#1 String,#2 String:Quality")
    assert (mrpc.n_examples, mrpc.pairs) == (408, True)
    assert sum(mrpc.classes({0: "a", 1: "b"})) == 279
    rte = load_task(f"{glue}/RTE/dev.tsv:sentence1,sentence2:label")
    assert rte.n_examples == 277
    stsb = load_task(f"{glue}/STS-B/dev.tsv:sentence1,sentence2:score")
    assert (stsb.n_examples, min(stsb.values()), max(stsb.values())) == (1500, 0.0, 5.0)
