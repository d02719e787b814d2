"""Serve a model as a Hugging Face endpoint; `push_to_hub` uploads this file as handler.py."""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from typing import Any

PARAMETERS = ("top_k", "temporal_views", "spatial_views", "start", "end", "precision")


class EndpointHandler:
    """What a Hugging Face endpoint calls: made once with the folder of the model, then called with each request."""

    def __init__(self, path: str = ""):
        import vivit
        from vivit.engine.device import choose_attention, pick_device

        device = pick_device()
        choose_attention(device)
        self.model = vivit.from_pretrained(path).to(device)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Classify {"inputs": the bytes of a video, or their base64, "parameters": {...}}: [{"label", "score"}].

        Parameters are `label_set` (default: the first one) and those of `vivit.predict` that PARAMETERS lists. Raises
        ValueError for others and for inputs that are no video bytes, VideoError for bytes that cannot be decoded.
        """
        import vivit

        parameters = dict(data.get("parameters") or {})
        label_set = parameters.pop("label_set", None) or next(iter(self.model.config.classes))
        if unknown := [name for name in parameters if name not in PARAMETERS]:
            raise ValueError(f"unknown parameters {unknown}; allowed: label_set, {', '.join(PARAMETERS)}")
        if label_set not in self.model.config.classes:
            raise ValueError(f"label_set is {label_set!r}; the model has {', '.join(self.model.config.classes)}")
        file, path = tempfile.mkstemp()
        try:
            with open(file, "wb") as opened:
                opened.write(to_bytes(data.get("inputs")))
            found = vivit.predict(self.model, path, **parameters)
        finally:
            os.unlink(path)
        return [{"label": name, "score": probability} for name, probability in found.classes[label_set]]


def to_bytes(inputs: Any) -> bytes:
    """Return the bytes of a video from bytes or base64. Raises ValueError for anything else, such as an address."""
    if isinstance(inputs, bytes | bytearray):
        return bytes(inputs)
    try:
        return base64.b64decode(inputs, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError(
            f"inputs is a {type(inputs).__name__}; send the bytes of a video or their base64; addresses are not fetched"
        ) from None
