"""UCF101 and HMDB51: three divisions each, the order of the classes, and wrong rows."""

import pytest

from vivit.data.datasets.registry import official_classes, read_samples
from vivit.data.sample_table import encode_labels
from vivit.errors import DataError

from .official import add, found, hmdb51, problems, text, ucf101


@pytest.mark.parametrize("division", [1, 2, 3])
def test_each_division_has_its_own_lists(division, tmp_path):
    ucf101(tmp_path / "ucf")
    hmdb51(tmp_path / "hmdb")
    for split in (f"train{division}", f"test{division}"):
        inside = [i for i in range(3) if (i == division - 1) == (split[:4] == "test")]
        expected = [(f"UCF-101/Archery/v_Archery_g0{i}_c01.avi", "Archery") for i in inside]
        # The files are written with a small s.
        name = "UCF-101/HandstandPushups/v_HandstandPushups_g0{}_c01.avi"
        expected += [(name.format(i), "HandstandPushups") for i in inside]
        assert found("ucf101", tmp_path / "ucf", split) == expected
        inside = [i for i in range(1, 4) if (i == division) == (split[:4] == "test")]
        name = "hmdb51_org/{0}/{0}_clip_{1}_u_nm_np1_ba_goo_0.avi"
        expected = [(name.format(label, i), label) for label in ("brush_hair", "wave") for i in inside]
        assert found("hmdb51", tmp_path / "hmdb", split) == expected


def test_without_a_number_it_is_the_first_division_and_val_is_its_test_list(tmp_path):
    ucf101(tmp_path / "ucf101")
    hmdb51(tmp_path / "hmdb51")
    for dataset in ("ucf101", "hmdb51"):
        root = tmp_path / dataset
        assert found(dataset, root, "train") == found(dataset, root, "train1") != found(dataset, root, "train2")
        assert found(dataset, root, "val") == found(dataset, root, "test") == found(dataset, root, "test1")
        with pytest.raises(DataError, match="unknown split 'train4'"):
            read_samples(dataset, str(root), "train4")


def test_classes_are_in_the_official_order(tmp_path):
    ucf101(tmp_path / "ucf101")
    hmdb51(tmp_path / "hmdb51")
    classes = official_classes("ucf101", str(tmp_path / "ucf101"))
    assert classes == {"action": ("HandstandPushups", "Archery")}  # classInd.txt
    assert encode_labels(read_samples("ucf101", str(tmp_path / "ucf101"), "test"), classes).tolist() == [[1], [0]]
    assert official_classes("hmdb51", str(tmp_path / "hmdb51")) == {"action": ("brush_hair", "wave")}


def test_every_wrong_row_of_ucf101_is_listed_at_once_with_file_and_line(tmp_path):
    ucf101(tmp_path)
    add(tmp_path, "ucfTrainTestlist/classInd.txt", "4 Bowling")
    first = add(
        tmp_path,
        "ucfTrainTestlist/trainlist01.txt",
        "Archry/v_Archery_g01_c01.avi 2",
        "Archery/v_Archery_g05_c01.avi 1",
        "../Archery/v_Archery_g06_c01.avi",
        "Archery/v_Archery_g01_c01.avi 2",
    )
    expected = [
        "classInd.txt:3: got 4 Bowling; expected 3 and a class",
        f"trainlist01.txt:{first}: class 'Archry' is not among the 3 classes; did you mean 'Archery'?",
        f"trainlist01.txt:{first + 1}: number 1 is not that of Archery, 2",
        f"trainlist01.txt:{first + 2}: ../Archery/v_Archery_g06_c01.avi is outside {tmp_path}",
        f"trainlist01.txt:{first + 2}: class '../Archery' is not among the 3 classes; did you mean 'Archery'?",
        f"trainlist01.txt:{first + 3}: Archery/v_Archery_g01_c01.avi again, after trainlist01.txt:1",
    ]
    assert sorted(problems("ucf101", tmp_path)) == sorted(expected)


def test_every_wrong_row_of_hmdb51_is_listed_at_once_with_file_and_line(tmp_path):
    hmdb51(tmp_path)
    folder = "testTrainMulti_7030_splits"
    first = add(tmp_path, f"{folder}/wave_test_split1.txt", "x.avi 3", "y.avi", "../z.avi 1")
    text(tmp_path, f"{folder}/run_test_split1.txt", "")
    name = "brush_hair_clip_2_u_nm_np1_ba_goo_0.avi"
    again = add(tmp_path, f"{folder}/brush_hair_test_split1.txt", f"{name} 1")
    expected = [
        f"wave_test_split1.txt:{first}: got 3 after the name; allowed are 1 (train), 2 (test), 0",
        f"wave_test_split1.txt:{first + 1}: got no number after the name; allowed are 1 (train), 2 (test), 0",
        f"wave_test_split1.txt:{first + 2}: ../z.avi is outside {tmp_path}",
        "run_test_split1.txt: no rows",
        f"brush_hair_test_split1.txt:{again}: brush_hair/{name} again, after brush_hair_test_split1.txt:3",
    ]
    assert sorted(problems("hmdb51", tmp_path)) == sorted(expected)


@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51"])
def test_lists_that_are_not_there_are_named(dataset, tmp_path):
    assert any(
        line.startswith(("no classInd.txt in", "no CLASS_test_split1.txt in")) for line in problems(dataset, tmp_path)
    )
    with pytest.raises(DataError, match="no list of classes"):
        official_classes(dataset, str(tmp_path))
