"""Data: splits that never mix, folders in every layout, and errors that name the remedy."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from selfsim import load_images
from selfsim.files import files_state
from selfsim.models.images import Split
from selfsim.models.splits import Part

CLASSES = ("cat", "dog", "emu")


def make_folder(root, parts=("train", "test"), per_class=12, pixels=20):
    rng = np.random.default_rng(0)
    for part in parts:
        for number, name in enumerate(CLASSES):
            place = root / part / name
            place.mkdir(parents=True)
            for k in range(per_class):
                grey = rng.integers(0, 30, (pixels, pixels + 4, 3)) + 80 * number
                Image.fromarray(grey.astype(np.uint8)).save(place / f"{k}.png")
    return root


def image_bytes(split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


class TestDigits:
    def test_splits_are_complete_stratified_and_disjoint(self):
        digits = load_images("digits")
        assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1122, 225, 450]
        for split in (digits.train, digits.validation, digits.test):
            shares = torch.bincount(split.labels) / len(split)
            assert shares.min() > 0.08
            assert shares.max() < 0.12
        prints = [image_bytes(s) for s in (digits.train, digits.validation, digits.test)]
        assert not (prints[0] & prints[2] or prints[1] & prints[2] or prints[0] & prints[1])

    def test_are_the_real_ones(self):
        from sklearn.datasets import load_digits

        digits = load_images("digits")
        total = sum(int(split.images.sum()) for split in (digits.train, digits.validation, digits.test))
        assert total == pytest.approx(load_digits().images.sum() * 255 / 16, rel=1e-3)
        assert digits.classes == tuple("0123456789")

    def test_always_the_same(self):
        state = torch.get_rng_state()
        assert torch.equal(load_images("digits").test.images, load_images("digits").test.images)
        assert torch.equal(state, torch.get_rng_state())

    def test_a_subset_is_a_part_of_all_images(self):
        full, part = load_images("digits"), load_images("digits", train_images=100, test_images=50)
        assert [len(s) for s in (part.train, part.validation, part.test)] == [100, 50, 50]
        assert image_bytes(part.train) <= image_bytes(full.train)
        assert torch.bincount(part.train.labels).min() >= 8

    def test_validation_has_a_limit_of_its_own(self):
        part = load_images("digits", validation_images=30, test_images=50)
        assert [len(s) for s in (part.train, part.validation, part.test)] == [1122, 30, 50]

    def test_data_that_are_there_are_not_fetched_or_locked(self, tmp_path, monkeypatch):
        fetched = []

        class Fake:
            def __init__(self, root, *, train, download):
                if download:
                    fetched.append(train)
                    (root / "there").touch()
                if not (root / "there").exists():
                    raise RuntimeError("Dataset not found")
                self.targets, self.classes = [0, 1] * 20, ["a", "b"]
                self.data = np.zeros((40, 32, 32, 3), dtype=np.uint8)

        monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
        with pytest.raises(FileNotFoundError, match="Dataset not found"):
            load_images("cifar10", data_dir=tmp_path)
        states = []
        for _ in range(2):
            assert len(load_images("cifar10", data_dir=tmp_path, download=True).test) == 40
            states.append(files_state(tmp_path))
        assert fetched == [True, False] and states[0] == states[1]

    @pytest.mark.parametrize("number", [20, 21, 25, 31, 39])
    def test_few_images_have_every_class(self, number):
        part = Part(np.repeat(np.arange(20), 2), lambda chosen: chosen).limit(number)
        assert len(part) == number and len(np.unique(part.labels)) == 20

    def test_resized(self):
        assert load_images("digits", pixels=32).test.images.shape == (450, 1, 32, 32)

    def test_prepared_has_mean_0_and_deviation_1(self):
        digits = load_images("digits")
        x = digits.prepared(digits.train.images)
        assert x.mean().item() == pytest.approx(0, abs=1e-5)
        assert x.std().item() == pytest.approx(1, abs=1e-3)

    def test_batches_are_the_split_in_order(self):
        digits = load_images("digits")
        labels = torch.cat([y for _, y in digits.batches("test", batch_size=100)])
        assert torch.equal(labels, digits.test.labels)


class TestFingerprint:
    """Every difference in what training sees changes it, and nothing else does."""

    @pytest.fixture
    def few(self):
        return load_images("digits", train_images=40, validation_images=20, test_images=20)

    def test_is_stable(self, few):
        # Stored runs are compared with it: a new definition would refuse all of them.
        assert few.fingerprint == "cbdb7c352f4b4052a6f362c427d4a6752c48aeb23a7b91148adcbf931aa7ebd4"

    def test_does_not_depend_on_default_dtype_memory_format_or_title(self, few):
        default = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            again = load_images("digits", train_images=40, validation_images=20, test_images=20)
            assert again.fingerprint == few.fingerprint
            assert again.prepared(again.train.images).dtype == torch.float32
            x64 = again.prepared(again.train.images)
        finally:
            torch.set_default_dtype(default)
        assert torch.equal(x64, few.prepared(few.train.images))
        train = Split(few.train.images.contiguous(memory_format=torch.channels_last), few.train.labels.int())
        assert replace(few, title="other", train=train).fingerprint == few.fingerprint

    def test_changes_with_every_part_of_the_data(self, few):
        def changed(part, place, value):
            split = getattr(few, part)
            images, labels = split.images.clone(), split.labels.clone()
            (images if len(place) > 1 else labels)[place] = value
            return replace(few, **{part: Split(images, labels)})

        part = few.train
        order = torch.arange(len(part)).flip(0)
        others = {
            "a pixel of train": changed("train", (3, 0, 2, 2), 99),
            "a label of train": changed("train", (3,), 7),
            "a pixel of validation": changed("validation", (3, 0, 2, 2), 99),
            "a label of validation": changed("validation", (3,), 7),
            "a pixel of test": changed("test", (3, 0, 2, 2), 99),
            "a label of test": changed("test", (3,), 7),
            "order": replace(few, train=Split(part.images[order], part.labels[order])),
            "parts exchanged": replace(few, validation=few.test, test=few.validation),
            "shape": replace(few, train=Split(part.images.view(-1, 1, 4, 16), part.labels)),
            "class names": replace(few, classes=tuple("0123456798")),
            "class names joined": replace(few, classes=("01", *"23456789")),
            "normalisation": replace(few, mean=(0.25,)),
        }
        prints = {name: images.fingerprint for name, images in others.items()} | {"the data": few.fingerprint}
        assert len(set(prints.values())) == len(prints), prints
        for name in ("a pixel of test", "a label of test"):
            parts, before = others[name].part_fingerprints, few.part_fingerprints
            assert [key for key in parts if parts[key] != before[key]] == ["test"]


class TestFolder:
    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            (("train", "test"), (33, 3, 36)),
            (("train", "val"), (33, 3, 36)),  # as Imagenette's: val is what is reported
            (("train", "val", "test"), (36, 36, 36)),
            (("",), (26, 5, 5)),
        ],
    )
    def test_layouts(self, tmp_path, parts, expected):
        found = load_images("folder", data_dir=make_folder(tmp_path, parts), pixels=16)
        splits = (found.train, found.validation, found.test)
        assert tuple(map(len, splits)) == expected
        assert found.classes == CLASSES
        assert all(s.images.shape[1:] == (3, 16, 16) for s in splits)
        prints = [image_bytes(s) for s in splits]
        assert sum(map(len, prints)) == len(set.union(*prints)) == sum(expected)
        # Brightness was drawn by class: labels belong to their images.
        for split in splits:
            assert torch.equal((split.images.float().mean((1, 2, 3)) / 80).long(), split.labels)

    def test_not_in_the_order_of_the_folders(self, tmp_path):
        root = make_folder(tmp_path, ("train", "val", "test"))
        labels = load_images("folder", data_dir=root, pixels=8).validation.labels
        assert len(set(labels[:9].tolist())) > 1

    def test_cifar_as_folders(self, tmp_path):
        for part in ("train", "test"):
            for number in range(10):
                (tmp_path / part / f"class{number}").mkdir(parents=True)
                for k in range(5):
                    Image.new("RGB", (32, 32), (number, k, 0)).save(tmp_path / part / f"class{number}" / f"{k}.jpg")
        found = load_images("cifar10", data_dir=tmp_path)
        assert found.title == "CIFAR-10 (JPEG copy)"
        assert found.train.images.shape == (40, 3, 32, 32)
        with pytest.raises(ValueError, match="has 10 classes, need the 100 of cifar100"):
            load_images("cifar100", data_dir=tmp_path)

    def test_missing(self, tmp_path):
        for dataset in ("cifar10", "cifar100", "imagenette"):
            with pytest.raises(FileNotFoundError, match=f"(?s)none.*{dataset}.*download=True"):
                load_images(dataset, data_dir=tmp_path / "none")
            with pytest.raises(FileNotFoundError, match="data_dir: got none"):
                load_images(dataset)
        with pytest.raises(FileNotFoundError, match="none.*need a directory with a folder of images per class"):
            load_images("folder", data_dir=tmp_path / "none", pixels=8)

    def test_empty(self, tmp_path):
        with pytest.raises(ValueError, match=f"data_dir: '{tmp_path}.*need a directory"):
            load_images("folder", data_dir=tmp_path, pixels=8)
        make_folder(tmp_path)
        (tmp_path / "train" / "fox").mkdir()
        (tmp_path / "test" / "fox").mkdir()
        with pytest.raises(ValueError, match="fox' is a class without images"):
            load_images("folder", data_dir=tmp_path, pixels=8)

    def test_broken_image(self, tmp_path):
        broken = make_folder(tmp_path) / "train" / "dog" / "3.png"
        broken.write_bytes(broken.read_bytes()[:60])
        with pytest.raises(ValueError, match="data_dir: cannot read the image.*3.png.*restore, convert or delete"):
            load_images("folder", data_dir=tmp_path, pixels=8)

    def test_different_classes(self, tmp_path):
        make_folder(tmp_path)
        (tmp_path / "test" / "cat").rename(tmp_path / "test" / "cow")
        with pytest.raises(ValueError, match="different classes .'cat', 'cow' in one of two only"):
            load_images("folder", data_dir=tmp_path, pixels=8)

    def test_one_image_of_a_class(self, tmp_path):
        make_folder(tmp_path, ("",), per_class=1)
        with pytest.raises(ValueError, match="class 0 has 1 image left for two parts; need at least 3 of each class"):
            load_images("folder", data_dir=tmp_path, pixels=8)


class TestFolderNames:
    """Parts by their usual names, hidden folders never; what is unclear is an error."""

    def folder(self, root, *places, per_class=12):
        """Make a folder of images at each place; each image of this folder is another one."""
        for number, place in enumerate(places):
            (root / place).mkdir(parents=True, exist_ok=True)
            for k in range(per_class):
                Image.new("RGB", (8, 8), (number, k, 0)).save(root / place / f"{k}.png")
        return root

    def sizes(self, root):
        images = load_images("folder", data_dir=root, pixels=8)
        assert images.classes == ("cat", "dog")
        return len(images.train), len(images.validation), len(images.test)

    def test_synonyms_are_the_same_parts(self, tmp_path):
        for number, names in enumerate(
            (
                ("train", "valid", "test"),
                ("train", "validation", "test"),
                ("Train", "Val", "TEST"),
                ("training", "dev", "testing"),
            )
        ):
            places = [f"{number}/{part}/{name}" for part in names for name in ("cat", "dog")]
            assert self.sizes(self.folder(tmp_path, *places) / str(number)) == (24, 24, 24), names
        for number, second in enumerate(("validation", "Val", "testing")):
            places = [f"two{number}/{part}/{name}" for part in ("training", second) for name in ("cat", "dog")]
            assert self.sizes(self.folder(tmp_path, *places) / f"two{number}") == (22, 2, 24), second

    def test_hidden_folders_and_files_are_no_data(self, tmp_path):
        clean = self.folder(tmp_path / "clean", "cat", "dog")
        root = self.folder(tmp_path / "other", "cat", "dog")
        hidden = (".ipynb_checkpoints", "__MACOSX/cat", "@eaDir", ".git/train/cat", "cat/.ipynb_checkpoints")
        self.folder(root, *hidden, "dog/x/.thumbs")
        (root / "cat" / "._0.png").write_bytes(b"not an image: macOS puts its notes here")
        assert self.sizes(root) == self.sizes(clean)
        a, b = (load_images("folder", data_dir=place, pixels=8) for place in (clean, root))
        assert a.fingerprint == b.fingerprint
        parts = self.folder(tmp_path / "parts", *(f"{p}/{c}" for p in ("train", "test") for c in ("cat", "dog")))
        self.folder(parts, "train/.ipynb_checkpoints", ".ipynb_checkpoints")
        assert self.sizes(parts) == (22, 2, 24)

    def test_a_class_called_train_is_a_class(self, tmp_path):
        root = self.folder(tmp_path, "bus", "car", "train")
        assert load_images("folder", data_dir=root, pixels=8).classes == ("bus", "car", "train")

    def test_names_close_to_those_of_parts_beside_classes_are_classes(self, tmp_path):
        root = self.folder(tmp_path, "brain/axial", "liver/axial", "rest/axial")
        assert load_images("folder", data_dir=root, pixels=8).classes == ("brain", "liver", "rest")

    def test_other_folders_beside_train_are_named_in_a_warning(self, tmp_path):
        root = self.folder(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", "figures")
        (root / "train_logs").mkdir()
        with pytest.warns(UserWarning, match="data_dir: '.*figures' is not read") as warned:
            assert self.sizes(root) == (22, 2, 24)
        assert warned[0].filename == __file__

    def test_unclear_folders_are_errors(self, tmp_path):
        parts, classes = ("train", "test"), ("cat", "dog")
        for number, (places, message) in enumerate(
            (
                ([f"{p}/{c}" for p in (*parts, "vaild") for c in classes], "vaild' may be a part"),
                ([f"{p}/{c}" for p in (*parts, "train2017") for c in classes], "train2017' may be a part"),
                ([f"{p}/{c}" for p in (*parts, "extra") for c in classes], "extra' may be a part"),
                ([f"{p}/{c}" for p in ("train", "tset") for c in classes], "tset' may be a part"),
                ([f"{p}/{c}" for p in ("trian", "tset") for c in classes], "may hold parts or classes"),
                ([f"{p}/{c}" for p in ("train_images", "val_images") for c in classes], "may hold parts or classes"),
                (
                    [f"{c}/{p}" for p in parts for c in classes],
                    "may hold parts or classes: .*'cat' has 'test', 'train'",
                ),
                (
                    [f"pets/{p}/{c}" for p in parts for c in classes],
                    "may hold parts or classes: .*'pets' has 'test', 'train'",
                ),
                ([f"pets/{c}" for c in classes], "may hold parts or classes: .*'pets' has 'cat', 'dog'"),
                ([f"{p}/{c}" for p in ("train", "val", "valid") for c in classes], "both 'val' and 'valid'"),
                ([f"{p}/{c}" for p in ("val", "test") for c in classes], "but no train/"),
                (["train", "test"], "train' has no folders of images"),
                (["train/a", "test/a"], "train' has only one folder of images"),
                (["train/cat", "train/dog", "test"], "'cat', 'dog' in one of two only"),
            )
        ):
            root = self.folder(tmp_path / str(number), *places, per_class=2)
            with pytest.raises(ValueError, match=f"data_dir: .*({message})"):
                load_images("folder", data_dir=root, pixels=8)

    def test_home_directory(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        make_folder(tmp_path / "pictures")
        found = load_images("folder", data_dir="~/pictures", pixels=8)
        assert (found.title, len(found.test)) == ("pictures", 36)
        with pytest.raises(FileNotFoundError, match="no directory '~no-such-user/x'"):
            load_images("folder", data_dir="~no-such-user/x", pixels=8)


class TestTorchvision:
    """The real reader on small files of the real format; only the check of their sums is taken out."""

    @pytest.fixture
    def cifar(self, tmp_path, monkeypatch):
        from torchvision.datasets import CIFAR10

        folder = tmp_path / CIFAR10.base_folder
        folder.mkdir()
        rng = np.random.default_rng(0)
        for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
            batch = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [k % 10 for k in range(20)]}
            (folder / name).write_bytes(pickle.dumps(batch))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
        return tmp_path

    def test_cifar10(self, cifar):
        found = load_images("cifar10", data_dir=cifar)
        assert found.title == "CIFAR-10"
        assert [len(s) for s in (found.train, found.validation, found.test)] == [90, 10, 20]
        assert found.train.images.shape == (90, 3, 32, 32)
        assert found.classes[3] == "class 3"

    def test_torchvision_downloads_only_on_request(self, tmp_path, monkeypatch):
        from torchvision.datasets import CIFAR10

        calls = []
        monkeypatch.setattr(CIFAR10, "download", lambda self: calls.append(self.root))
        with pytest.raises(FileNotFoundError, match="is incomplete"):
            load_images("cifar10", data_dir=tmp_path)
        assert calls == []
        with pytest.raises(FileNotFoundError, match="is incomplete"):
            load_images("cifar10", data_dir=tmp_path, download=True)
        assert len(calls) == 1


def test_splits_of_other_types_or_sizes_are_refused():
    images, labels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    for wrong, message in (
        ((images / 255, labels), "images: got torch.float32 of shape .3, 1, 8, 8., need uint8"),
        ((images[:, 0], labels), "images: got torch.uint8 of shape .3, 8, 8., need uint8"),
        ((images, labels[:2]), "labels: got shape .2,., need .3,."),
        ((images, labels / 2), "labels: got torch.float32, need whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            Split(*wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "cifar"}, "dataset: got 'cifar'.*did you mean 'cifar10'"),
        ({"pixels": 0}, "pixels: got 0"),
        ({"train_images": -1}, "train_images: got -1"),
        ({"train_images": 5}, "train_images, validation_images, test_images: got 5, need at least one for each of 10"),
        ({"dataset": "folder", "data_dir": "."}, "pixels: got None for a folder"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_images(**{"dataset": "digits"} | arguments)
