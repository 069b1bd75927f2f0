"""The code of the page on frameworks, with the real packages: it trains as a loop written by hand does."""

from __future__ import annotations

import copy
import re
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from selfsim import Probe, SelfSimilarityConstraint

pytestmark = pytest.mark.long  # to import one of them takes seconds
PAGE = (Path(__file__).parents[2] / "book" / "frameworks.md").read_text(encoding="utf-8")
REASON = "the framework comes with the extra `frameworks`"


def page(title: str) -> dict:
    """Run the code of one section of the page, and return its names."""
    (section,) = (part for part in PAGE.split("\n## ") if part.startswith(f"{title}\n"))
    names: dict = {"__name__": "page"}
    for k, code in enumerate(re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL), 1):
        exec(compile(code, f"book/frameworks.md, {title}, block {k}", "exec"), names)
    return names


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """Run in a folder of its own: the page writes its checkpoints to "out"."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the frameworks' own
        patch.chdir(tmp_path_factory.mktemp("frameworks"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(scope="module")
def with_lightning(elsewhere):
    pytest.importorskip("lightning", reason=REASON)
    return page("Lightning")


@pytest.fixture(scope="module")
def with_transformers(elsewhere):
    pytest.importorskip("transformers", reason=REASON)
    pytest.importorskip("accelerate", reason=REASON)
    return page("Hugging Face Trainer")


@pytest.fixture(scope="module")
def with_accelerate(elsewhere):
    pytest.importorskip("accelerate", reason=REASON)
    return page("Accelerate")


def by_hand(model, layers, batches, loss_of, *, parts=1, constrained=True, mask_of=None, optimizer=None):
    """Train on the batches in turn, each once; `parts` of them make one step."""
    optimizer = (optimizer or partial(torch.optim.AdamW, lr=1e-3))(model.parameters())
    probe, constraint = Probe(model, layers), SelfSimilarityConstraint()
    for k, batch in enumerate(batches, 1):
        probe.mask = mask_of(batch) if mask_of else None
        with probe:
            loss = loss_of(model, batch)
        ((loss + constraint(probe) if constrained else loss) / parts).backward()
        if k % parts == 0:
            optimizer.step()
            optimizer.zero_grad()
        constraint.advance(step=k, steps=len(batches))
    return weights(model)


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def assert_trained_as_by_hand(found, expected, without):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found - without).abs().max() > 1e-4  # the constraint has acted


def lightning_trainer(names, callbacks=(), **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return names["lightning"].Trainer(
        accelerator="cpu", callbacks=list(callbacks), enable_checkpointing=bool(callbacks), **quiet, **options
    )


@pytest.mark.parametrize(("options", "steps"), [({"max_epochs": 4}, 16), ({"max_steps": 10}, 10)])
def test_lightning_trains_as_a_loop_by_hand(with_lightning, options, steps):
    names = with_lightning
    module = names["ConstrainedModule"](names["classifier"](), layers=["1", "3"])
    trainer = lightning_trainer(names, **options)
    trainer.fit(module, names["batches"])
    assert trainer.callback_metrics["penalty"] > 0
    batches = (list(names["batches"]) * 4)[:steps]
    found = [by_hand(names["classifier"](), ["1", "3"], batches, cross_entropy, constrained=c) for c in (True, False)]
    assert_trained_as_by_hand(weights(module.model), *found)
    epochs = 4 if "max_epochs" in options else 0
    assert [len(rates) for rates in module.constraint.state_dict()["rates"].values()] == (
        [epochs] * 2 if epochs else []
    )
    assert module.constraint.state_dict()["done"] == 1


def test_lightning_resumes_where_it_stopped(with_lightning, tmp_path):
    names = with_lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    def module():
        return names["ConstrainedModule"](names["classifier"](), layers=["1", "3"])

    whole, resumed = module(), module()
    every_epoch = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    lightning_trainer(names, [every_epoch], max_epochs=4).fit(whole, names["batches"])
    lightning_trainer(names, max_epochs=4).fit(resumed, names["batches"], ckpt_path=tmp_path / "epoch=1.ckpt")
    assert weights(resumed).equal(weights(whole))
    assert resumed.constraint.state_dict()["rates"] == whole.constraint.state_dict()["rates"]


def test_a_deep_copy_of_a_lightning_module_trains_on_its_own(with_lightning):
    names = with_lightning
    module = names["ConstrainedModule"](names["classifier"](), layers=["1", "3"])
    lightning_trainer(names, max_epochs=2).fit(module, names["batches"])
    before, twin = weights(module), copy.deepcopy(module)
    with pytest.warns(UserWarning, match="epoch: got 1 again"):  # the copy has the state of the first training
        lightning_trainer(names, max_epochs=4).fit(twin, names["batches"])
    assert weights(module).equal(before)
    assert not weights(twin).equal(before)
    assert len(twin.constraint.state_dict()["rates"]["1"]) == 4
    assert len(module.constraint.state_dict()["rates"]["1"]) == 2


def test_lightning_averages_the_weights_of_a_constrained_module(with_lightning):
    """The callback makes deep copies of the module."""
    names = with_lightning
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    module = names["ConstrainedModule"](names["classifier"](), layers=["1", "3"])
    averaging = StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=2, annealing_epochs=1)
    lightning_trainer(names, [averaging], max_epochs=4).fit(module, names["batches"])
    assert weights(module).isfinite().all()
    assert len(module.constraint.state_dict()["rates"]["1"]) == 4


@pytest.mark.parametrize("length", [{"num_train_epochs": 3}, {"max_steps": 10}])
def test_the_hugging_face_trainer_trains_as_a_loop_by_hand(with_transformers, tmp_path, length):
    names, seen = with_transformers, []

    class Recorded(names["ConstrainedTrainer"]):
        def compute_loss(self, model, inputs, *args, **options):
            seen.append({key: value.clone() for key, value in inputs.items()})
            return super().compute_loss(model, inputs, *args, **options)

    # Adam would turn the rounding of gradients that are 0, such as those of the keys' biases, into steps.
    plain = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 0.3}
    quiet = {"save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = names["TrainingArguments"](
        output_dir=str(tmp_path), per_device_train_batch_size=16, **plain, **quiet, **length
    )
    trainer = Recorded(names["encoder"](), arguments, train_dataset=names["texts"], layers=names["layers"])
    trainer.train()
    assert len(seen) == length.get("max_steps", 12)

    def expected(constrained):
        return by_hand(
            names["encoder"]().train(),
            names["layers"],
            seen,
            lambda model, batch: model(**batch).loss,
            constrained=constrained,
            mask_of=lambda batch: batch["attention_mask"],
            optimizer=partial(torch.optim.SGD, lr=0.3),
        )

    assert_trained_as_by_hand(weights(trainer.model), expected(True), expected(False))
    state = trainer.constraint.state_dict()
    assert (state["done"], len(state["rates"][names["layers"][0]])) == (1, 3)


def test_the_hugging_face_trainer_resumes_where_it_stopped(with_transformers):
    whole, resumed = with_transformers["trainer"], with_transformers["resumed"]
    assert (whole.state.global_step, resumed.state.global_step) == (12, 12)
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=0, atol=1e-7)
    assert resumed.constraint.state_dict()["rates"] == whole.constraint.state_dict()["rates"]


def test_the_hugging_face_trainer_evaluates_without_the_penalty(with_transformers):
    trainer = with_transformers["trainer"]
    loss = trainer.evaluate(with_transformers["texts"])["eval_loss"]
    model = trainer.model.eval()
    inputs = {key: torch.stack([text[key] for text in with_transformers["texts"]]) for key in ("input_ids", "labels")}
    mask = torch.stack([text["attention_mask"] for text in with_transformers["texts"]])
    with torch.no_grad():
        assert loss == pytest.approx(model(**inputs, attention_mask=mask).loss.item(), abs=1e-5)


def accelerated(names, parts, **options):
    model = names["classifier"]()
    accelerator = names["Accelerator"](cpu=True, gradient_accumulation_steps=parts)
    constraint = names["train"](accelerator, model, names["batches"], epochs=4, layers=["1", "3"], **options)
    return weights(model), constraint.state_dict()


@pytest.mark.parametrize("parts", [1, 2])
def test_accelerate_trains_as_a_loop_by_hand(with_accelerate, parts):
    names = with_accelerate
    found, state = accelerated(names, parts)
    batches = list(names["batches"]) * 4
    expected = [
        by_hand(names["classifier"](), ["1", "3"], batches, cross_entropy, parts=parts, constrained=c)
        for c in (True, False)
    ]
    assert_trained_as_by_hand(found, *expected)
    assert [len(rates) for rates in state["rates"].values()] == [4, 4]


def test_accelerate_resumes_where_it_stopped(with_accelerate):
    whole, state = accelerated(with_accelerate, 1)
    resumed, resumed_state = accelerated(with_accelerate, 1, done=2)
    assert resumed.equal(whole)
    assert resumed_state["rates"] == state["rates"]
