"""Train the demo classifier on Fashion-MNIST and write the files that tools/demo_model/data holds.

    python tools/demo_model/train.py --data FOLDER [--epochs 6] [--seed 0] [--out tools/demo_model/data]

FOLDER holds train.npz and test.npz with x (n, 28, 28) uint8 and y (n,) uint8. Written to --out:
fashion_mobilenet.safetensors (fp32, BatchNorm unfolded), fashion_test_2000.npz (200 test images of each class) and
fashion_calibration_100.npz (10 training images of each class, without labels).
The last epoch's weights are taken as they are, whatever the test set says.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.demo_model.fashion_mobilenet import CLASSES, FashionMobileNet

CROP_PADDING = 1
SLIMMING = 2e-4
TEST_PER_CLASS = 200
CALIBRATION_PER_CLASS = 10
SUBSET_SEED = 2000  # apart from --seed: the committed images stay the same when the model is trained again


def load(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, 28, 28) and labels (n,) of one split; ValueError if the file holds anything else."""
    with np.load(path, allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    if x.shape != (len(y), 28, 28) or y.ndim != 1 or x.dtype != np.uint8 or y.dtype != np.uint8:
        raise ValueError(f"{path}: expected x (n, 28, 28) uint8 and y (n,) uint8")
    return x, y


def as_input(x: NDArray[np.uint8]) -> torch.Tensor:
    """Images (n, 28, 28) uint8 as the network's input (n, 1, 28, 28) float32 in [0, 1]."""
    return torch.from_numpy(x).unsqueeze(1).float().div_(255)


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image of (n, 1, h, w) shifted by up to one pixel a side, and mirrored with probability one half."""
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, [CROP_PADDING] * 4).squeeze(1)
    rows = torch.arange(height) + torch.randint(2 * CROP_PADDING + 1, (n, 1), generator=generator)
    columns = torch.arange(width) + torch.randint(2 * CROP_PADDING + 1, (n, 1), generator=generator)
    columns = torch.where(torch.rand(n, 1, generator=generator) < 0.5, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of the images that get their label, with the model in eval mode."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
    return right / len(y)


def balanced_subset(y: NDArray[np.uint8], per_class: int) -> NDArray[np.int64]:
    """Indices, ascending, of `per_class` random images of every class."""
    rng = np.random.default_rng(SUBSET_SEED)
    chosen = [rng.permutation(np.flatnonzero(y == c))[:per_class] for c in range(len(CLASSES))]
    return np.sort(np.concatenate(chosen))


def train(x: torch.Tensor, y: torch.Tensor, epochs: int, seed: int, batch: int, rate: float) -> FashionMobileNet:
    """Train from scratch on x (n, 1, 28, 28) in [0, 1] and y (n,).

    SGD, one cycle, smoothed labels, and an l1 penalty on the BatchNorm scales (network slimming, Liu et al. 2017), which
    gathers the network's function in fewer channels.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = FashionMobileNet()
    model = model.to(memory_format=torch.channels_last)
    scales = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = len(x) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * steps, pct_start=0.25)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(1, epochs + 1):
        started, total, right = time.monotonic(), 0.0, 0
        model.train()
        order = torch.randperm(len(x), generator=generator)[: steps * batch].split(batch)
        for step, rows in enumerate(order, 1):
            optimizer.zero_grad(set_to_none=True)
            images = augment(x[rows], generator).to(memory_format=torch.channels_last)
            logits = model(images)
            loss = criterion(logits, y[rows])
            (loss + SLIMMING * sum(scale.abs().sum() for scale in scales)).backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            right += int((logits.argmax(1) == y[rows]).sum())
            if step % 100 == 0 or step == steps:
                rate_now = step * batch / (time.monotonic() - started)
                print(
                    f"epoch {epoch}/{epochs} step {step}/{steps} loss {total / step:.4f} "
                    f"train {right / (step * batch):.2%} {rate_now:.0f} images/s",
                    flush=True,
                )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo classifier on Fashion-MNIST.")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz and test.npz")
    parser.add_argument(
        "--out", type=Path, default=Path("tools/demo_model/data"), help="folder for the checkpoint and the images"
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=4, help="another number rounds differently")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    x, y = load(options.data / "train.npz")
    test_x, test_y = load(options.data / "test.npz")

    labels = torch.from_numpy(y).long()
    model = train(as_input(x), labels, options.epochs, options.seed, options.batch, options.rate)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"parameters {parameters}")
    print(f"test accuracy {accuracy(model, as_input(test_x), torch.from_numpy(test_y)):.2%} of {len(test_y)} images")
    subset = balanced_subset(test_y, TEST_PER_CLASS)
    sub_x, sub_y = test_x[subset], test_y[subset]
    print(f"subset accuracy {accuracy(model, as_input(sub_x), torch.from_numpy(sub_y)):.2%} of {len(sub_y)} images")

    options.out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, options.out / "fashion_mobilenet.safetensors")
    np.savez_compressed(options.out / "fashion_test_2000.npz", x=sub_x, y=sub_y)
    np.savez_compressed(options.out / "fashion_calibration_100.npz", x=x[balanced_subset(y, CALIBRATION_PER_CLASS)])


if __name__ == "__main__":
    main()
