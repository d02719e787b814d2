"""Choose the frames and crops of the views of a test video, and read them with numpy alone.

Needs no PyTorch. With PyTorch `vivit.data.dataset` reads the same views, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..config import EvalConfig, ModelConfig
from ..errors import VideoError, as_video_error
from .clips import clip_frames, frame_range, view_starts
from .remote import is_url, read_video
from .sample import Sample
from .transforms import center_box, crop, eval_boxes, resize_for_eval
from .video.decoder import Video
from .video.frame_folder import FrameFolder, open_video
from .video.frames import OpenVideo

MAX_TICKS = 2**22  # evenly spaced times for clip_seconds: 46 hours at 25 a second


def open_sample(sample: Sample) -> Video | FrameFolder:
    """Open the video of a sample: a file, a folder of images, or bytes inside a tar file.

    The one door from a sample to its frames. A file behind a URL is read whole into memory. Raises VideoError.
    """
    with as_video_error(sample.path):
        if sample.offset is None or sample.index is None:
            if is_url(sample.path):
                return Video(sample.path, data=read_video(sample.path), index=sample.index)
            return open_video(sample.path, fps=sample.fps, index=sample.index)
        from .shards import read_packed  # imports PyTorch

        return Video(sample.path, data=read_packed(sample.path, sample.offset, sample.index.size), index=sample.index)


def segment_frames(video: OpenVideo, sample: Sample) -> range:
    """Return the numbers of the frames in the sample's segment. Raises VideoError if there are none."""
    frames = frame_range(video.times, video.duration, sample.start, sample.end)
    if frames:
        return frames
    part = f"no frame between {sample.start or 0} s and {'the end' if sample.end is None else f'{sample.end} s'}"
    shown = f"the video lasts {video.duration:.2f} s"
    if video.times[0] > 0:
        shown = f"the video shows frames from {video.times[0]:.2f} s to {video.duration:.2f} s"
    raise VideoError(sample.path, f"{part}; {shown}", "a segment inside its video")


def clips_of(frame_ids: np.ndarray, views: int, num_frames: int, frame_stride: float) -> list[np.ndarray]:
    """Return the frame numbers, (num_frames,) each, of `views` evenly spaced clips of a video."""
    n = len(frame_ids)
    starts = view_starts(n, num_frames=num_frames, frame_stride=frame_stride, views=views)
    return [frame_ids[clip_frames(s, n, num_frames=num_frames, frame_stride=frame_stride)] for s in starts]


def candidate_frames(video: OpenVideo, sample: Sample, model: ModelConfig) -> tuple[np.ndarray, float]:
    """Return the frame numbers of which clips are made, in order of time, and the stride of a clip in this list.

    Without `clip_seconds` these are the frames of the sample's segment. With it they are the frames shown at evenly
    spaced times, at the mean frame rate, so that a clip has the same duration whatever the (variable) frame rate.
    """
    p, times = model.preprocessing, video.times
    frames = segment_frames(video, sample)
    if p.clip_seconds is None:
        return np.arange(frames.start, frames.stop), p.frame_stride
    seconds = float(times[frames[-1]] - times[frames[0]])
    num_ticks = seconds * video.fps + 1
    if not num_ticks < max(MAX_TICKS, 2 * len(frames)):
        reason = f"{len(frames)} frames spread over {seconds:.4g} s, at {video.fps:.4g} a second"
        raise VideoError(sample.path, reason, f"at most {MAX_TICKS} ticks of the clock that clip_seconds needs")
    ticks = clock_ticks(video, frames, round(num_ticks))
    frame_ids = np.searchsorted(times, ticks + 0.5 / video.fps, side="right") - 1
    return np.clip(frame_ids, frames[0], frames[-1]), p.clip_seconds * video.fps / model.num_frames


def clock_ticks(video: OpenVideo, frames: range, number: int) -> np.ndarray:
    """Return the evenly spaced seconds (number,) at which `clip_seconds` looks at a video, from the first frame on."""
    return np.arange(number) / video.fps + video.times[frames[0]]


def candidate_times(
    video: OpenVideo, sample: Sample, model: ModelConfig, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds (n,) at which each of `candidate_frames` appears, and those at which it ends.

    With `clip_seconds` a frame that stays on display is a candidate at every tick of the clock, and each of them is
    shown from its tick to the next.
    """
    shown = np.append(video.times, video.duration)
    begin, end = shown[candidates], shown[candidates + 1]
    if model.preprocessing.clip_seconds is None:
        return begin, end
    ticks = clock_ticks(video, segment_frames(video, sample), len(candidates))
    begin = np.clip(ticks, begin, end)
    return begin, np.clip(np.append(ticks[1:], np.inf), begin, end)


@dataclass(frozen=True)
class ViewPlan:
    """Which frames of a video its views are cut from."""

    frame_ids: list[int]
    """The frames to decode, ascending."""
    clips: list[list[int]]
    """The places in `frame_ids` of the frames of each clip."""
    spatial_views: list[int]
    """The crops of each clip."""
    image_size: tuple[int, int]

    def cut(self, frames: Any) -> list[Any]:
        """Cut resized frames (n, C, H', W'), an array or a tensor, into views (T, C, H, W)."""
        return [
            crop(frames[clip], box)
            for clip, spatial in zip(self.clips, self.spatial_views)
            for box in eval_boxes(*frames.shape[-2:], image_size=self.image_size, views=spatial)
        ]


def plan_views(video: OpenVideo, sample: Sample, model: ModelConfig, protocol: EvalConfig) -> ViewPlan:
    """Choose the single view, then the temporal x spatial views, unless the protocol is the single view."""
    frame_ids, frame_stride = candidate_frames(video, sample, model)
    single, views = (1, 1), (protocol.temporal_views, protocol.spatial_views)
    protocols: Sequence[tuple[int, int]] = [single] if views == single else [single, views]
    groups = [clips_of(frame_ids, temporal, model.num_frames, frame_stride) for temporal, _ in protocols]
    needed, where = np.unique(np.concatenate([np.concatenate(group) for group in groups]), return_inverse=True)
    spatial_views = [spatial for group, (_, spatial) in zip(groups, protocols) for _ in group]
    return ViewPlan(needed.tolist(), where.reshape(-1, model.num_frames).tolist(), spatial_views, model.image_size)


def eval_views(sample: Sample, model: ModelConfig, protocol: EvalConfig) -> np.ndarray:
    """Return the views of a test video, (V, T, C, H, W) uint8, as `vivit.data.dataset.eval_views` does.

    Raises VideoError, whatever goes wrong.
    """
    with as_video_error(sample.path):
        video = open_sample(sample)
        plan = plan_views(video, sample, model, protocol)
        box = center_box(video.height, video.width, image_size=model.image_size)
        resize = partial(resize_for_eval, image_size=model.image_size, crop_fraction=model.preprocessing.crop_fraction)
        images = (image.transpose(2, 0, 1)[None] for _, image in video.images(plan.frame_ids))
        return np.stack(plan.cut(np.concatenate([resize(crop(image, box)) for image in images])))
