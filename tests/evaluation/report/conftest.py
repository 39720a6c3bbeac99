"""Reports of made-up tests, whose mistakes lie between neighbouring classes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from imclass.data.findings import KINDS, Finding
from imclass.data.packed import Packed, Split
from imclass.evaluation.gate import judge
from imclass.evaluation.metrics import estimate_metrics
from imclass.evaluation.predictions import Decision, list_decisions
from imclass.evaluation.report.page import Report
from imclass.files import write_rows
from imclass.models.classifier import ModelConfig, build_model
from imclass.training.history import Epoch


@pytest.fixture(scope="session")
def make_report(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Report]:
    """`make_report(classes, count, ...)`: a report on `count` test images; the later arguments change single fields."""

    def make_report(
        classes: list[str],
        count: int,
        *,
        side: int = 8,
        channels: int = 1,
        noise: float = 2.0,
        epochs: int = 5,
        doubts: tuple[str, ...] = (),
        names: list[str] | None = None,
        sizes: tuple[tuple[int, int, int], ...] = ((8, 8, 100),),
        findings: tuple[Finding, ...] = (),
        policies: dict[str, str] | None = None,
        accuracy: float = 0.0,
        accepted: dict[str, Decision] | None = None,
    ) -> Report:
        rng = np.random.default_rng(0)
        k = len(classes)
        labels = np.arange(count) % k
        logits = rng.normal(0, noise, (count, k)).astype(np.float32)
        logits[np.arange(count), labels] += 6
        logits[np.arange(count), (labels + 1) % k] += 3
        shape = (channels, side, side)

        def draw_split(of: np.ndarray) -> Split:
            levels = rng.integers(0, 256, (len(of), *shape), np.uint8)
            return Split(levels // 2 + (120 * of / k).astype(np.uint8)[:, None, None, None], of)

        splits = {
            "train": draw_split(np.arange(3 * k) % k),
            "val": draw_split(np.arange(k)),
            "test": draw_split(labels),
        }
        names = names or [f"images/{at:05}.png" for at in range(count)]
        index = {"train": [f"train/{at}.png" for at in range(3 * k)], "val": [f"val/{at}.png" for at in range(k)]}
        folder = tmp_path_factory.mktemp("packed")
        tables = {split: [folder / f"{split}-0000.csv"] for split in splits}
        for split, of in {**index, "test": names}.items():
            write_rows(tables[split][0], ["image", "label"], [(name, "") for name in of])
        fit: dict[str, Any] = {"channels": channels, "height": side, "width": side, "fit": "crop", "background": 255}
        per_channel = [0.5] * channels
        trained = {"params": {"lr": 0.1, "model": {"name": "mlp", "mlp": {"hidden": [512, 512]}}}}
        network = {"name": "mlp", "hidden": [], "dropout": 0.0}
        config = ModelConfig(classes, fit, per_channel, False, network, per_channel, 1.5, trained)
        torch.manual_seed(0)
        return Report(
            data=Packed(classes, fit, per_channel, per_channel, splits, tables, "f" * 64),
            sizes=np.array(sizes),
            findings=findings,
            policies={**dict.fromkeys(KINDS, "warn"), **(policies or {})},
            names=names,
            model=build_model(config),
            model_hash="e" * 64,
            history=[
                Epoch(at, 2 / at, 1 - 0.7 / at, 1.8 / at, 1.7 / at, 1 - 0.6 / at, 0.1) for at in range(1, epochs + 1)
            ],
            metrics=estimate_metrics(logits, labels, temperature=1.5),
            doubts=list(doubts),
            verdict=judge(
                list_decisions(names, labels, logits.argmax(axis=1), classes),
                accepted or {},
                classes,
                accuracy=accuracy,
                class_recall=0.0,
            ),
            logits=logits,
        )

    return make_report
