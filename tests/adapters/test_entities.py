"""Windows and entities against transformers' own tokenizers and pipeline, on whole words and their pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedTokenizerFast
from transformers.pipelines.token_classification import TokenClassificationPipeline

from multigraft_adapters.heads import EntityReader, Strategy
from multigraft_adapters.heads.entities import Array
from multigraft_adapters.windows import ReadText, cut, num_windows, read_question, read_text

LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "new", "york", "micro", "clara", "in", "is", ".", "berlin"]
PIECES = ["##soft", "##ly", "##er", "##s", "##a"]
TEXTS = [
    "Clara is in Berlin.",
    "microsoftly newer yorks clara microsoft quux berlins",
    "  New   York  quux.Clara",
    "in in ininin . . new",
]
SIZE = 16


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Words and pieces of words, as BERT's tokenizer has them."""
    vocabulary = {word: index for index, word in enumerate([*WORDS, *PIECES])}
    made = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=SIZE, **names)


@pytest.fixture(scope="module")
def pipeline(tokenizer: Any) -> TokenClassificationPipeline:
    config = AutoConfig.for_model(
        "bert", vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=SIZE, id2label=LABELS, num_labels=len(LABELS),
    )  # fmt: skip
    torch.manual_seed(3)
    model = AutoModelForTokenClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_()
    return TokenClassificationPipeline(model=model, tokenizer=tokenizer)


@torch.inference_mode()
def logits_of(pipeline: TokenClassificationPipeline, window: ReadText) -> Array:
    logits: Array = pipeline.model(torch.tensor([window.ids])).logits[0].numpy()
    return logits


def same(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> None:
    """Equal, scores to within the last bits of fp32."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert {**one, "score": 0} == {**other, "score": 0}
        assert one["score"] == pytest.approx(float(other["score"]), abs=1e-6)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_of_words_and_pieces_are_the_pipeline_s(
    pipeline: TokenClassificationPipeline, text: str, strategy: Strategy
) -> None:
    window = read_text(pipeline.tokenizer, text)
    reader = EntityReader(pipeline.tokenizer, LABELS)
    entities = reader.read(text, [(window, logits_of(pipeline, window))], strategy, ignored=())
    assert entities
    same(entities, pipeline(text, aggregation_strategy=strategy, ignore_labels=[]))


@pytest.mark.parametrize("stride", [0, 1, 5, SIZE - 3])
@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_entities_in_windows_are_the_pipeline_s(
    pipeline: TokenClassificationPipeline, stride: int, strategy: Strategy
) -> None:
    text = " ".join(TEXTS)
    windows = cut(read_text(pipeline.tokenizer, text), SIZE, stride)
    assert len(windows) > 2
    reader = EntityReader(pipeline.tokenizer, LABELS)
    found = reader.read(text, [(window, logits_of(pipeline, window)) for window in windows], strategy)
    expected = pipeline(text, aggregation_strategy=strategy, stride=stride)
    assert expected
    same(found, expected)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("stride", [0, 3, 7])
def test_windows_are_those_of_the_tokenizer(tokenizer: Any, pair: bool, stride: int) -> None:
    first, text = "new york", " ".join(TEXTS)
    read = read_question(tokenizer, first, text) if pair else read_text(tokenizer, text)
    windows = cut(read, SIZE, stride)
    expected = tokenizer(
        *([first, text] if pair else [text]),
        truncation="only_second" if pair else True,
        max_length=SIZE,
        stride=stride,
        return_overflowing_tokens=True,
    )
    assert [list(window.ids) for window in windows] == expected["input_ids"]
    assert [list(window.type_ids) for window in windows] == [one.type_ids for one in expected.encodings]
    assert [list(window.offsets) for window in windows] == [one.offsets for one in expected.encodings]
    assert len(windows) == num_windows(read.stop - read.start, SIZE - read.num_around, stride)
    assert all(window.start == read.start for window in windows)


def test_a_window_knows_the_whole_word_of_a_piece_at_its_edge(tokenizer: Any) -> None:
    text = "is microsoftly"
    read = read_text(tokenizer, text)
    assert [tokenizer.convert_ids_to_tokens(one) for one in read.ids] == [
        "[CLS]", "is", "micro", "##soft", "##ly", "[SEP]",
    ]  # fmt: skip
    first, second = cut(read, 5, 1)
    assert first.words == (None, (0, 2), (3, 14), (3, 14), None)
    assert second.words == (None, (3, 14), (3, 14), None)


def test_a_word_that_a_window_cuts_is_found_whole_in_the_one_that_shares_it(tokenizer: Any) -> None:
    """Its pieces `micro` and `##soft` begin in the first window and are complete in the second."""
    text = "is microsoftly"
    windows = cut(read_text(tokenizer, text), 5, 2)
    person = torch.full((5, len(LABELS)), -9.0)
    person[:, 1] = 9.0
    reader = EntityReader(tokenizer, LABELS)
    found = reader.read(text, [(window, person[: len(window.ids)].numpy()) for window in windows], "first")
    assert [(one["entity_group"], one["word"], one["start"], one["end"]) for one in found] == [
        ("PER", "is", 0, 2),
        ("PER", "microsoftly", 3, 14),
    ]
