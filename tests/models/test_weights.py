"""Weights: from a file or a tag, with a head for other classes, never executed, with errors that help."""

from __future__ import annotations

import pickle

import pytest
import torch

from selfsim import create


def tiny(**options) -> torch.nn.Module:
    return create("resnet34", **{"size": "tiny", "num_classes": 10} | options)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_from_a_local_file(tmp_path):
    model, path = tiny(), tmp_path / "weights.pt"
    for wrap in (lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}):
        for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
            torch.save(wrap({prefix + name: value for name, value in model.state_dict().items()}), path)
            assert same(model, tiny(weights=path)), prefix


def test_from_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors comes with timm")
    model = tiny()
    safetensors.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    assert same(model, tiny(weights=tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("name", ["mlp", "resmlp", "mixer", "vit_small", "pvt", "vgg11", "resnet34", "poolformer"])
def test_a_head_for_other_classes_is_left_as_initialised_with_a_warning(tmp_path, name):
    model = create(name, size="tiny", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.warns(UserWarning, match="is for 7 classes, the model has 10") as warned:
        again = create(name, size="tiny", num_classes=10, weights=tmp_path / "weights.pt")
    assert len(warned) == 2  # weight and bias
    state = model.state_dict()
    differ = [key for key, value in again.state_dict().items() if not torch.equal(value, state[key])]
    assert len(differ) == 2


class Marks:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


UNREADABLE = "weights: weights.* cannot be read as tensors alone"


@pytest.mark.parametrize("how", ["in a state dict", "alone", "plain pickle"])
def test_nothing_in_the_file_is_executed(tmp_path, how):
    path, marker = tmp_path / "weights.pt", tmp_path / "marker"
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(Marks(marker), protocol=2))
    else:
        torch.save({"head.weight": Marks(marker)} if how == "in a state dict" else Marks(marker), path)
    with pytest.raises(ValueError, match=UNREADABLE):
        tiny(weights=path)
    assert not marker.exists()
    if how == "plain pickle":  # the marker would have shown
        pickle.loads(path.read_bytes()).close()
        assert marker.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_files_that_cannot_be_read(tmp_path, name, content):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors", reason="safetensors comes with timm")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=UNREADABLE):
        tiny(weights=tmp_path / name)


def test_pickled_models_are_refused(tmp_path):
    torch.save(tiny(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=UNREADABLE):
        tiny(weights=tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({3: torch.zeros(1)}, "has 3 of Tensor, need names and tensors"),
        ({"epoch": 3}, "has 'epoch' of int, need names and tensors"),
    ],
)
def test_entries_that_are_no_weights(tmp_path, entry, message):
    torch.save({**tiny().state_dict(), **entry}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=message):
        tiny(weights=tmp_path / "weights.pt")


def test_values_that_the_model_cannot_hold(tmp_path):
    path, state = tmp_path / "weights.pt", tiny().state_dict()
    for name, value in (
        ("fc.bias", torch.full((10,), float("nan"))),
        ("fc.bias", torch.full((10,), 1e300, dtype=torch.float64)),  # finite, but infinite in float32
        ("fc.bias", torch.zeros(10, dtype=torch.complex64)),
        ("fc.weight", torch.zeros(10, 256).to_sparse()),
        ("fc.bias", torch.zeros(10, device="meta")),
        ("bn1.num_batches_tracked", torch.tensor(1e300, dtype=torch.float64)),
        ("bn1.num_batches_tracked", torch.tensor(0.5)),
    ):
        assert value.shape == state[name].shape
        torch.save({**state, name: value}, path)
        with pytest.raises(
            ValueError, match=f"weights: '{name}' in weights.pt has {value.dtype} values that are no fin"
        ):
            tiny(weights=path)


def test_values_in_another_type_are_cast(tmp_path):
    path, model = tmp_path / "weights.pt", tiny()
    for dtype in (torch.float64, torch.bfloat16, torch.float8_e5m2):
        state = {name: value.to(dtype) for name, value in model.state_dict().items()}
        torch.save(state, path)
        loaded = tiny(weights=path).state_dict()
        assert all(torch.equal(loaded[name], value.to(loaded[name].dtype)) for name, value in state.items())


def test_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    torch.save(tiny().state_dict(), tmp_path / "weights.pt")
    tiny(weights="~/weights.pt")


def test_files_that_do_not_fit(tmp_path):
    path = tmp_path / "weights.pt"
    with pytest.raises(FileNotFoundError, match="weights: no file"):
        tiny(weights=path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="weights: weights.pt holds no state dict"):
        tiny(weights=path)
    torch.save(tiny(in_chans=1).state_dict(), path)
    with pytest.raises(ValueError, match=r"does not fit ResNet at this size \(of another shape: conv1.weight\)"):
        tiny(weights=path)
    torch.save({**tiny().state_dict(), "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"left over: extra\)"):
        tiny(weights=path)
    torch.save(create("mlp", size="tiny", num_classes=10).state_dict(), path)
    with pytest.raises(ValueError, match=r"missing: conv1.weight, .* and \d+ more; left over: blocks"):
        tiny(weights=path)


def offline(*args, pretrained, **kwargs):
    raise OSError("no network")


def test_pretrained_without_a_network_says_what_to_do(monkeypatch):
    import timm

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match="weights of 'resnet34' could not be fetched.*pass the file as weights="):
        tiny(size="paper", pretrained=True)


@pytest.mark.parametrize("tag", ["a1_in1k", "resnet34.a1_in1k"])
def test_a_tag_is_passed_on(monkeypatch, tag):
    import timm

    calls = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: calls.append((name, options["pretrained"])))
    tiny(size="paper", pretrained=tag)
    assert calls == [("resnet34.a1_in1k", True)]


def test_an_unknown_tag_names_the_known():
    with pytest.raises(ValueError, match="pretrained: got 'a1_in1', need one of 'a1_in1k', .*did you mean 'a1_in1k'"):
        tiny(size="paper", pretrained="a1_in1")
