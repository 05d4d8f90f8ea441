"""Data that templates make, for task types without free real data in the package index; and handwritten digits.

What templates make is easy, and a metric on it says that training works, not how good a model is. The test split's
names, places and things are others than those of train.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multigraft_adapters.errors import DataFolderError

Row = dict[str, Any]
Words = Mapping[str, Sequence[str]]
SIZES = {"train": 160, "test": 40}
SEED = 0

VALUES: dict[str, Words] = {
    "train": {
        "person": ("Anna Berg", "Tom", "Li Wei", "Maria Rossi", "Omar", "Jo Smith", "Nina", "Paul Roy"),
        "city": ("Berlin", "New York", "Lyon", "Porto", "Oslo", "San Diego", "Kyoto", "Leeds"),
        "thing": ("desk lamp", "chair", "blue mug", "printer", "phone case", "sofa", "garden hose", "kettle"),
        "day": ("Monday", "Tuesday", "Friday", "Sunday"),
        "place": ("library", "post office", "swimming pool", "town hall", "museum", "bakery"),
        "time": ("8 am", "9:30", "noon", "half past ten", "7 in the evening", "10 am"),
    },
    "test": {
        "person": ("Eva Lund", "Sam", "Chen Yu", "Carla Diaz"),
        "city": ("Hamburg", "Los Angeles", "Nice", "Turin"),
        "thing": ("floor lamp", "stool", "red cup", "scanner"),
        "day": ("Wednesday", "Thursday", "Saturday"),
        "place": ("cinema", "city archive", "gym", "harbour office"),
        "time": ("11 am", "8:45", "midnight", "half past six"),
    },
}

ORDERS = (
    "please send {count} {thing} to {person} in {city}",
    "{person} ordered a {thing} on {day}",
    "the {thing} for {person} has not arrived in {city} yet",
    "can you deliver {count} {thing} by {day} ?",
    "{person} from {city} returns the {thing}",
    "move the order of {person} to {day} , it goes to {city}",
    "nothing came on {day}",
)
TAGGED = {"person": "PER", "city": "LOC", "thing": "ITEM", "day": "DATE"}

NOTICES = (
    ("The {place} opens at {time} on {day}.", "When does the {place} open on {day}?", "time"),
    ("The {place} closes at {time} on {day}.", "When does the {place} close on {day}?", "time"),
    ("{person} has the key of the {place}.", "Who has the key of the {place}?", "person"),
    ("Deliveries for the {place} come from {city}.", "Where do deliveries for the {place} come from?", "city"),
    ("The {thing} was left at the {place}.", "What was left at the {place}?", "thing"),
)

REQUESTS = (
    ("how do I cancel my {thing}?", "I no longer want the {thing}"),
    ("where is my {thing}?", "the {thing} that I ordered has not come"),
    ("my {thing} is broken", "the {thing} arrived damaged"),
    ("what does the {thing} cost?", "tell me the price of a {thing}"),
    ("send the {thing} to {city}", "I live in {city} now, deliver the {thing} there"),
    ("can {person} collect the {thing}?", "{person} will pick up my {thing}"),
)


def orders(words: Words, chooser: random.Random) -> Row:
    """An order's words, with tags of who, where, what and when."""
    tokens: list[str] = []
    tags: list[str] = []
    for part in chooser.choice(ORDERS).split():
        name = part.strip("{}")
        chosen = str(chooser.randint(2, 40)) if name == "count" else chooser.choice(words.get(name, (part,)))
        pieces, tag = chosen.split(), TAGGED.get(name)
        tokens += pieces
        tags += [f"{'I' if i else 'B'}-{tag}" if tag else "O" for i in range(len(pieces))]
    return {"tokens": tokens, "tags": tags}


def notices(words: Words, chooser: random.Random) -> Row:
    """A question to a notice of some sentences, and the passage that answers it."""
    sentences = []
    templates = chooser.sample(NOTICES, chooser.randint(2, len(NOTICES)))
    for template, question, asked in templates:
        filled = {name: chooser.choice(options) for name, options in words.items()}
        sentences.append((template.format(**filled), question.format(**filled), template, filled, asked))
    said, question, template, filled, asked = chooser.choice(sentences)
    context = " ".join(sentence for sentence, *_ in sentences)
    start = context.index(said) + len(template[: template.index(f"{{{asked}}}")].format(**filled))
    return {
        "question": question,
        "context": context,
        "answers": [{"text": filled[asked], "answer_start": start}],
    }


def requests(words: Words, chooser: random.Random) -> Row:
    """The same request in two wordings."""
    filled = {name: chooser.choice(options) for name, options in words.items()}
    one, other = chooser.choice(REQUESTS)
    return {"text": one.format(**filled), "text_pair": other.format(**filled)}


def made(name: str) -> dict[str, list[Row]]:
    """The splits of a data set of ROWS, each row once; always the same."""
    splits: dict[str, list[Row]] = {}
    for split, size in SIZES.items():
        chooser = random.Random(f"{name}/{split}/{SEED}")
        rows: dict[str, Row] = {}
        while len(rows) < size:
            row = ROWS[name](VALUES[split], chooser)
            rows.setdefault(json.dumps(row), row)
        splits[split] = list(rows.values())
    return splits


def write_made(name: str, folder: Path) -> dict[str, int]:
    """Write a data set of MADE to a folder; returns the splits' numbers of rows. Raises DataFolderError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        splits = digits(folder) if name == "digits" else made(name)
        for split, rows in splits.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    except OSError as error:
        raise DataFolderError(f"{folder} cannot be written: {error.strerror}") from error
    return {split: len(rows) for split, rows in splits.items()}


def digits(folder: Path) -> dict[str, list[Row]]:
    """scikit-learn's handwritten digits (UCI, Alpaydin and Kaynak 1998) as PNG files of 8 x 8 pixels in `folder`;
    the splits' rows, every fifth image being one of test."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    (folder / "images").mkdir(exist_ok=True)
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for number, (pixels, label) in enumerate(zip(found.images, found.target, strict=True)):
        path = f"images/{number:04}.png"
        Image.fromarray((pixels * 255 / 16).round().astype("uint8")).save(folder / path)
        splits["train" if number % 5 else "test"].append({"image": path, "label": str(label)})
    return splits


ROWS: dict[str, Callable[[Words, random.Random], Row]] = {
    "orders": orders,
    "notices": notices,
    "requests": requests,
}
MADE = (*ROWS, "digits")
