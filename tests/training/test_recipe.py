"""Recipes: strict, every problem at once with its line, overrides, paths."""

from __future__ import annotations

from pathlib import Path

import pytest

import multigraft_training
from multigraft_adapters.errors import InvalidRecipeError
from multigraft_training.recipe import Recipe, read_recipe
from multigraft_training.recipe_methods import METHOD_PARTS, LoraPart

TRAINING_DIR = Path(multigraft_training.__file__).parent.parent
SHIPPED = sorted(TRAINING_DIR.rglob("*.yaml"))

GOOD = """\
base: minilm
task: {name: sentiment, type: text-classification}
data: {train: train.jsonl, validation: null, test: null, unlabelled: null}
output: runs/sentiment
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text("{}\n")
    return tmp_path


def read(folder: Path, text: str, *overrides: str) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return read_recipe(file, overrides)[0]


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(InvalidRecipeError) as caught:
        read(folder, text, *overrides)
    assert caught.value.code == "invalid_recipe"
    return caught.value.problems


def test_a_short_recipe_gets_the_defaults(folder: Path) -> None:
    recipe = read(folder, GOOD)
    assert isinstance(recipe.method, LoraPart)
    assert (recipe.method.name, recipe.method.rank, recipe.method.targets) == ("lora", 8, "all-linear")
    assert (recipe.objective.name, recipe.training.seed, recipe.training.early_stopping) == ("supervised", 0, 2)


def test_every_problem_is_told_at_once_with_its_line(folder: Path) -> None:
    text = """\
base: minilm
task: {name: Sentiment, type: text-clasification}
data:
  train: nowhere.jsonl
  unlabelled: more.jsonl
method:
  rank: 0
  rnk: 4
  targets: q_proj
training:
  epochs: 1.5
  precision: fp16
  seed: -1
outptu: runs/x
"""
    found = problems(folder, text)
    expected = {
        1: "output: is missing",
        2: "task.type:",
        4: "data.train: no such file or folder: nowhere.jsonl",
        5: "data.unlabelled:",
        7: "method.rank:",
        8: "method.rnk: unknown field; did you mean rank?",
        9: "method.targets: must be all-linear or a list of module names",
        11: "training.epochs:",
        12: "training.precision:",
        13: "training.seed:",
        14: "outptu: unknown field; did you mean output?",
    }
    for line, start in expected.items():
        assert any(problem.startswith(f"recipe.yaml:{line}: {start}") for problem in found), (line, found)
    assert any("recipe.yaml:2: task.name: 'Sentiment' is not a task name" in problem for problem in found)


def test_a_key_that_appears_twice_is_a_problem(folder: Path) -> None:
    assert problems(folder, GOOD + "base: smollm2\n") == ["recipe.yaml:5: base: appears twice"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: [minilm\n", "recipe.yaml:2: not valid YAML"),
        ("base: &b minilm\noutput: *b\n", "recipe.yaml:2: not valid YAML: anchors and aliases"),
        ("- base\n", "recipe.yaml:1: the recipe must be a mapping"),
        ("", "recipe.yaml:1: the recipe must be a mapping"),
        ("base: a\x00b\n", "recipe.yaml: not valid YAML"),
    ],
)
def test_what_is_no_mapping_is_told_with_its_line(folder: Path, text: str, expected: str) -> None:
    (problem,) = problems(folder, text)
    assert problem.startswith(expected)


def test_a_recipe_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipeError, match="no such file"):
        read_recipe(tmp_path / "recipe.yaml")


def test_overrides_set_fields_with_dots(folder: Path) -> None:
    recipe = read(folder, GOOD, "training.epochs=7", "method.targets=[q_proj, v_proj]", "output=elsewhere")
    assert isinstance(recipe.method, LoraPart)
    assert (recipe.training.epochs, recipe.method.targets, recipe.output) == (7, ["q_proj", "v_proj"], "elsewhere")


def test_a_wrong_override_is_told_as_what_was_typed(folder: Path) -> None:
    assert problems(folder, GOOD, "training.epoch=7", "method.rank=many", "seed", "base={") == [
        "override 'seed': write it as key=value, e.g. training.epochs=5",
        "override 'base={': the value is not YAML",
        "override 'method.rank=many': method.rank: Input should be a valid integer (it is 'many')",
        "override 'training.epoch=7': training.epoch: unknown field; did you mean epochs?",
    ]


@pytest.mark.parametrize("number", ["5e-4", "5.0e-4", "0.0005"])
def test_a_small_number_is_one_however_it_is_written(folder: Path, number: str) -> None:
    recipe = read(folder, GOOD, f"training.learning_rate={number}")
    assert recipe.training.learning_rate == pytest.approx(5e-4)


def test_a_data_path_is_looked_for_beside_the_recipe_then_in_the_current_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("train.jsonl", "test.jsonl"):
        (elsewhere / name).write_text("{}\n")
    monkeypatch.chdir(elsewhere)
    data = read(folder, GOOD, "data.test=test.jsonl").data
    assert (data.train, data.test) == (str(folder / "train.jsonl"), str(elsewhere / "test.jsonl"))
    assert read(folder, GOOD, "data.train=train.jsonl").data.train == str(elsewhere / "train.jsonl")
    in_file = GOOD.replace("test: null", "test: test.jsonl")
    assert read(folder, in_file).data.test == str(elsewhere / "test.jsonl")


def test_a_prompt_is_for_generation_only(folder: Path) -> None:
    assert problems(folder, GOOD, "task.prompt=Be brief.") == [
        "override 'task.prompt=Be brief.': task.prompt: only a text-generation task has a prompt"
    ]
    assert read(folder, GOOD, "task.type=text-generation", "task.prompt=Be brief.").task.prompt == "Be brief."


WRONG_METHODS = {
    "name: lara": "method.name: the methods are lora, ia3, bottleneck, prefix, prompt, p-tuning, head, full, not",
    "name: ia3, rank: 4": "method.rank: unknown field; known: name, targets, feedforward",
    "name: bottleneck, reduction_facto: 8": "method.reduction_facto: unknown field; did you mean",
    "name: bottleneck, scaling: true": "method.scaling: must be a number above 0, or learned",
    "name: bottleneck, placement: houlsbi": "method.placement: Input should be 'houlsby'",
    "name: bottleneck, bottleneck_size: 8, reduction_factor: 4": "method.bottleneck_size: give either it or",
    "name: bottleneck, placement: parallel, ln_before: true": "method.ln_before: a parallel adapter reads",
    "name: prefix, encoder_hidden_size: 8": "method.encoder_hidden_size: is of the projection, and projection is",
    "name: prefix, virtual_tokens: 0": "method.virtual_tokens: Input should be greater than or equal to 1",
    "name: p-tuning, encoder_layers: 2": "method.encoder_layers: is of an encoder lstm, and encoder is mlp",
    "name: ia3, feedforward: [fc]": "method.feedforward: needs targets, of which it names some",
    "name: ia3, targets: [q], feedforward: [fc]": "method.feedforward: fc is not among targets",
    "rank_pattern: {q_proj: 0}": "method.rank_pattern.q_proj: Input should be greater than or equal to 1",
    "bias: some": "method.bias: Input should be 'none', 'lora_only' or 'all'",
    "layers: [-1]": "method.layers.0: Input should be greater than or equal to 0",
}


@pytest.mark.parametrize("method", WRONG_METHODS)
def test_each_method_has_its_own_fields_and_says_with_its_line_what_is_wrong(folder: Path, method: str) -> None:
    (problem,) = problems(folder, f"{GOOD}method: {{{method}}}\n")
    assert problem.startswith(f"recipe.yaml:5: {WRONG_METHODS[method]}")


@pytest.mark.parametrize("method", METHOD_PARTS)
def test_a_recipe_without_a_learning_rate_has_its_methods(folder: Path, method: str) -> None:
    recipe = read(folder, f"{GOOD}method: {{name: {method}}}\n")
    assert recipe.method.name == method
    assert recipe.training.learning_rate == METHOD_PARTS[method].usual_learning_rate
    given = read(folder, f"{GOOD}method: {{name: {method}}}\n", "training.learning_rate=0.25", "training.epochs=9")
    assert (given.training.learning_rate, given.training.epochs) == (0.25, 9)


def test_recipes_are_shipped() -> None:
    names = {file.name for file in SHIPPED}
    assert {"lora-text-classification.yaml", "lora-text-generation.yaml", "topic.yaml"} <= names


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_shipped_recipe_is_valid_and_begins_with_the_command_that_runs_it(file: Path) -> None:
    # The images are no part of the repository: a command writes them.
    elsewhere = [f"data.{split}={file}" for split in ("train", "test")] if "image" in file.name else []
    read_recipe(file, elsewhere)
    repository_path = file.relative_to(TRAINING_DIR.parent)
    assert file.read_text(encoding="utf-8").splitlines()[0] == f"# multigraft train {repository_path}"
