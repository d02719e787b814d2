"""Miniatures of the datasets as their owners ship them: two classes, four training and two test videos each."""

import json
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

from vivit.data.datasets.registry import read_samples
from vivit.errors import DataError

from ..videos import counter_frames, write_video

FRAMES, RATE = 24, 12  # two seconds
CODECS = {".webm": "libvpx-vp9", ".avi": "mpeg4"}


@lru_cache
def _coded(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video{suffix}"
        write_video(path, counter_frames(FRAMES, 32, 48), codec=CODECS.get(suffix, "libx264"), fps=RATE)
        return path.read_bytes()


def videos(root: Path, *names: str) -> None:
    """Two seconds of counter frames under each of these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_coded(Path(name).suffix.lower()))


def text(root: Path, name: str, *lines: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def kinetics(root: Path) -> None:
    text(
        root,
        "annotations/train.csv",
        "label,youtube_id,time_start,time_end,split,is_cc",
        '"air drumming",-abc_DEF123,40,50,train,0',
        "zumba,0123456789a,3,13,train,0",
        '"air drumming",AbCdEfGhIjK,112,122,train,0',
        "zumba,lllllllllll,0,10,train,1",
    )
    text(
        root,
        "annotations/validate.csv",
        "label,youtube_id,time_start,time_end,split",
        "zumba,vvvvvvvvvvv,7,17,validate",
        "air drumming,wwwwwwwwwww,8,18,validate",
    )
    text(root, "annotations/test.csv", "youtube_id,time_start,time_end,split", "ttttttttttt,7,17,test")
    videos(root, "train/air drumming/-abc_DEF123_000040_000050.mp4", "train/zumba/0123456789a_000003_000013.mp4")
    videos(root, "train/air drumming/AbCdEfGhIjK_000112_000122.mp4", "train/zumba/lllllllllll_000000_000010.mp4")
    videos(root, "val/zumba/vvvvvvvvvvv_000007_000017.mp4", "val/air drumming/wwwwwwwwwww_000008_000018.mp4")


def ssv2(root: Path) -> None:
    def rows(*pairs: tuple[int, str]) -> list[str]:
        objects = [{"id": str(i), "label": "holding a cup", "template": t, "placeholders": ["a cup"]} for i, t in pairs]
        return ["[" + ",\n".join(json.dumps(o) for o in objects) + "]"]

    hold, drop = "Holding [something] behind [something]", "Dropping [something]"
    text(root, "something-something-v2-train.json", *rows((78687, hold), (3, drop), (41, hold), (10, drop)))
    text(root, "something-something-v2-validation.json", *rows((5, drop), (77, hold)))
    labels = {"Holding something behind something": "0", "Dropping something": "1"}
    text(root, "something-something-v2-labels.json", json.dumps(labels))
    videos(root, *(f"20bn-something-something-v2/{i}.webm" for i in (78687, 3, 41, 10, 5, 77)))


def epic_kitchens(root: Path) -> None:
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
        "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
    )
    text(
        root,
        "EPIC_100_train.csv",
        header,
        "P01_01_0,P01,P01_01,00:00:00.560,00:00:00.00,00:00:01.00,1,60,take plate,take,0,plate,2,['plate'],[2]",
        "P01_01_1,P01,P01_01,00:00:00.700,00:00:00.50,00:00:01.49,30,89,put tap,put,1,tap,0,\"['tap', 'fork']\",[0]",
        "P01_01_2,P01,P01_01,00:00:00.700,00:00:00.50,00:00:01.49,30,89,put tap,put,1,tap,0,['tap'],[0]",
        "P02_101_0,P02,P02_101,00:00:01.000,00:00:00.25,00:00:02.00,12,100,wash plate,wash,2,plate,2,['plate'],[2]",
    )
    text(
        root,
        "EPIC_100_validation.csv",
        header,
        "P01_02_0,P01,P01_02,00:00:00.560,00:00:01.00,00:00:01.75,60,105,take tap,take,0,tap,0,['tap'],[0]",
        "P01_02_1,P01,P01_02,00:00:00.560,00:00:00.25,00:00:01.00,15,60,put plate,put,1,plate,2,['plate'],[2]",
    )
    verbs = ("0,take,\"['take', 'grab']\",retrieve", "1,put,['put'],leave", "2,wash,['wash'],clean")
    nouns = ("0,tap,\"['tap', 'tap:water']\",appliances", "1,spoon,['spoon'],cutlery", "2,plate,['plate'],crockery")
    text(root, "EPIC_100_verb_classes.csv", "id,key,instances,category", *verbs)
    text(root, "EPIC_100_noun_classes.csv", "id,key,instances,category", *nouns)
    lines = [f"{video},{FRAMES / RATE},{float(RATE)},48x32" for video in ("P01_01", "P01_02", "P02_101")]
    text(root, "EPIC_100_video_info.csv", "video_id,duration,fps,resolution", *lines)
    videos(root, "P01/videos/P01_01.MP4", "P01/videos/P01_02.MP4", "P02/videos/P02_101.MP4")


def moments(root: Path) -> None:
    text(root, "moments_categories.txt", "washing,0", "adult+male+singing,1")
    text(
        root,
        "trainingSet.csv",
        "washing/yt-1_2.mp4,washing,3,0",
        "adult+male+singing/yt-1_2.mp4,adult+male+singing,4,1",
        "washing/getty-b.mp4,washing,3,0",
        "adult+male+singing/c.mp4,adult+male+singing,3,0",
    )
    text(root, "validationSet.csv", "adult+male+singing/d.mp4,adult+male+singing,3,0", "washing/e.mp4,washing,5,2")
    names = ("washing/yt-1_2", "adult+male+singing/yt-1_2", "washing/getty-b", "adult+male+singing/c")
    videos(root, *(f"training/{name}.mp4" for name in names))
    videos(root, "validation/adult+male+singing/d.mp4", "validation/washing/e.mp4")


def ucf101(root: Path) -> None:
    text(root, "ucfTrainTestlist/classInd.txt", "1 HandstandPushups", "2 Archery")
    names = [f"Archery/v_Archery_g0{i}_c01.avi" for i in range(3)]
    names += [f"HandstandPushups/v_HandStandPushups_g0{i}_c01.avi" for i in range(3)]  # S, as in the official lists
    for division in (1, 2, 3):
        test = [name for name in names if f"g0{division - 1}" in name]
        train = [f"{name} {2 if 'Archery' in name else 1}" for name in names if name not in test]
        text(root, f"ucfTrainTestlist/trainlist0{division}.txt", *train)
        text(root, f"ucfTrainTestlist/testlist0{division}.txt", *test)
    videos(root, *(f"UCF-101/{name.replace('HandStand', 'Handstand')}" for name in names))


def hmdb51(root: Path) -> None:
    for label in ("wave", "brush_hair"):
        names = [f"{label}_clip_{i}_u_nm_np1_ba_goo_0.avi" for i in range(4)]
        for division in (1, 2, 3):
            use = {0: 0, division: 2}
            lines = [f"{name} {use.get(i, 1)} " for i, name in enumerate(names)]
            text(root, f"testTrainMulti_7030_splits/{label}_test_split{division}.txt", *lines)
        videos(root, *(f"hmdb51_org/{label}/{name}" for name in names))


MINIATURES = {
    "kinetics400": kinetics,
    "ssv2": ssv2,
    "epic_kitchens": epic_kitchens,
    "moments": moments,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
}


def found(dataset: str, root: Path, split: str) -> list[tuple]:
    """(path below the root, *labels) of each sample."""
    return [
        (Path(s.path).relative_to(root).as_posix(), *s.labels.values()) for s in read_samples(dataset, str(root), split)
    ]


def problems(dataset: str, root: Path, split: str = "train") -> list[str]:
    """The lines of the error that reading gives, the title aside."""
    with pytest.raises(DataError) as error:
        read_samples(dataset, str(root), split)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def add(root: Path, name: str, *lines: str) -> int:
    """Append lines to an annotation file; the number of the first."""
    before = (root / name).read_text()
    (root / name).write_text(before + "".join(f"{line}\n" for line in lines))
    return before.count("\n") + 1
