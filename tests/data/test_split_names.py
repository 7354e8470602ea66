"""Names of splits are recognised in every usual form, and other names are not."""

import pytest

from pipelines.data.split_names import split_in_file_name, split_named


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Training", "TRAIN", "train_set", "trainset", "videos_train")),
        *((name, "val") for name in ("val", "dev", "eval", "valid", "Validation", "validate", "dev-set", "evaluation")),
        *((name, "test") for name in ("test", "Testing", "test data", "test.videos", " test ")),
        *((name, "") for name in ("", "trains", "contest", "station", "devil", "value", "a", "train_1", "data", "set")),
    ],
)
def test_a_folder_or_a_value_names_a_split(name: str, split: str) -> None:
    assert split_named(name) == split


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("jester-v1-train.csv", "train"),
        ("something-something-v2-validation.json", "val"),
        ("ucf101_val_split_1_videos.txt", "val"),
        ("lists/testlist01.txt", "test"),
        ("trainset.csv", "train"),
        ("train_test.txt", ""),
        ("train/labels.txt", ""),
        ("training.csv", "train"),
        ("contest.csv", ""),
    ],
)
def test_the_name_of_a_list_tells_its_split(name: str, split: str) -> None:
    assert split_in_file_name(name) == split
