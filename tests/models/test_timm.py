"""Any timm model: the probe reads the smallest model of every timm model module."""

from __future__ import annotations

import warnings

import pytest
import torch

from selfsim import Probe
from tests.models.smallest_timm import SMALLEST

timm = pytest.importorskip("timm", reason="timm comes with the extra 'models'")

# Minutes of computing at their own input sizes: these are run without numbers, for the shapes.
SHAPES_ONLY = {"deepseek_vit", "gemma4_vit", "hieradet_sam2", "naflexvit", "qwen3_vit"}

# Models that the default options do not read, why, and the options that do.
EXCEPTIONS = {
    "tnt": ("its blocks give (tokens of pixels, tokens of patches), and the first are no activations", {"part": 1}),
}

# Attention with and without class token, channels last, convolution, several tensors: seconds.
FAST = ("coat", "convnext", "crossvit", "efficientnet", "levit", "mambaout", "maxxvit", "nfnet", "resnet", "xcit")


KNOWN = set(timm.list_modules())


def activations_of(module: str, **options) -> dict[str, torch.Tensor]:
    name, pixels = SMALLEST[module]
    if module not in KNOWN or name not in timm.list_models(module=module):
        pytest.skip(f"timm {timm.__version__} has no {name!r}")
    with warnings.catch_warnings(), torch.device("meta" if module in SHAPES_ONLY else "cpu"), torch.no_grad():
        warnings.simplefilter("ignore")  # timm's own, on deprecated names
        model = timm.create_model(name).eval()
        with (probe := Probe(model, **options)):
            model(torch.rand(2, 3, pixels, pixels))
    return probe.activations


def check(found: dict[str, torch.Tensor]) -> None:
    assert len(found) >= 3
    for layer, values in found.items():
        assert values.ndim == 2 and len(values) == 2, f"{layer}: {tuple(values.shape)}"
        assert values.shape[1] >= 8, f"{layer}: {tuple(values.shape)}"
        assert values.is_meta or values.isfinite().all(), layer


def test_the_table_has_every_module_of_timm():
    assert set(SMALLEST) >= KNOWN, "a newer version of timm: run tests/models/smallest_timm.py"
    named = [module for module in KNOWN if SMALLEST[module][0] in timm.list_models(module=module)]
    assert len(named) > 0.9 * len(KNOWN)  # an older version lacks some of the names
    assert len(EXCEPTIONS) <= 1


@pytest.mark.parametrize("module", FAST)
def test_some_modules(module):
    check(activations_of(module))


@pytest.mark.long
@pytest.mark.parametrize("module", sorted(set(SMALLEST) - set(FAST) - set(EXCEPTIONS)))
def test_every_module(module):
    check(activations_of(module))


@pytest.mark.long
@pytest.mark.parametrize("module", EXCEPTIONS)
def test_exceptions_are_read_with_options(module):
    _, options = EXCEPTIONS[module]
    assert any(len(values) != 2 for values in activations_of(module).values())
    check(activations_of(module, **options))


@pytest.mark.parametrize(
    ("name", "pixels", "pattern"),
    [
        ("test_convnext", 96, "stages.{}.blocks.*"),
        ("test_resnet", 96, "layer{}.*"),
        pytest.param("swin_tiny_patch4_window7_224", 224, "layers.{}.blocks.*", marks=pytest.mark.long),
        pytest.param("pvt_v2_b0", 96, "stages.{}", marks=pytest.mark.long),
    ],
)
def test_stages_agree_with_timms_own_intermediates(name, pixels, pattern):
    model = timm.create_model(name).eval()
    images = torch.rand(2, 3, pixels, pixels)
    first = 1 if "layer{}" in pattern else 0
    layers = [pattern.format(stage) for stage in range(first, first + 4)]
    with torch.no_grad():
        with (probe := Probe(model, layers)):
            model(images)
        maps = model.forward_intermediates(images, intermediates_only=True)[-4:]
    for layer, expected in zip(layers, maps, strict=True):
        stage = layer.removesuffix(".*")
        last = [values for name, values in probe.activations.items() if (name + ".").startswith(stage + ".")][-1]
        torch.testing.assert_close(last, expected.mean((2, 3)), rtol=1e-4, atol=1e-4)
