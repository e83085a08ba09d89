import numpy as np
import pytest
from PIL import Image

from seglens.experiments.celeba import IMAGES, LABELS, MASKS, PARTS, draw_faces, folder_hash, read_faces


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces")
    draw_faces(path, 6, seed=0)
    return path


def test_drawn_faces_are_read_back_as_19_classes_in_three_colours(folder):
    slices = read_faces(folder, 64, most=100)
    assert (len(slices), slices.size) == (6, (1, 64, 64))
    assert tuple(slices.sequences) == ("red", "green", "blue")
    assert len(slices.labels) == 19
    seen = {LABELS[value] for value in slices.masks().unique().tolist()}
    assert {"skin", "hair", "l_eye", "r_eye", "nose", "u_lip", "cloth"} <= seen
    assert float(slices.images().min()) >= -1
    assert float(slices.images().max()) <= 1
    assert [slices.index["split"].to_list().count(split) for split in ("train", "val", "test")] == [4, 1, 1]


def test_one_seed_draws_the_same_and_a_changed_mask_is_another_folder(folder, tmp_path):
    again = tmp_path / "again"
    draw_faces(again, 6, seed=0)
    assert folder_hash(again, 100) == folder_hash(folder, 100)
    mask = again / MASKS / "0" / "00003_skin.png"
    Image.fromarray(np.zeros((128, 128), np.uint8)).save(mask)
    assert folder_hash(again, 100) != folder_hash(folder, 100)


def test_a_later_part_lies_on_an_earlier_one(tmp_path):
    (tmp_path / IMAGES).mkdir()
    masks = tmp_path / MASKS / "1"  # 2000 faces a folder
    masks.mkdir(parents=True)
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save(tmp_path / IMAGES / "2001.jpg")
    whole = np.full((32, 32), 255, np.uint8)
    right = whole.copy()
    right[:, :16] = 0
    Image.fromarray(whole).save(masks / "02001_skin.png")
    Image.fromarray(right).save(masks / "02001_hat.png")
    (mask,) = read_faces(tmp_path, 32, most=1).masks()
    assert (mask[..., :16] == PARTS.index("skin") + 1).all()
    assert (mask[..., 16:] == PARTS.index("hat") + 1).all()


def test_what_is_no_such_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no CelebA-HQ-img/<number>\.jpg there"):
        read_faces(tmp_path, 32, most=10)
    (tmp_path / IMAGES).mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / IMAGES / "7.jpg")
    with pytest.raises(ValueError, match=r"images 7 \(1\) have no part in CelebAMask-HQ-mask-anno"):
        read_faces(tmp_path, 32, most=10)
