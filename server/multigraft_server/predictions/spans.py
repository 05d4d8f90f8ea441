"""`question-answering`: the passages of a context that answer a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from multigraft_adapters.errors import ContextLengthError, InvalidRequestError
from multigraft_adapters.heads import SpanRules, decode_spans
from multigraft_adapters.windows import QUESTION_WINDOW, ReadText, usual_stride
from multigraft_server.answers import Answer
from multigraft_server.calls import Call
from multigraft_server.parts import Parts
from multigraft_server.predictions.base import Parameters, Prepared, read_entries, read_parameters
from multigraft_server.predictions.windows import Cut, cut_texts

MAX_ANSWERS = 100
MAX_ANSWER_TOKENS = 512

Positive = Annotated[int, Field(ge=1)]


class SpanParameters(Parameters):
    """Hugging Face's. Lengths count tokens: `max_seq_len` of a window with the question, of which neighbours share
    `doc_stride`; a question is cut to `max_question_len` only where that is given.
    """

    top_k: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    doc_stride: Annotated[int, Field(ge=0)] | None = None
    max_answer_len: Annotated[int, Field(ge=1, le=MAX_ANSWER_TOKENS)] | None = None
    max_seq_len: Positive | None = None
    max_question_len: Positive | None = None
    handle_impossible_answer: bool | None = None
    align_to_words: bool | None = None

    def rules(self) -> SpanRules:
        """Which answers are wanted."""
        usual = SpanRules()
        return SpanRules(
            top_k=self.top_k or usual.top_k,
            max_tokens=self.max_answer_len or usual.max_tokens,
            may_be_empty=bool(self.handle_impossible_answer),
            align_to_words=self.align_to_words is not False,
        )


class Question(NamedTuple):
    """One input; `param` is where it is in the body."""

    question: str
    context: str
    param: str


class SpanPredictor:
    """`inputs` is `{"question", "context"}` or a list of these. The output for one is an answer, or a list of
    answers for `top_k` above 1.
    """

    async def prepare(self, parts: Parts, call: Call, inputs: Any, parameters: Mapping[str, Any]) -> Prepared:
        chosen = read_parameters(SpanParameters, parameters)
        entries, is_list = read_entries(inputs, max_entries=parts.settings.max_entries)
        questions = [_read_entry(one, f"inputs.{i}" if is_list else "inputs") for i, one in enumerate(entries)]
        size = _window_size(chosen, parts.router.longest_input(call.target))
        cuts = [_cut(await _tokens(parts, one, chosen), one, size, chosen.doc_stride) for one in questions]
        windowed = cut_texts(cuts, parts.settings.max_entries)
        rules, cls_token_id = chosen.rules(), parts.tokeniser.tokenizer.cls_token_id

        async def read(answers: Sequence[Answer]) -> Any:
            found = await windowed.answers(answers)

            def decode() -> list[Any]:
                spans = [
                    decode_spans(one.context, windows, cls_token_id, rules)
                    for one, windows in zip(questions, found, strict=True)
                ]
                return [one if rules.top_k > 1 else one[0] for one in spans]

            output = await parts.tokeniser.run(decode)
            return output if is_list else output[0]

        return Prepared(windowed.rows(parts), read)


def _read_entry(entry: Any, param: str) -> Question:
    if not isinstance(entry, dict) or set(entry) != {"question", "context"}:
        raise InvalidRequestError(f"{param} must be an object with question and context", param=param)
    for name, text in entry.items():
        if not isinstance(text, str) or not text:
            raise InvalidRequestError(f"{param}.{name} must be a text that is not empty", param=f"{param}.{name}")
    return Question(entry["question"], entry["context"], param)


def _window_size(chosen: SpanParameters, longest: int) -> int:
    if chosen.max_seq_len is not None and chosen.max_seq_len > longest:
        raise InvalidRequestError(
            f"parameters.max_seq_len: a window has at most {longest} tokens", param="parameters.max_seq_len"
        )
    return chosen.max_seq_len or min(longest, QUESTION_WINDOW)


async def _tokens(parts: Parts, one: Question, chosen: SpanParameters) -> ReadText:
    """The tokens of a question and its context; a question longer than `max_question_len` is cut, as was asked."""
    question = one.question
    if chosen.max_question_len is not None:
        [read] = await parts.tokeniser.read([question], f"{one.param}.question")
        last = min(read.stop, read.start + chosen.max_question_len) - 1
        question = question[: read.offsets[last][1]]
    return await parts.tokeniser.read_question(question, one.context, one.param)


def _cut(text: ReadText, one: Question, size: int, stride: int | None) -> Cut:
    room = size - text.num_around
    if room < 1:
        param = f"{one.param}.question"
        raise ContextLengthError(
            f"{param} has {text.num_around} tokens with the special ones: a window of {size} has no room for the "
            "context",
            param=param,
        )
    if stride is not None and stride >= room:
        raise InvalidRequestError(
            f"parameters.doc_stride: beside the question a window has room for {room} tokens, so they can share "
            f"at most {room - 1}",
            param="parameters.doc_stride",
        )
    return Cut(text, size, usual_stride(size, room) if stride is None else stride)


PREDICTOR = SpanPredictor()
