"""Tasks with predictions for Label Studio, to correct segments by hand"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from .common import FormatOptions, Videos, one_label_set, path_of, seconds, to_json


def write_label_studio(file: IO[str], videos: Videos, options: FormatOptions) -> None:
    """Write tasks with predictions for the TimelineLabels of Label Studio.

    Its frames count from 1 at `options.fps`, and the last one is part of a region. The `Video` tag must have the same
    frame rate: `label_studio_config` takes it from the tasks.
    """
    one_label_set(videos, "labelstudio")
    tasks = []
    for timeline, found in videos:
        regions = []
        for i, one in enumerate(found):
            first = round(seconds(one.start) * options.fps) + 1
            last = max(round(one.end * options.fps), first)
            value = {"ranges": [{"start": first, "end": last}], "timelinelabels": [one.label]}
            region = {"id": f"s{i}", "type": "timelinelabels", "from_name": "timeline", "to_name": "video"}
            regions.append(region | {"value": value, "score": round(one.score, 6)})
        mean = sum(one.score for one in found) / len(found) if found else 0.0
        path = path_of(timeline, options)
        tasks.append(
            {
                "data": {"video": options.url_prefix + quote(os.fsencode(path)), "fps": options.fps},
                "predictions": [{"model_version": "vivit", "score": round(mean, 6), "result": regions}],
            }
        )
    file.write(to_json(tasks, indent=1) + "\n")


def label_studio_config(labels: Sequence[str]) -> str:
    """Return the labeling configuration, XML, that fits the tasks of `write_label_studio`."""
    rows = "\n".join(f"    <Label value={quoteattr(label)}/>" for label in labels)
    return (
        '<View>\n  <Video name="video" value="$video" frameRate="$fps"/>\n'
        f'  <TimelineLabels name="timeline" toName="video">\n{rows}\n  </TimelineLabels>\n</View>\n'
    )
