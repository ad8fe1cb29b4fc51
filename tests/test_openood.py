"""Real images: OpenOOD's folders, your own folders, and what is wrong with them."""

import os
import re
import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oal_lite import openood
from oal_lite.benchmarks import Benchmark, ImageSet, load
from oal_lite.images import ImageFile, LazyImages, join, read_image, read_images, subset
from oal_lite.teacher import Teacher
from oal_lite.train import predict
from oal_lite.views import augment, draw_views

WORDS = "airplane automobile bird cat deer dog frog horse ship truck".split()
NEAR, FAR = {"cifar100", "tin"}, {"mnist", "svhn", "texture", "places365"}


def picture(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_list(root, name, lines, dataset="cifar10"):
    folder = root / "benchmark_imglist" / dataset
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def write_images(root, paths, folder="images_classic"):
    for i, path in enumerate(paths):
        (root / folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(root / folder / path)


def make_root(root, *, each=3, ood=("cifar100", "tin", "mnist", "svhn", "texture", "places365")):
    """A small CIFAR-10 in OpenOOD's layout with these OOD sets."""
    for split in ("train", "val", "test"):
        lines = [
            f"cifar10/{split}/{w}/{i}.png {c}" for c, w in enumerate(WORDS) for i in range(each)
        ]
        write_list(root, f"{split}_cifar10", lines)
        write_images(root, [line.split()[0] for line in lines])
    for name in ood:
        lines = [f"{name}/some images/{i}.png -1" for i in range(4)]
        write_list(root, f"test_{name}", lines)
        write_images(root, [line.rpartition(" ")[0] for line in lines])
    if "tin" in ood:
        write_list(root, "val_tin", ["tin/some images/0.png -1", "tin/some images/1.png -1"])
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("cifar"))


# --- what is read ------------------------------------------------------------------------------


def test_the_official_splits_and_sets_are_read_without_a_warning(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        b = load("cifar10", data_root=root)
    assert [len(s) for s in (b.train, b.val, b.test)] == [30, 30, 30]
    assert set(b.near) == NEAR and set(b.far) == FAR and set(b.validation_ood) == {"val_tin"}
    assert b.missing == () and b.class_names == tuple(WORDS) and b.image_size == 32
    assert b.train.labels.tolist() == [c for c in range(10) for _ in range(3)]
    for s in (*b.near.values(), *b.far.values(), *b.validation_ood.values()):
        assert (s.labels == -1).all() and s.images.dtype == torch.uint8


def test_pixels_are_those_of_the_files_in_the_order_of_the_list(root):
    b = load("cifar10", data_root=root)
    path = root / "images_classic/cifar10/train/bird/1.png"
    expected = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    assert torch.equal(b.train.images[7], expected)


def test_missing_sets_are_named_in_one_warning_and_left_out(tmp_path):
    make_root(tmp_path, ood=("cifar100", "svhn"))
    write_list(tmp_path, "test_mnist", ["mnist/test/0.png -1"])  # a list whose images are missing
    with pytest.warns(UserWarning) as caught:
        b = load("cifar10", data_root=tmp_path)
    assert len(caught) == 1
    assert "tin, mnist, texture, places365, val_tin" in str(caught[0].message)
    assert b.missing == ("tin", "mnist", "texture", "places365", "val_tin")
    assert set(b.near) == {"cifar100"} and set(b.far) == {"svhn"} and not b.validation_ood


def test_sizes_are_spread_over_the_classes_and_the_seed_chooses(root):
    some = dict(n_train=20, n_val=15, n_test=10, n_ood=2)
    b, again, other = (load("cifar10", data_root=root, seed=s, **some) for s in (0, 0, 1))
    assert torch.bincount(b.train.labels).tolist() == [2] * 10
    for image, label in zip(b.train.images, b.train.labels, strict=True):  # three files a class
        own = [np.array(picture(3 * int(label) + i)) for i in range(3)]
        assert any((image.permute(1, 2, 0).numpy() == x).all() for x in own)
    assert set(torch.bincount(b.val.labels).tolist()) == {1, 2}
    assert {len(s) for s in (*b.near.values(), *b.far.values())} == {2}
    assert torch.equal(b.train.images, again.train.images)
    assert not torch.equal(b.train.images, other.train.images)


def test_imagenet200_streams_lists_of_either_folder(tmp_path):
    words = [f"word_{i:03d}" for i in range(200)]
    for split in ("train", "val", "test"):
        lines = [f"imagenet_1k/{split}/{w}/0.png {c}" for c, w in enumerate(words)]
        write_list(tmp_path, f"{split}_imagenet200", lines, "imagenet200")
        write_images(tmp_path, [line.split()[0] for line in lines], "images_largescale")
    write_list(tmp_path, "test_ninco", ["ninco/a/0.png -1"], "imagenet")
    write_images(tmp_path, ["ninco/a/0.png"], "images_largescale")
    write_list(tmp_path, "test_textures", ["texture/a/0.png -1"], "imagenet200")
    write_images(tmp_path, ["texture/a/0.png"])  # beside the small sets, as OpenOOD has it
    with pytest.warns(UserWarning, match="ssb_hard, inaturalist, openimage_o, val_openimage_o"):
        b = load("imagenet200", data_root=tmp_path, n_train=3, n_val=200, n_test=200)
    assert set(b.near) == {"ninco"} and set(b.far) == {"textures"}
    assert b.class_names[7] == "word 007" and b.image_size == 224
    b2 = load_quietly("imagenet200", tmp_path, memory=10**6)
    assert isinstance(b2.train.images, LazyImages) and len(b2.train) == 200
    assert torch.equal(b2.val.images[:3], b.val.images[:3])


def load_quietly(name, root, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return openood.load(name, root, **how)


def test_another_list_or_another_set_is_another_fingerprint(tmp_path):
    make_root(tmp_path, ood=("cifar100",))
    seen = {openood.fingerprint("cifar10", tmp_path)}
    write_list(tmp_path, "test_mnist", ["mnist/test/0.png -1"])
    assert openood.fingerprint("cifar10", tmp_path) in seen  # its images are not there
    write_images(tmp_path, ["mnist/test/0.png"])
    seen.add(openood.fingerprint("cifar10", tmp_path))
    write_list(tmp_path, "test_mnist", ["mnist/test/0.png -1", "mnist/test/0.png -1"])
    seen.add(openood.fingerprint("cifar10", tmp_path))
    assert len(seen) == 3


# --- one image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "x.tif"
    picture(0).convert(mode).save(path)
    assert read_image(ImageFile(path, "here"), resize=32, crop=32).shape == (3, 32, 32)


@pytest.mark.parametrize("turn", [0, 90])
def test_an_image_is_resized_by_its_shorter_side_and_cropped_in_the_middle(tmp_path, turn):
    long = Image.new("RGB", (200, 100), "blue")
    long.paste("red", (75, 25, 125, 75))  # in the middle, half as high as the image
    long.rotate(turn, expand=True).save(tmp_path / "long.png")
    image = read_image(ImageFile(tmp_path / "long.png", "here"), resize=50, crop=40).float()
    assert image.shape == (3, 40, 40)
    red, blue = torch.tensor([255.0, 0, 0]).view(3, 1, 1), torch.tensor([0, 0, 255.0]).view(3, 1, 1)
    assert (image[:, 9:31, 9:31] == red).all()  # 25 pixels of the 40
    for edge in (image[:, :6], image[:, -6:], image[:, :, :6], image[:, :, -6:]):
        assert (edge == blue).all()


def test_lazy_images_are_those_of_the_tensor(tmp_path):
    write_images(tmp_path, [f"{i}.png" for i in range(7)], "f")
    files = [ImageFile(tmp_path / f"f/{i}.png", "here") for i in range(7)]
    whole = read_images(files, resize=32, crop=32)
    lazy = read_images(files, resize=32, crop=32, memory=100)
    assert isinstance(whole, torch.Tensor) and isinstance(lazy, LazyImages)
    assert lazy.shape == whole.shape and len(lazy) == 7
    index = torch.tensor([5, 0, 0])
    assert torch.equal(lazy[index], whole[index]) and torch.equal(lazy[2:5], whole[2:5])
    assert torch.equal(torch.stack(list(lazy)), whole) and torch.equal(lazy[-1], whole[-1])
    assert torch.equal(torch.cat([lazy[i : i + 3] for i in range(0, len(lazy), 3)]), whole)
    assert torch.equal(subset(lazy, index)[:], whole[index])
    parts = [whole[:2], lazy, whole[4:]]
    row, index = join(parts), torch.tensor([11, 0, 8, 9, 2, 1, 2])
    assert isinstance(row, LazyImages) and len(row) == 2 + 7 + 3
    expected = torch.cat([whole[:2], whole, whole[4:]])
    assert torch.equal(row[:], expected) and torch.equal(row[index], expected[index])
    assert torch.equal(join([whole[:2], whole[4:]]), torch.cat([whole[:2], whole[4:]]))


def test_training_and_scoring_read_lazy_images_like_a_tensor(tmp_path, tiny_teacher: Teacher):
    from oal_lite.students import ResNet18

    write_images(tmp_path, [f"{i}.png" for i in range(6)], "f")
    files = [ImageFile(tmp_path / f"f/{i}.png", "here") for i in range(6)]
    whole = read_images(files, resize=32, crop=32)
    lazy = read_images(files, resize=32, crop=32, memory=1)
    labels = torch.arange(6)
    a, b = (
        draw_views(x, labels, tiny_teacher, n_views=2, generator=torch.Generator().manual_seed(3))
        for x in (whole, lazy)
    )
    view, pick = torch.tensor([1, 0, 1]), torch.tensor([4, 4, 2])
    assert torch.equal(a.images[view, pick], b.images[view, pick]) and len(b.images) == 2
    assert torch.equal(a.teacher_features, b.teacher_features)
    student = ResNet18(3, width=2)
    assert torch.equal(predict(student, whole)[0], predict(student, lazy)[0])
    assert not torch.equal(a.images[0], a.images[1])
    assert torch.equal(a.images[0], augment(whole, torch.Generator().manual_seed(3)))


# --- what is wrong with it ---------------------------------------------------------------------


def damaged(tmp_path, line, number=2, name="train_cifar10"):
    make_root(tmp_path)
    path = tmp_path / "benchmark_imglist" / "cifar10" / f"{name}.txt"
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines))
    return re.escape(f"{path}, line {number}: ")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("cifar10/train/airplane/1.png 10", "label 10 is out of range; expected 0 to 9"),
        ("cifar10/train/airplane/1.png -1", "label -1 is out of range; expected 0 to 9"),
        ("cifar10/train/airplane/1.png", "'cifar10/train/airplane/1.png' is not 'path label'"),
        ("cifar10/train/airplane/1.png cat", "is not 'path label'"),
        ("cifar10/train/airplane/99.png 0", "there is no file"),
        ("../../secret.png 0", "leaves the image folder"),
        ("cifar10/train/airplane/1.png " + "1" * 5000, "is not 'path label'"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, line, sentence):
    where = damaged(tmp_path, line)
    with pytest.raises(ValueError, match=where) as caught:
        load("cifar10", data_root=tmp_path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_byte_order_mark_changes_nothing(tmp_path):
    make_root(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = load("cifar10", data_root=tmp_path)
        for path in (tmp_path / "benchmark_imglist/cifar10").glob("*.txt"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        marked = load("cifar10", data_root=tmp_path)
    assert torch.equal(marked.train.images, plain.train.images)
    assert marked.near.keys() == plain.near.keys() and marked.missing == plain.missing


def test_an_ood_list_holds_only_minus_one(tmp_path):
    where = damaged(tmp_path, "tin/some images/1.png 3", name="test_tin")
    with pytest.raises(ValueError, match=where + "label 3 is out of range; expected -1"):
        load("cifar10", data_root=tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_corrupt_image_is_named_with_file_and_line(tmp_path, content):
    make_root(tmp_path)
    path = tmp_path / "images_classic/cifar10/val/airplane/1.png"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(
        ValueError, match="val_cifar10.txt, line 2: .*airplane/1.png cannot be read"
    ):
        load("cifar10", data_root=tmp_path)


def test_an_empty_list_a_missing_split_and_a_wrong_root_are_named(tmp_path):
    make_root(tmp_path)
    lists = tmp_path / "benchmark_imglist/cifar10"
    (lists / "test_tin.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="test_tin.txt lists no image"):
        load("cifar10", data_root=tmp_path)
    (lists / "val_cifar10.txt").unlink()
    with pytest.raises(ValueError, match="lacks val_cifar10.txt"):
        load("cifar10", data_root=tmp_path)
    with pytest.raises(ValueError, match="nowhere' is no folder; expected one that holds bench"):
        load("cifar10", data_root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="cifar100 lacks train_cifar100.txt"):
        load("cifar100", data_root=tmp_path)
    with pytest.raises(ValueError, match="cifar10 is read from files: name the folder"):
        load("cifar10")
    with pytest.raises(ValueError, match="'shapes' is rendered"):
        load("shapes", data_root=tmp_path)


def test_a_class_without_images_is_named(tmp_path):
    make_root(tmp_path)
    path = tmp_path / "benchmark_imglist/cifar10/train_cifar10.txt"
    path.write_text("\n".join(x for x in path.read_text().splitlines() if "/frog/" not in x))
    with pytest.raises(ValueError, match="lists no image of class 6"):
        load("cifar10", data_root=tmp_path)


# --- your own folders --------------------------------------------------------------------------


def make_flowers(root, each=10):
    for name in ("rose", "sea_holly", "tulip"):
        write_images(root, [f"{name}/{i}.png" for i in range(each)], "flowers")
    write_images(root, [f"deep/{i}.png" for i in range(5)], "weeds")
    write_images(root, [f"{i}.png" for i in range(4)], "cars")
    return root


def test_your_own_folders_become_a_benchmark(tmp_path):
    make_flowers(tmp_path)
    make = lambda **how: Benchmark.from_folders(  # noqa: E731
        tmp_path / "flowers", near={"weeds": tmp_path / "weeds"}, far={"cars": tmp_path / "cars"},
        **how,
    )  # fmt: skip
    b = make()
    assert b.class_names == ("rose", "sea holly", "tulip") and b.name == "flowers"
    assert [torch.bincount(s.labels).tolist() for s in (b.train, b.val, b.test)] == [
        [7] * 3, [1] * 3, [2] * 3,
    ]  # fmt: skip
    assert len(b.near["weeds"]) == 5 and len(b.far["cars"]) == 4 and b.image_size == 32
    assert make(image_size=16).image_size == 16
    assert not torch.equal(make(seed=1).test.images, b.test.images)
    splits = [ImageSet(s.images, s.labels) for s in (b.train, b.val, b.test)]
    for c in range(3):  # the pictures of a class are ten different ones
        whole = torch.cat([s.images[s.labels == c] for s in splits])
        assert len(whole) == len(whole.unique(dim=0)) == 10, "an image is in two splits"


def test_folders_train_val_test_are_kept_as_they_are(tmp_path):
    for split, n in {"train": 3, "val": 1, "test": 2}.items():
        write_images(tmp_path, [f"{split}/{c}/{i}.png" for c in "ab" for i in range(n)], "id")
    write_images(tmp_path, ["0.png"], "weeds")
    b = Benchmark.from_folders(tmp_path / "id", near={"x": tmp_path / "weeds"})
    assert [len(s) for s in (b.train, b.val, b.test)] == [6, 2, 4] and not b.far


def test_train_and_test_without_val_are_no_two_classes(tmp_path):
    write_images(tmp_path, [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab"
                            for i in range(4)], "id")  # fmt: skip
    with pytest.raises(ValueError, match="has train, test and not all of train, val and test"):
        Benchmark.from_folders(tmp_path / "id", near={"x": tmp_path / "id/test/a"})


def test_an_image_is_in_one_set_alone(tmp_path):
    make_flowers(tmp_path)
    weeds, flowers = tmp_path / "weeds", tmp_path / "flowers"
    make = Benchmark.from_folders
    with pytest.raises(ValueError, match="tulip/.* belongs to the ID images and to OOD set 'x'"):
        make(flowers, near={"x": flowers / "tulip"})
    with pytest.raises(ValueError, match="belongs to OOD set 'x' and to OOD set 'y'; an image is"):
        make(flowers, near={"x": weeds}, validation_ood={"y": weeds / "deep"})
    (tmp_path / "link").symlink_to(weeds)
    with pytest.raises(ValueError, match="belongs to OOD set 'x' and to OOD set 'y'"):
        make(flowers, near={"x": weeds}, far={"y": tmp_path / "link"})
    (weeds / "link.png").symlink_to(next((flowers / "tulip").glob("*.png")))
    with pytest.raises(ValueError, match="tulip/.* belongs to the ID images and to OOD set 'x'"):
        make(flowers, near={"x": weeds})


def test_sixteen_bits_of_grey_become_eight(tmp_path):
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    read = read_image(ImageFile(tmp_path / "x.png", "list"), resize=8, crop=8)
    assert read.shape == (3, 8, 8) and (read[0] == read[2]).all()
    assert np.abs(read[0].numpy() - ramp / 257).max() <= 1


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (Image.new("RGB", (1, 3000)), "x.tif has 1 x 3000 pixels, no picture"),
        (Image.new("F", (8, 8)), "pixels of mode F, whose range nobody knows"),
        (Image.new("I", (8, 8)), "pixels of mode I, whose range nobody knows"),
    ],
)
def test_what_is_no_picture_is_named_with_its_place(tmp_path, picture, sentence):
    picture.save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="a list, line 3: ") as caught:
        read_image(ImageFile(tmp_path / "x.tif", "a list, line 3"), resize=32, crop=32)
    assert sentence in str(caught.value)


def test_what_is_wrong_with_your_folders_is_said(tmp_path, own_errors):
    make_flowers(tmp_path)
    weeds, flowers = tmp_path / "weeds", tmp_path / "flowers"
    with pytest.raises(ValueError, match="shares=0.2; expected two"):
        Benchmark.from_folders(flowers, near={"x": weeds}, shares=0.2)
    shutil.copytree(flowers, tmp_path / "twice")
    for name in ("sea_holly", "sea holly"):
        (tmp_path / "twice" / name).mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="two folders of one class name"):
        Benchmark.from_folders(tmp_path / "twice", near={"x": weeds})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nowhere is no folder"):
        Benchmark.from_folders(flowers, near={"x": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match="empty holds no image"):
        Benchmark.from_folders(flowers, near={"x": tmp_path / "empty"})
    with pytest.raises(ValueError, match="holds 1 class folder"):
        Benchmark.from_folders(weeds, near={"x": weeds})
    with pytest.raises(ValueError, match="each needs its own name"):
        Benchmark.from_folders(flowers, near={"x": weeds}, far={"x": weeds})
    with pytest.raises(ValueError, match="do not divide into train, val and test"):
        Benchmark.from_folders(flowers, near={"x": weeds}, shares=(0.5, 0.5))
    (weeds / "deep/1.png").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="weeds: .*1.png cannot be read as an image"):
        Benchmark.from_folders(flowers, near={"x": weeds})


# --- the real archives -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_root(tmp_path_factory):
    """CIFAR-10 unpacked from ../shared/data, or from where OAL_LITE_SHARED_DATA points."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    archives = Path(os.environ.get("OAL_LITE_SHARED_DATA", beside))
    if not (archives / "cifar10-eval.tar.xz").is_file():
        pytest.skip("no cifar10-eval.tar.xz in ../shared/data; set OAL_LITE_SHARED_DATA to have it")
    folder = tmp_path_factory.mktemp("real")
    for name in ("cifar10-eval.tar.xz", "cifar10-train.tar.xz"):
        with tarfile.open(archives / name) as archive:
            archive.extractall(folder, filter="data")
    return folder


def test_the_real_cifar10_has_the_official_sizes(real_root):
    with pytest.warns(UserWarning, match="tin, mnist, svhn, texture, places365, val_tin"):
        b = load("cifar10", data_root=real_root, n_train=5_000)
    assert [len(s) for s in (b.train, b.val, b.test)] == [5_000, 1_000, 9_000]
    assert {k: len(s) for k, s in b.near.items()} == {"cifar100": 9_000}
    assert torch.bincount(b.train.labels).tolist() == [500] * 10
    path, folder = openood.at_hand("cifar10", real_root)["train_cifar10"]
    assert len(openood.read_list(path, folder, range(10))[0]) == 50_000
    assert b.class_names == tuple(WORDS) and isinstance(b.train.images, torch.Tensor)
    mean = b.train.images.float().mean((0, 2, 3)) / 255  # published: 0.491, 0.482, 0.447
    assert torch.allclose(mean, torch.tensor([0.491, 0.482, 0.447]), atol=0.01)


def test_where_no_official_far_set_is_there_the_embedded_ones_stand_in_if_asked(tmp_path):
    make_root(tmp_path, ood=("cifar100",))
    with pytest.warns(UserWarning, match="averages leave them out"):
        plain, asked = (
            load("cifar10", data_root=tmp_path, n_ood=7, embedded_far=e) for e in (False, True)
        )
    assert not plain.far and set(asked.far) == {"digits", "photos", "stripes", "noise"}
    assert all(s.images.shape == (7, 3, 32, 32) and (s.labels == -1).all()
               for s in asked.far.values())  # fmt: skip
    assert asked.missing == plain.missing, "the table still says what is not at hand"
    make_root(tmp_path, ood=("cifar100", "svhn"))
    with pytest.warns(UserWarning, match="averages leave them out"):
        b = load("cifar10", data_root=tmp_path, embedded_far=True)
    assert set(b.far) == {"svhn"}, "an official set is not mixed with others"


def test_classes_of_your_own_folders_are_divided_apart():
    from oal_lite.image_folders import _divide

    def numbers(name):
        files = [ImageFile(Path(name, f"{i:02}.png"), name) for i in range(30)]
        return [[f.path.name for f in part] for part in _divide(files, (0.1, 0.2), 0)]

    assert numbers("rose") == numbers("rose") != numbers("tulip")
