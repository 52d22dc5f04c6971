"""Tasks through ``datasets``: folders of files, saved data sets, the Hub, and its cache."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets  # type: ignore[import-untyped]
import pytest

from robustness.corpus.corpus import load_corpus
from robustness.errors import CorpusError, TaskError
from robustness.tasks.data import load_task
from tests.support.checkpoints.hub_stub import dataset_hub

ROWS = 40
CARD = """---
configs:
- config_name: mrpc
  data_files:
  - split: train
    path: mrpc/train-*
  - split: validation
    path: mrpc/validation-*
dataset_info:
- config_name: mrpc
  features:
  - name: sentence1
    dtype: string
  - name: sentence2
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': not_equivalent
          '1': equivalent
---
"""


def _pairs(first: int = 0) -> datasets.Dataset:
    numbers = range(first, first + ROWS)
    return datasets.Dataset.from_dict(
        {
            "sentence1": [f"one {n}" for n in numbers],
            "sentence2": [f"two {n}" for n in numbers],
            "label": [n % 2 for n in numbers],
        },
        features=datasets.Features(
            {
                "sentence1": datasets.Value("string"),
                "sentence2": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["not_equivalent", "equivalent"]),
            }
        ),
    )


def _splits() -> datasets.DatasetDict:
    return datasets.DatasetDict({"train": _pairs(), "validation": _pairs(100)})


# --- folders -------------------------------------------------------------------------------------


def test_what_save_to_disk_wrote_is_read_with_its_class_names(tmp_path: Path) -> None:
    _splits().save_to_disk(tmp_path / "saved")
    task = load_task(f"{tmp_path}/saved:validation:sentence1,sentence2:label")
    assert task.name == "saved validation"
    assert task.texts[:2] == (("one 100", "two 100"), ("one 101", "two 101"))
    assert task.labels[:2] == ("not_equivalent", "equivalent")
    assert task.classes({0: "Equivalent", 1: "NOT_equivalent"})[:2] == [1, 0]  # by name
    assert task.classes({0: "LABEL_0", 1: "LABEL_1"})[:2] == [0, 1]
    corpus = load_corpus(f"{tmp_path}/saved:train:sentence1", layout="lines")
    assert corpus.texts[0] == "one 0"


def test_a_saved_data_set_without_splits_needs_no_name_of_one(tmp_path: Path) -> None:
    _pairs().save_to_disk(tmp_path / "one")
    task = load_task(f"{tmp_path}/one:sentence1,sentence2:label")
    assert (task.name, task.n_examples) == ("one", ROWS)
    with pytest.raises(TaskError, match="has no split 'test'; its splits: there are none"):
        load_task(f"{tmp_path}/one:test:sentence1,sentence2:label")
    datasets.DatasetDict({"test": _pairs()}).save_to_disk(tmp_path / "named")
    assert load_task(f"{tmp_path}/named:sentence1:label").n_examples == ROWS


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("sentence1:label", "has several splits; its splits: train, validation"),
        ("test:sentence1:label", "has no split 'test'; its splits: train, validation"),
        ("train[:8]:sentence1:label", "has no split 'train[:8]'; its splits: train, validation"),
        ("train:text:label", "has no column text; choose one of sentence1, sentence2, label"),
        ("a:b:c:d:e", "is none that is known"),
        ("train", "is none that is known"),
    ],
)
def test_a_part_that_is_not_there_is_named(rest: str, says: str, tmp_path: Path) -> None:
    _splits().save_to_disk(tmp_path / "saved")
    with pytest.raises(TaskError) as caught:
        load_task(f"{tmp_path}/saved:{rest}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    _splits().save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved" / "train").glob("*.arrow"):
        file.write_bytes(b"nothing")
    with pytest.raises(TaskError, match="cannot be loaded") as caught:
        load_task(f"{tmp_path}/saved:train:sentence1:label")
    assert "\n" not in str(caught.value)


def test_a_folder_of_parquet_files_has_their_splits(tmp_path: Path) -> None:
    for split, table in _splits().items():
        table.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    for rest in ("validation:sentence1,sentence2:label", "validation[:33]:sentence1:label"):
        assert load_task(f"{tmp_path}:{rest}").texts[0][0] == "one 100"
    assert load_task(f"{tmp_path}:validation[:33]:sentence1:label").n_examples == 33
    with pytest.raises(TaskError, match="several splits; its splits: train, validation"):
        load_task(f"{tmp_path}:sentence1:label")


def test_a_folder_of_arrow_files_is_read(tmp_path: Path) -> None:
    _pairs().save_to_disk(tmp_path / "saved")
    folder = tmp_path / "arrow"
    folder.mkdir()
    (file,) = (tmp_path / "saved").glob("*.arrow")
    file.rename(folder / "train.arrow")
    assert load_task(f"{folder}:sentence1,sentence2:label").n_examples == ROWS
    assert load_task(f"{folder}:train:sentence1:label").labels[1] == "equivalent"


def test_a_corpus_of_a_missing_split_is_refused_likewise(tmp_path: Path) -> None:
    _splits().save_to_disk(tmp_path / "saved")
    with pytest.raises(CorpusError, match="has no split 'test'"):
        load_corpus(f"{tmp_path}/saved:test:sentence1", layout="lines")


# --- the Hub -------------------------------------------------------------------------------------


def _hub_files() -> dict[str, bytes]:
    files = {"README.md": CARD.encode()}
    for split, table in _splits().items():
        content = io.BytesIO()
        table.to_parquet(content)
        files[f"mrpc/{split}-00000-of-00001.parquet"] = content.getvalue()
    return files


def _loaded(home: Path, endpoint: str, *references: str, offline: bool) -> list[str]:
    """What a process of its own says of tasks: the environment is read when it starts."""
    code = (
        "import sys; from robustness.tasks.data import load_task\n"
        "for reference in sys.argv[1:]:\n"
        "    try:\n"
        "        t = load_task(reference)\n"
        "        print(t.name, t.metric, t.n_examples, t.texts[0], t.labels[1])\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    kept = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *references],
        capture_output=True,
        text=True,
        check=True,
        env={
            **kept,
            "HF_HOME": str(home),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
    )
    return found.stdout.splitlines()


def test_glue_comes_from_the_hub_and_offline_from_the_cache_of_datasets(tmp_path: Path) -> None:
    references = ("glue/mrpc", "glue/mrpc:train", "nyu-mll/glue:mrpc:train:sentence1:label")
    expected = [
        "glue mrpc validation accuracy 40 ('one 100', 'two 100') equivalent",
        "glue mrpc train accuracy 40 ('one 0', 'two 0') equivalent",
        "glue mrpc train None 40 ('one 0',) equivalent",
    ]
    with dataset_hub("nyu-mll/glue", _hub_files()) as endpoint:
        online = _loaded(tmp_path, endpoint, *references, "some/other:t:s:l", offline=False)
    assert online[:3] == expected
    assert "some/other cannot be" in online[3]
    assert online[3].startswith("TaskError task some/other:t:s:l: data set some/other cannot")
    offline = _loaded(tmp_path, endpoint, *references, "glue/rte", offline=True)
    assert offline[:3] == expected
    assert offline[3].startswith("TaskError task glue/rte: data set nyu-mll/glue")
    assert json.dumps(offline).count("TaskError") == 1
