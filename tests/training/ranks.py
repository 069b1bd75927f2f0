"""What test_distributed.py runs on every rank, under torchrun:

torchrun --nproc-per-node 2 -m tests.training.ranks FOLDER gradients|run
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from selfsim import TrainConfig, train
from selfsim.models.architectures import create
from selfsim.models.seeding import seeded
from selfsim.training import loop
from selfsim.training.distributed import Ranks, process_group
from selfsim.training.state import TrainingState

SETTINGS = dict(
    train_images=100, test_images=50, samples=50, epochs=2, batch_size=20, augment=True, mixup=0.5,
    schedule="cosine", constraint={"plain": True, "layers_per_step": 1, "weight": 5.0},
)  # fmt: skip


def configuration(name: str) -> TrainConfig:
    return TrainConfig(name, **SETTINGS)


def first_gradients(name: str, ranks: Ranks) -> dict:
    """Of the first step: gradients of all parameters, and what is said about them."""
    config = configuration(name)
    images = config.load_images()
    with seeded(config.seed):
        model = create(name, size="tiny", num_classes=10, in_chans=1)
        state = TrainingState(config, images, model, torch.device("cpu"), ranks)
        batch = state.batches()[0]
        loop.training_step(
            state, *state.augmentation(state.data.images[batch], state.data.labels[batch], state.generator)
        )
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"parameters": found, "norms": state.gradients, "seen": ranks.sum(state.steps).sum(0)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=("gradients", "run"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")) as (ranks, _):
        if arguments.what == "gradients":
            for name in ("mlp", "vit_small"):
                torch.save(first_gradients(name, ranks), arguments.folder / f"{name}-{ranks.rank}.pt")
        else:
            run = train(configuration("mlp"), runs=arguments.folder / "runs", device="cpu", save_every=3)
            torch.save(run.history, arguments.folder / f"history-{ranks.rank}.pt")


if __name__ == "__main__":
    main()
