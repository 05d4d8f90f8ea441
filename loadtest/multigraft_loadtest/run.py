"""`loadtest run`: from its options to its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from multigraft_loadtest.arrivals import read_trace
from multigraft_loadtest.client import Client
from multigraft_loadtest.measure import measure
from multigraft_loadtest.options import SNIPPETS
from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.report import read_limits
from multigraft_loadtest.server import Server
from multigraft_loadtest.snippets import load_snippets
from multigraft_loadtest.stage import Place, Tasks, find_tasks, reached, target_of
from multigraft_loadtest.texts import Lengths, read_texts
from multigraft_loadtest.workload import Kind, Traffic, Workload

OWN_ADAPTERS = 8
USUAL_CLIENTS = 16
USUAL_REQUESTS = 200
CLASSIFIED_WORDS = Lengths(25, 25)
OF_FAMILY: dict[str, tuple[Kind, ...]] = {"decoder": ("generation",), "encoder": ("classification",)}


def report_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Runs the load test that the options ask for. Raises CannotStartError."""
    place, tasks = _place(options), _tasks(options)
    loop, limits = _loop(options), read_limits(options["slo"])
    texts = _texts(options, place.data_dir)
    prompts = read_texts(options["prompts"]) if options["prompts"] else []
    lengths = Lengths.parse(options["words"]), Lengths.parse(options["tokens"])
    with reached(place) as server:
        kinds = _kinds(options["kind"], place, server)
        names = {kind: find_tasks(place, server, tasks, kind) for kind in kinds}
        made = [_traffic(kind, names[kind], options, prompts, texts, lengths) for kind in kinds]
        workload = Workload(_shared(made, options["mix"]), **loop)
        target = target_of(place, server, options["api"])
        title = f"{target.name} on {target.base}: {' and '.join(kinds)}, {sum(map(len, names.values()))} tasks"
        client = Client(server.url, target, api_key=place.api_key, timeout_s=place.timeout_s)
        return {"url": server.url, **measure(client, target, workload, limits, title)}


def _place(options: Mapping[str, Any]) -> Place:
    if options["url"] is None and options["target"] != "multigraft":
        raise CannotStartError(f"only multigraft is started; for {options['target']} give its --url")
    if options["url"] is not None and options["serve_options"]:
        raise CannotStartError("options behind -- are of a server that is started, and --url names one that runs")
    fields = ("url", "api_key", "base", "data_dir", "target", "template", "serve_options")
    return Place(**{name: options[name] for name in fields}, timeout_s=options["timeout"])


def _tasks(options: Mapping[str, Any]) -> Tasks:
    named, asked = options["named"], options["adapters"]
    if named and (asked or options["is_bare"]):
        raise CannotStartError("--task names tasks that are there: give it without --adapters and --bare")
    usual = 0 if options["url"] or named else OWN_ADAPTERS
    adapters = usual if asked is None else asked
    return Tasks(named, adapters, options["methods"] or ("lora",), options["rank"], options["is_bare"])


def _loop(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a workload that say when requests are sent and when it ends."""
    given = [name for name in ("clients", "rate", "trace") if options[name] is not None]
    if len(given) > 1:
        raise CannotStartError(f"give one of --clients, --rate and --trace, not {' and '.join(given)}")
    trace = read_trace(options["trace"]) if options["trace"] else []
    clients = None if given and given[0] != "clients" else options["clients"] or USUAL_CLIENTS
    ends = options["requests"], options["seconds"]
    requests = USUAL_REQUESTS if ends == (None, None) and not trace else options["requests"]
    fields = {name: options[name] for name in ("rate", "cv", "seconds", "seed", "warm_up")}
    return {"clients": clients, "trace": trace, "num_requests": requests, **fields}


def _texts(options: Mapping[str, Any], data_dir: Path) -> list[str]:
    if options["texts"] == SNIPPETS:
        return load_snippets(data_dir)
    return read_texts(Path(options["texts"])) if options["texts"] else []


def _kinds(asked: str | None, place: Place, server: Server) -> Sequence[Kind]:
    if asked == "mixed":
        return ("generation", "classification")
    if asked is not None:
        return (cast(Kind, asked),)
    if place.target != "multigraft":
        return ("generation",)
    return OF_FAMILY[server.get("/v1/engine")["base"]["family"]]


def _traffic(
    kind: Kind,
    names: Sequence[str | None],
    options: Mapping[str, Any],
    prompts: Sequence[str],
    texts: Sequence[str],
    lengths: tuple[Lengths, Lengths],
) -> Traffic:
    if kind == "generation":
        words, tokens = lengths
        return Traffic(kind, names, options["popularity"], texts=prompts, prompt_words=words, output_tokens=tokens)
    kind = "embedding" if None in names else kind
    return Traffic(
        kind,
        names,
        options["popularity"],
        texts=texts,
        texts_per_request=options["texts_per_request"],
        prompt_words=CLASSIFIED_WORDS,
    )


def _shared(made: Sequence[Traffic], mix: float) -> list[tuple[Traffic, float]]:
    """Each kind with its share of the requests; `mix` is that of the last of two."""
    return list(zip(made, (1 - mix, mix) if len(made) > 1 else (1.0,), strict=True))
