"""The probe: what it reads, what it leaves as it was, what it refuses."""

from __future__ import annotations

import copy
import pickle
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from selfsim import Probe, activations, create
from selfsim.models.layers import natural_layers


class Tokens(nn.Module):
    """Gives (samples, tokens, channels)."""

    def forward(self, x):
        return x[:, :, None] * torch.arange(1.0, 4.0)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(0, 1)


def in_ddp(model: nn.Module) -> nn.Module:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(model)


@contextmanager
def undone_group():
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_reads_what_the_layer_gives_with_its_gradient():
    model = mlp()
    x = torch.randn(8, 4)
    with (probe := Probe(model, ["0", "1"])):
        model(x)
    assert torch.equal(probe.activations["1"], model[1](model[0](x)))
    probe.activations["1"].sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("module", "x", "expected"),
    [
        (nn.Identity(), torch.rand(5, 7), lambda x: x),
        (nn.Identity(), torch.rand(5, 9, 7), lambda x: x.mean(1)),
        (nn.Identity(), torch.rand(5, 7, 3, 4), lambda x: x.flatten(2).mean(2)),
    ],
    ids=["vectors", "tokens", "maps"],
)
def test_pools_by_rank(module, x, expected):
    model = nn.Sequential(module)
    with (probe := Probe(model, ["0"])):
        model(x)
    torch.testing.assert_close(probe.activations["0"], expected(x))


def test_tuple_output_is_read_at_its_first_tensor():
    model = nn.Sequential(nn.MultiheadAttention(8, 2, batch_first=True))
    with (probe := Probe(model, ["0"])):
        y, _ = model[0](*[torch.rand(3, 5, 8)] * 3)
    torch.testing.assert_close(probe.activations["0"], y.mean(1))


def test_hooks_are_gone_also_after_an_exception():
    model = mlp()
    probe = Probe(model, ["1"])
    with probe:
        assert hooks(model) == 3  # of the layer, and of the model, for whether it runs
    assert hooks(model) == 0
    with pytest.raises(RuntimeError), probe:
        model(torch.rand(2, 999))
    assert hooks(model) == 0


def test_only_one_block_at_a_time():
    probe = Probe(mlp(), ["1"])
    with probe, pytest.raises(RuntimeError, match="already inside"), probe:
        pass


@pytest.mark.parametrize("compiled_first", [True, False])
def test_a_model_compiled_apart_from_its_probe_is_read(compiled_first):
    model, x = mlp().eval(), torch.rand(5, 4)
    probe = None if compiled_first else Probe(model, ["1"])
    compiled = torch.compile(model, backend="eager")
    function = torch.compile(lambda x: 2 * model(x), backend="eager")
    for call in (compiled, function):
        call(x)  # once without hooks, so that the compiled code has none
    probe = probe or Probe(model, ["1"])
    for call in (compiled, function):
        with probe:
            call(x)
        torch.testing.assert_close(probe.activations["1"], model[1](model[0](x)))
        read = probe.activations["1"]
        call(torch.rand(3, 4))  # outside the block nothing is read
        assert probe.activations["1"] is read and hooks(model) == 0


def test_a_compiled_step_may_hold_the_block():
    model = mlp().eval()
    probe = Probe(model, ["1"])

    @torch.compile(backend="eager")
    def step(x):
        with probe:
            y = model(x)
        return y.sum() + probe.activations["1"].sum()

    for n in (3, 6):
        x = torch.rand(n, 4)
        torch.testing.assert_close(step(x), model(x).sum() + model[:2](x).sum())
        assert probe.activations["1"].shape == (n, 16) and hooks(model) == 0


def test_scripted_parts_are_named_as_unsupported():
    model = nn.Sequential(torch.jit.script(nn.Linear(4, 4)), nn.ReLU())
    with pytest.raises(ValueError, match="layers: '0' is a ScriptModule, which takes no hooks"):
        Probe(model, ["0", "1"])
    with pytest.raises(ValueError, match="model: got a ScriptModule, which takes no hooks"):
        Probe(torch.jit.script(mlp()))
    with (probe := Probe(model, ["1"])):
        model(torch.rand(2, 4))
    assert probe.activations["1"].shape == (2, 4)


def test_a_failed_entry_leaves_nothing_behind(monkeypatch):
    model, x = mlp(), torch.rand(2, 4)
    probe = Probe(model, ["0", "1"])
    probe.mask = torch.tensor([1, 1])
    with pytest.raises(ValueError, match="mask: got shape"), probe:
        pass
    assert probe.mask is None and hooks(model) == 0

    def refuse(hook):
        raise RuntimeError("no hooks here")

    with monkeypatch.context() as patch:
        patch.setattr(model[1], "register_forward_hook", refuse)
        with pytest.raises(RuntimeError, match="no hooks here"), probe:
            pass
    assert hooks(model) == 0
    with probe:
        model(x)
    assert probe.activations["1"].shape == (2, 16)


class Holder(nn.Module):
    """Holds a probe of itself, as a LightningModule does."""

    def __init__(self):
        super().__init__()
        self.body = mlp()
        self.probe = Probe(self.body, ["1"], draw=1, seed=3)

    def forward(self, x):
        with self.probe:
            return self.body(x)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_module_that_holds_a_probe_can_be_copied(duplicate):
    model = Holder()
    model(torch.rand(5, 4))
    twin = duplicate(model)
    assert twin.probe.activations == {} and model.probe.activations["1"].shape == (5, 16)
    twin(torch.rand(3, 4)).sum().backward()
    assert twin.probe.activations["1"].shape == (3, 16) and model.probe.activations["1"].shape == (5, 16)
    assert twin.body[0].weight.grad is not None and model.body[0].weight.grad is None
    assert torch.equal(twin.probe.state_dict()["generator"], model.probe.state_dict()["generator"])


def test_a_copy_made_inside_the_block_is_not_read():
    model = mlp()
    with (probe := Probe(model, ["1"])):
        twin = copy.deepcopy(model)
        model(torch.rand(5, 4))
        twin(torch.rand(3, 4))
    twin(torch.rand(2, 4))
    assert probe.activations["1"].shape == (5, 16)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyConv2d(8, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6), nn.LazyLinear(3))

    def forward(self, x):
        return self.net(x)


def test_lazy_modules_are_read_at_their_first_pass():
    x = torch.rand(5, 2, 8, 7)
    for layers in (["net.0", "net.1", "net.3"], ["stem", "head"]):
        model = Lazy()
        with (probe := Probe(model, layers)):
            model(x)
        expected = {"net.0": 8, "net.1": 8, "net.3": 6, "net.4": 3}
        assert all(values.shape == (5, expected[layer]) for layer, values in probe.activations.items())
        assert len(probe.activations) == len(layers)
    assert activations(Lazy(), [x], layers=["net.3"], samples=5, device="cpu")["net.3"].shape == (5, 6)
    assert natural_layers(nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(3))) == ["0"]


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_layers_inside_gradient_checkpointing_have_their_gradient(pooling):
    """What the pooling saves is not part of what checkpointing computes again."""

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)

        def run(self, x):
            return self.second(self.first(x).relu())

        def forward(self, x):
            return checkpoint(self.run, x, use_reentrant=False)

    model, x = Checkpointed(), torch.rand(5, 3, 4)
    gradients = []
    for forward in (model, model.run):
        model.zero_grad()
        probe = Probe(model, ["first"], pooling=pooling)
        probe.mask = torch.tensor([[1, 1, 0]]).expand(5, 3)
        with probe:
            y = forward(x)
        (y.sum() + probe.activations["first"].square().sum()).backward()
        gradients.append(model.first.weight.grad)
    torch.testing.assert_close(*gradients)


def test_the_block_may_stand_inside_a_functional_transform():
    model, x = mlp().eval(), torch.rand(6, 4)
    probe = Probe(model, ["1"], pooling="max")

    def penalty(parameters):
        with probe:
            torch.func.functional_call(model, parameters, x)
        return probe.activations["1"].square().sum()

    parameters = dict(model.named_parameters())
    got = torch.func.grad(penalty)(parameters)
    penalty(parameters).backward()
    torch.testing.assert_close(got["0.weight"], model[0].weight.grad)


def test_a_second_block_forgets_the_first():
    model = mlp()
    probe = Probe(model, ["1"])
    for n in (2, 5):
        with probe:
            model(torch.rand(n, 4))
        assert len(probe.activations["1"]) == n


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["blocks.1"], "layers: got 'blocks.1', need one of '0', '1', '2', '3'"),
        ("1", r"need a sequence of names such as \['1'\]"),
        ([], "layers: got none"),
    ],
)
def test_wrong_layers(layers, message):
    with pytest.raises(ValueError, match=message):
        Probe(mlp(), layers)


def test_wrong_layer_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'blocks.1'"):
        Probe(create("mlp", size="tiny", num_classes=10), ["block.1"])


class TestActivations:
    def batches(self, n=3, size=6):
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(size, 4, generator=generator) for _ in range(n)]

    def test_exactly_as_many_samples_from_the_front(self):
        model, batches = mlp(), self.batches()
        got = activations(model, batches, layers=["1"], samples=10, device="cpu")["1"]
        assert not got.requires_grad
        torch.testing.assert_close(got, model[1](model[0](torch.cat(batches)[:10])).detach())

    def test_all_samples(self):
        assert len(activations(mlp(), self.batches(), layers=["1"], samples=None, device="cpu")["1"]) == 18

    def test_in_eval_mode_and_modes_as_they_were(self):
        model = mlp()
        model[1].eval()
        a, b = (activations(model, self.batches(), layers=["2"], samples=6, device="cpu")["2"] for _ in range(2))
        assert torch.equal(a, b)  # no dropout
        assert (model.training, model[1].training, model[2].training) == (True, False, True)
        assert all(p.grad is None for p in model.parameters())

    def test_layers_that_do_more_than_set_a_flag_are_put_back_too(self):
        """As LoRA does, which merges its weights in eval mode."""

        class Merging(nn.Linear):
            merged = False

            def train(self, mode=True):
                self.merged = not mode
                return super().train(mode)

        model = nn.Sequential(nn.Linear(4, 5), Merging(5, 5), nn.Sequential(Merging(5, 5)))
        for training in (True, False):
            model.train(training)
            model[2].eval()
            activations(model, self.batches(), layers=["1"], samples=6, device="cpu")
            assert (model[1].merged, model[2][0].merged) == (not training, True)
            assert [m.training for m in (model, model[1], model[2], model[2][0])] == [training, training, False, False]

    def test_a_model_on_several_devices_stays_there(self, monkeypatch):
        model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5, device="meta"))
        monkeypatch.setattr(model, "to", lambda *a: pytest.fail("it was moved"))
        model[1].forward = lambda x: x
        got = activations(model, self.batches(), layers=["0"], samples=6)["0"]
        torch.testing.assert_close(got, model[0](self.batches()[0]).detach())
        with pytest.raises(ValueError, match="device: got 'cpu' for a model on cpu, meta; need 'auto'"):
            activations(model, self.batches(), layers=["0"], samples=6, device="cpu")

    def test_modes_as_they_were_after_an_exception(self):
        model = mlp()
        with pytest.raises(RuntimeError):
            activations(model, [torch.rand(2, 999)], layers=["1"], samples=2, device="cpu")
        assert model.training
        assert hooks(model) == 0

    def test_batches_of_other_kinds(self):
        model, (x, *_) = mlp(), self.batches()
        plain = activations(model, [x], layers=["1"], samples=6, device="cpu")["1"]
        for batch in ((x, torch.zeros(6)), [x, torch.zeros(6)], {"image": x, "label": torch.zeros(6)}):
            assert torch.equal(activations(model, [batch], layers=["1"], samples=6, device="cpu")["1"], plain)

    def test_dict_goes_in_by_name_where_the_model_takes_names(self):
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Identity()

            def forward(self, pixel_values, mask=None):
                return self.inner(pixel_values * mask)

        batch = {"label": torch.zeros(2), "mask": torch.full((2, 1), 2.0), "pixel_values": torch.ones(2, 3)}
        got = activations(Named(), [batch], layers=["inner"], samples=2, device="cpu")["inner"]
        assert torch.equal(got, torch.full((2, 3), 2.0))

    @pytest.mark.parametrize(
        ("batches", "options", "message"),
        [
            ([], {}, "loader: got no batches"),
            ([torch.rand(6, 4)], {"samples": 7}, "samples: got 7, but the loader has only 6"),
            ([torch.rand(6, 4)], {"samples": 0}, "samples: got 0"),
            ([torch.rand(6, 4)], {"samples": 4.0}, "samples: got 4.0, need an integer"),
            ([torch.rand(6, 4)], {"samples": True}, "samples: got True, need an integer"),
            ([torch.rand(0, 4)], {}, "loader: got only empty batches, need at least one sample"),
            ([{}], {}, "loader: got an empty batch {}"),
            ([()], {}, r"loader: got an empty batch \(\)"),
            ([torch.rand(6, 4)], {"device": "gpu"}, "device: got 'gpu'"),
        ],
    )
    def test_messages(self, batches, options, message):
        with pytest.raises(ValueError, match=message):
            activations(mlp(), batches, **{"layers": ["1"], "samples": 6, "device": "cpu"} | options)

    def test_a_layer_that_is_not_reached(self):
        model = mlp()
        model.unused = nn.Linear(1, 1)
        model.forward = lambda x: model[1](model[0](x))
        with pytest.raises(ValueError, match="does not reach 'unused'"):
            activations(model, [torch.rand(6, 4)], layers=["1", "unused"], samples=6, device="cpu")
        probe = Probe(model, ["unused"])
        assert probe.activations == {}
        with probe:
            model(torch.rand(6, 4))
        with pytest.raises(ValueError, match="does not reach 'unused'"):
            _ = probe.activations

    @pytest.mark.parametrize("wrap", [lambda m: m, lambda m: torch.compile(m, backend="eager"), in_ddp])
    @pytest.mark.parametrize("any_name", [False, True])
    def test_wrapped_models_take_dicts_by_name_too(self, wrap, any_name):
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(3, 3)

        class Two(Named):
            def forward(self, pixels, scale=1):
                return self.inner(pixels * scale)

        class Any(Named):
            def forward(self, **entries):
                return self.inner(entries["pixels"] * entries["scale"])

        model = Any() if any_name else Two()
        batch = {"scale": torch.full((2, 1), 2.0), "pixels": torch.rand(2, 3)}
        with undone_group(), torch.no_grad():
            got = activations(wrap(model), [batch], layers=["inner"], samples=2, device="cpu")["inner"]
            torch.testing.assert_close(got, model.inner(2 * batch["pixels"]))

    def test_a_first_axis_that_is_not_the_sample(self):
        class Windows(nn.Module):
            def __init__(self):
                super().__init__()
                self.whole, self.windows = nn.Linear(4, 5), nn.Linear(4, 5)

            def forward(self, x):
                return self.whole(x).mean(1), self.windows(x.reshape(-1, 2, 4))

        model, x = Windows(), torch.rand(3, 6, 4)
        with pytest.raises(ValueError, match="layer 'windows': its first axis has 9 entries, not the 3 samples"):
            activations(model, [x], layers=["whole", "windows"], samples=3, device="cpu")
        with (probe := Probe(model, ["whole", "windows"])):
            model(x)
        with pytest.raises(ValueError, match="differ in their first axis.*'whole': 3, 'windows': 9"):
            _ = probe.activations

    def test_sequences_first(self):
        layer = nn.TransformerEncoderLayer(4, 1, dim_feedforward=8)
        model = nn.Sequential(Transposed(), layer)
        with pytest.raises(ValueError, match="layer '1': its first axis has 5 entries, not the 3 samples"):
            activations(model, [torch.rand(3, 5, 4)], layers=["1"], samples=3, device="cpu")


def test_output_that_is_no_activation():
    model = nn.Sequential(nn.Unflatten(1, (1, 1, 1, 4)))
    with pytest.raises(ValueError, match="layer '0': its output has shape"), Probe(model, ["0"]):
        model(torch.rand(2, 4))


def test_activations_can_be_stored(tmp_path):
    probe = Probe(model := mlp(), ["1"])
    with torch.no_grad(), probe:
        model(torch.randn(5, 4))
    torch.save(probe.activations, tmp_path / "activations.pt")
    assert torch.equal(torch.load(tmp_path / "activations.pt")["1"], probe.activations["1"])
