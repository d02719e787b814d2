"""`vivit stream`: scores over time of a camera, a pipe or an address, while it comes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from ..text import printable
from .parse import WithAnyWeights, parse
from .predict import Predict, load_any

if TYPE_CHECKING:
    from ..inference.events import Webhook
    from ..inference.segments import Segment

USAGE = "vivit stream WEIGHTS SOURCE [SOURCE ...] [options]"
USUAL = ("hop", "protocol", "top_k", "crops", "when_slow", "events", "webhook", "thresholds")


@dataclass(frozen=True)
class StreamOptions(WithAnyWeights):
    """Print scores of streams as JSON lines, one every --hop seconds.

    SOURCE is a file, - for standard input, a camera such as /dev/video0, or an address. A camera or address that fails
    is opened again. Several sources are computed together. Ctrl-C ends the streams; then the latency is printed.
    """

    sources: Positional[tuple[str, ...]] = ()
    """Files, - for standard input, cameras such as /dev/video0, or addresses with --protocol."""
    hop: float = 0.5
    """Seconds from one line to the next, rounded to temporal positions of the model."""
    protocol: Literal["tcp", "udp", "http", "https", "rtsp", "rtmp"] | None = None
    """The protocol that an address may use. Without it nothing is read from the network."""
    top_k: int = 5
    """Classes to show of each label set."""
    crops: Literal[1, 3] = 1
    """1 center crop, or the mean over 3 crops along the longer side."""
    when_slow: Literal["auto", "drop", "wait"] = "auto"
    """drop: leave out the oldest temporal positions; wait: fall behind. auto: wait for files and pipes, else drop."""
    open_timeout: float = 5.0
    """Seconds to wait for an answer when a camera or address is opened."""
    read_timeout: float = 3.0
    """Seconds without data after which a camera or address is opened again."""
    give_up: float = 300.0
    """Seconds without a frame after which the command ends with an error."""
    events: bool = False
    """Also print a line for each segment when it ends: {"source", "event": {label_set, label, start, end, score}}."""
    thresholds: str | None = None
    """The file of thresholds that `vivit timeline --fit` wrote, for --events and --webhook."""
    background: tuple[str, ...] = ()
    """Classes that are no event."""
    webhook: str | None = None
    """A URL that gets each event as JSON; a slow or dead one never delays the stream."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it, else float32."""

    def __post_init__(self):
        for name in ("hop", "top_k", "open_timeout", "read_timeout", "give_up"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it takes a number above 0")


def run(args: list[str]) -> None:
    """Print a line per row of the stream that the arguments name, and the latency at its end."""
    asked = parse(StreamOptions, args, usage=USAGE, usual=USUAL)
    if not asked.sources:
        raise ValueError(f"no source to read; usage: {USAGE}")
    if twice := [name for name, count in Counter(asked.sources).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given more than once; its lines could not be told apart")
    from ..data.video.live import ADDRESS, Source
    from ..inference.events import Events, Webhook
    from ..inference.segment_fit import load_params
    from ..inference.segments import SegmentParams
    from ..inference.stream import Statistics, streams

    times = (asked.open_timeout, asked.read_timeout, asked.give_up)
    sources = [Source(name, asked.protocol if ADDRESS.match(name) else None, *times) for name in asked.sources]
    for source in sources:
        source.kind  # refuses an address before the model is loaded  # noqa: B018
    model = load_any(Predict(asked.weights, device=asked.device, precision=asked.precision))
    params = webhook = None
    if asked.events or asked.webhook:
        params = load_params(asked.thresholds) if asked.thresholds else SegmentParams()
        params = replace(params, background=(*params.background, *asked.background))
        params.check_names(model.config.classes)
    if asked.webhook:
        webhook = Webhook(asked.webhook, log=lambda text: print(text, file=sys.stderr, flush=True))
    statistics = [Statistics() for _ in sources]
    rows = streams(
        model,
        sources,
        hop=asked.hop,
        crops=asked.crops,
        precision=asked.precision,
        drop=None if asked.when_slow == "auto" else asked.when_slow == "drop",
        log=lambda text: print(text, file=sys.stderr, flush=True),
        statistics=statistics,
    )
    classes = {name: list(names) for name, names in model.config.classes.items()}
    events: dict[str, Events] = {}
    try:
        with closing(rows):
            for number, row in rows:
                name = asked.sources[number]
                print(json.dumps({"source": name, **row.to_dict(classes, asked.top_k)}), flush=True)
                if params is not None:
                    own = events.setdefault(name, Events(classes, statistics[number].hop, params))
                    report(own.push(row.start, row.end, row.center, row.logits, row.connection), name, asked, webhook)
    except KeyboardInterrupt:
        pass
    finally:
        for name, own in events.items():
            report(own.finish(), name, asked, webhook)
        if webhook is not None:
            webhook.close()
        for name, one in zip(asked.sources, statistics):
            print(f"{printable(name)}: {one}" if len(sources) > 1 else one, file=sys.stderr)


def report(ended: Sequence[Segment], source: str, asked: StreamOptions, webhook: Webhook | None) -> None:
    """Print events of a source and send them to the webhook."""
    for segment in ended:
        event = {"source": source, "event": asdict(segment)}
        if asked.events:
            print(json.dumps(event), flush=True)
        if webhook is not None:
            webhook.put(event)
