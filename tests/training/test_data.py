"""Data files: every bad row at once with its line, splits, folders, hashes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from multigraft_adapters.errors import InvalidDataError
from multigraft_training.data import Dataset, load_dataset
from multigraft_training.examples import ChatExample, TextExample
from multigraft_training.recipe import DataPart, RecipeTaskType
from tests.training.made import (
    CHAT_ROWS,
    CLASS_ROWS,
    PAIR_ROWS,
    SCORE_ROWS,
    TAG_ROWS,
    write_images,
    write_jsonl,
)


def load(
    train: Path,
    task_type: RecipeTaskType = "text-classification",
    *,
    seed: int = 0,
    test: Path | None = None,
) -> Dataset:
    data = DataPart(train=str(train), test=None if test is None else str(test))
    return load_dataset(data, task_type, seed)


def problems(
    train: Path, task_type: RecipeTaskType = "text-classification", test: Path | None = None
) -> list[str]:
    with pytest.raises(InvalidDataError) as caught:
        load(train, task_type, test=test)
    assert caught.value.code == "invalid_data"
    return caught.value.problems


def test_all_bad_rows_of_all_files_are_told_with_their_lines(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(
        '{"text": "fine", "label": "a"}\n'
        "not json\n"
        "\n"
        '{"text": "", "label": "a"}\n'
        '{"label": "b"}\n'
        '{"text": "x", "label": true}\n'
        '{"text": "x", "label": ["a", "a"]}\n'
        '{"text": 5}\n'
        '["text", "label"]\n',
        encoding="utf-8",
    )
    test = tmp_path / "test.csv"
    test.write_text('text,label\nfine,a\n"two\nlines",\none,two,three\n', encoding="utf-8")
    found = problems(train, test=test)
    expected = [
        "train.jsonl:2 is not JSON",
        "train.jsonl:4: text: is empty",
        "train.jsonl:5: text: is missing",
        "train.jsonl:6: label: True is neither a string",
        "train.jsonl:7: label: the list has a class twice",
        "train.jsonl:8: text: is not a string",
        "train.jsonl:8: label: is missing",
        "train.jsonl:9 is not a JSON object",
        "test.csv:3: label: is missing",
        "test.csv:5: has 3 fields, the header has 2",
    ]
    for start in expected:
        assert any(problem.startswith(start) for problem in found), (start, found)
    assert len(found) == len(expected)


def test_bad_chats_are_told_with_their_lines(tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "arr"}
    rows: list[dict[str, Any]] = [
        {"messages": [user, answer]},
        {"messages": []},
        {"messages": [user]},
        {"messages": [answer]},
        {"messages": [user, {"role": "robot", "content": "beep"}]},
        {"messages": [user, {"role": "system", "content": "be kind"}, answer]},
        {"messages": [{"role": "user"}, answer]},
        {"prompt": "say"},
        {"text": "x"},
    ]
    found = problems(write_jsonl(tmp_path / "train.jsonl", rows), "text-generation")
    expected = {
        2: "messages: is not a list of turns",
        3: "messages: has no assistant turn to learn",
        4: "messages: the first turn must be the user's",
        5: "messages[1].role: 'robot' is none of system, user, assistant",
        6: "messages: a system turn must be the first",
        7: "messages[0].content: is missing",
        8: "completion: is missing",
        9: "has neither messages nor prompt and completion",
    }
    assert found == [f"train.jsonl:{line}: {problem}" for line, problem in expected.items()]


def test_csv_and_jsonl_of_the_same_rows_are_the_same_data(tmp_path: Path) -> None:
    csv = tmp_path / "train.csv"
    csv.write_text("id,text,label\n" + "".join(f'1,"{r["text"]}",{r["label"]}\n' for r in CLASS_ROWS))
    jsonl = write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    assert load(csv) == load(jsonl)


def test_a_validation_share_is_split_off_by_seed_with_each_class_in_proportion(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    data, again, other = load(train), load(train), load(train, seed=1)
    assert data == again
    assert data.validation != other.validation
    assert sorted(e.label for e in data.validation if isinstance(e, TextExample)) == list(data.labels)
    assert len(data.train) + len(data.validation) == len(CLASS_ROWS)
    assert not set(data.train) & set(data.validation)


def test_the_hash_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    here = write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    there = write_jsonl(tmp_path / "copy.jsonl", CLASS_ROWS)
    changed = write_jsonl(tmp_path / "changed.jsonl", [*CLASS_ROWS[:-1], {"text": "new", "label": "mixed"}])
    assert load(here).content_hash == load(there).content_hash != load(changed).content_hash


def test_labels_that_train_has_not_are_told(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "x", "label": "happy"}])
    assert problems(train, test=test) == ["test.jsonl:1: label: no row of train has 'happy'"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "the train split is empty"),
        ([{"text": "x", "label": "a"}] * 3, "the train split has one label only ('a')"),
        ([{"text": "x", "label": "a"}, {"text": "y", "label": "b"}], "every label has one row only"),
        ([{"text": "x", "label": []}] * 3, "no row of the train split has a label in its list"),
        ([{"text": "x", "label": "a"}, {"text": "y", "label": 2}], "the labels are of several kinds: strings"),
        ([{"text": "x", "label": ["a", 1]}] * 2, "train.jsonl:1: label: the list holds something that is not"),
    ],
)
def test_too_little_or_mixed_data_is_told(tmp_path: Path, rows: list[dict[str, Any]], expected: str) -> None:
    assert problems(write_jsonl(tmp_path / "train.jsonl", rows))[0].startswith(expected)


def test_what_the_labels_are_says_what_is_learnt(tmp_path: Path) -> None:
    several = write_jsonl(
        tmp_path / "several.jsonl", [{"text": f"x {i}", "label": ["b", "a"][: i % 3]} for i in range(20)]
    )
    numbers = write_jsonl(tmp_path / "numbers.jsonl", [{"text": f"x {i}", "label": i / 2} for i in range(20)])
    assert (load(several).problem, load(several).labels) == ("multi_label_classification", ("a", "b"))
    assert (load(numbers).problem, load(numbers).labels) == ("regression", ())
    for file in (several, numbers):
        assert (len(load(file).train), len(load(file).validation)) == (18, 2)
    unknown = write_jsonl(tmp_path / "test.jsonl", [{"text": "x", "label": ["a", "c"]}])
    assert problems(several, test=unknown) == ["test.jsonl:1: label: no row of train has 'c'"]


def test_files_of_other_kinds_and_encodings_are_told(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("hello")
    assert problems(tmp_path / "train.txt")[0].startswith("train.txt: not a data file")
    (tmp_path / "train.csv").write_bytes(b"text,label\n\xff,a\n")
    assert problems(tmp_path / "train.csv")[0].startswith("train.csv: is not UTF-8 text")
    (tmp_path / "train.jsonl").write_bytes(b'{"text": "\xff"}\n')
    assert problems(tmp_path / "train.jsonl")[0].startswith("train.jsonl:1 is not UTF-8 text")


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "validation.jsonl", "test.jsonl"),
        ("data/train-00000-of-00001.jsonl", "data/dev-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"),
        ("train/part.jsonl", "valid/part.jsonl", "test/part.jsonl"),
    ],
)
def test_a_dataset_folder_brings_its_splits(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, count in zip(names, (16, 3, 2), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, CHAT_ROWS[:count])
    (tmp_path / "README.md").write_text("about")
    data = load(tmp_path, "text-generation")
    assert data.test is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 3, 2)
    assert all(isinstance(example, ChatExample) for example in data.train)


def test_files_of_one_split_are_read_together(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train-00000-of-00002.jsonl", CLASS_ROWS[:15])
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", CLASS_ROWS[15:])
    whole = write_jsonl(tmp_path / "all.jsonl", CLASS_ROWS)
    assert load(tmp_path) == load(whole)


def test_a_folder_without_a_train_split_is_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", CLASS_ROWS)
    assert problems(tmp_path)[0].startswith("it holds no train split")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_broken_arrow_file_is_told(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"train{suffix}").write_bytes(b"PAR1, and then nothing of the kind")
    assert problems(tmp_path)[0].startswith(f"train{suffix}: not a {suffix} file")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_arrow_files_give_classes_by_their_names(tmp_path: Path, suffix: str) -> None:
    arrow = importlib.import_module("pyarrow")
    feature = {"label": {"_type": "ClassLabel", "names": sorted(WORDS_TO_ID)}}
    metadata = {b"huggingface": json.dumps({"info": {"features": feature}}).encode()}
    columns = {"text": [r["text"] for r in CLASS_ROWS], "label": [WORDS_TO_ID[r["label"]] for r in CLASS_ROWS]}
    table = arrow.table(columns).replace_schema_metadata(metadata)
    file = tmp_path / f"train{suffix}"
    if suffix == ".parquet":
        importlib.import_module("pyarrow.parquet").write_table(table, file)
    else:
        with arrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    assert load(tmp_path) == load(write_jsonl(tmp_path / "plain.jsonl", CLASS_ROWS))


WORDS_TO_ID = {"mixed": 0, "negative": 1, "positive": 2}


def test_columns_that_no_row_has_are_told_once(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"sentence": "x", "label": "a"}, {"sentence": "y", "label": 5.0}]
    assert problems(write_jsonl(tmp_path / "train.jsonl", rows)) == [
        "train.jsonl: no row has the field 'text'; its fields are label, sentence"
    ]


def test_inputs_in_two_splits_are_counted_and_named(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "new", "label": "mixed"}, *CLASS_ROWS[:4]])
    (note,) = load(train, test=test).notes
    assert note.startswith("test: the inputs of 4 of 5 examples are in an earlier split too")
    assert (
        "(test.jsonl:2 is train.jsonl:1, test.jsonl:3 is train.jsonl:2, test.jsonl:4 is train.jsonl:3, ...)"
        in note
    )
    assert load(train).notes == ()


QUESTION = {"question": "who?", "context": "it is Ada"}
BAD_ROWS: dict[RecipeTaskType, list[tuple[dict[str, Any], str]]] = {
    "token-classification": [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags: there are 1, for 2 tokens"),
        ({"tokens": [], "tags": ["O"]}, "tokens: is not a list of strings"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "tokens[1]: '' is not a string with something in it"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "tokens: is not a list of strings"),
    ],
    "question-answering": [
        (
            {**QUESTION, "answers": [{"text": "Bo", "answer_start": 6}]},
            "answers: the context does not read 'Bo' from",
        ),
        (
            {**QUESTION, "answers": [{"text": "Ada", "answer_start": "6"}]},
            "answers[0].answer_start: '6' is not a whole",
        ),
        (
            {**QUESTION, "answers": {"text": ["Ada"], "answer_start": []}},
            "answers: text and answer_start are not two",
        ),
        ({**QUESTION, "answers": ["Ada"]}, "answers[0]: is not an object with text and answer_start"),
        ({**QUESTION, "answers": 3}, "answers: is not a list of answers"),
    ],
    "feature-extraction": [
        (
            {"text": "a", "text_pair": "b", "score": 4.2},
            "score: 4.2 is not a number from -1 (opposite) to 1 (alike)",
        ),
        ({"text": "a", "text_pair": " "}, "text_pair: is empty"),
    ],
    "image-classification": [
        ({"image": "none.png", "label": "a"}, "image: none.png: No such file or directory"),
        (
            {"image": "train.jsonl", "label": "a"},
            "image: train.jsonl: the file is no image of a type that is read",
        ),
    ],
}


@pytest.mark.parametrize("task_type", BAD_ROWS)
def test_rows_that_are_no_examples_of_their_type_are_told_with_their_lines(
    tmp_path: Path, task_type: RecipeTaskType
) -> None:
    rows, expected = [row for row, _ in BAD_ROWS[task_type]], [start for _, start in BAD_ROWS[task_type]]
    found = problems(write_jsonl(tmp_path / "train.jsonl", rows), task_type)
    assert len(found) == len(expected) > 0
    for line, (problem, start) in enumerate(zip(found, expected, strict=True), start=1):
        assert problem.startswith(f"train.jsonl:{line}: {start}")


def test_tags_answers_and_scores_that_cannot_be_learnt_are_told(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", TAG_ROWS)
    test = write_jsonl(tmp_path / "test.jsonl", [{"tokens": ["x", "y"], "tags": ["B-ORG", "I-ORG"]}])
    assert problems(train, "token-classification", test) == [
        "test.jsonl:1: tags: no row of train has 'B-ORG'",
        "test.jsonl:1: tags: no row of train has 'I-ORG'",
    ]
    write_jsonl(train, [{"tokens": ["a"], "tags": ["O"]}] * 3)
    assert problems(train, "token-classification")[0].startswith("the train split has one tag only ('O')")
    write_jsonl(train, [{**QUESTION, "answers": []}] * 3)
    assert problems(train, "question-answering") == ["no row of the train split has an answer"]
    write_jsonl(train, SCORE_ROWS + PAIR_ROWS)
    assert problems(train, "feature-extraction") == [
        "train.jsonl:17: has no score, unlike train.jsonl:1; all rows of a task have one, or none"
    ]


def test_an_image_is_looked_for_beside_its_data_file_and_hashed_by_its_bytes(tmp_path: Path) -> None:
    hashes = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        data = load(write_jsonl(folder / "train.jsonl", write_images(folder)), "image-classification")
        assert (data.labels, data.problem) == (("dark", "light"), "single_label_classification")
        hashes.append(data.content_hash)
    assert hashes[0] == hashes[1]
