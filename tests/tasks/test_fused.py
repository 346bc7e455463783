"""If these failed, a training would be slow by default, end in a traceback, or compute something else."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dyvision.tasks import ClassificationTask
from dyvision.tasks.fused import has_sparse_gradients, implementation, prepare
from dyvision.tasks.optim import build_optimizer

OPTIONS = {"lr": 0.05, "weight_decay": 0.02, "backbone_lr_scale": 1.0, "head_lr_scale": 1.0}
FUSED = ["sgd", "adam", "adamw", "adagrad"]


def loader() -> DataLoader[Any]:
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return DataLoader([{"image": image, "label": index % 2} for index, image in enumerate(images)], batch_size=2)


def one_batch() -> DataLoader[Any]:
    return DataLoader([{"image": torch.ones(3, 32, 32).tril(-index), "label": index} for index in range(2)], 2)


def trainer(folder: Path | None = None, steps: int = 3, **options: Any) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip


def task(**arguments: Any) -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask("test_resnet", num_classes=2, **{"warmup_steps": 0, **arguments})


def mixed(scaled: bool) -> dict[str, Any]:
    """Mixed precision; scaled gradients on a CPU, too, where Lightning would choose bfloat16."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu")]} if scaled else {"precision": "bf16-mixed"}


def fit(task: ClassificationTask, **options: Any) -> L.Trainer:
    run = trainer(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(task, loader())
    return run


def steps(spec: Any, count: int, layout: torch.memory_format = torch.contiguous_format) -> tuple[nn.Parameter, Any]:
    """Some steps of an optimiser on one kernel, with gradients that do not depend on it."""
    generator = torch.Generator().manual_seed(1)
    kernel = nn.Parameter(torch.randn(8, 6, 3, 3, generator=generator).to(memory_format=layout))
    optimizer = build_optimizer(OPTIONS | {"optimizer": spec}, [{"params": [kernel]}])
    for _ in range(count):
        step(optimizer, kernel, generator)
    return kernel, optimizer


def step(optimizer: torch.optim.Optimizer, kernel: nn.Parameter, generator: torch.Generator) -> None:
    kernel.grad = torch.empty_like(kernel).copy_(torch.randn(kernel.shape, generator=generator))
    optimizer.step()


@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"amsgrad": True}, {"nesterov": True}])
@pytest.mark.parametrize("name", FUSED)
def test_fused_by_default_and_equal(name, options):
    if ("amsgrad" in options and "adam" not in name) or ("nesterov" in options and name != "sgd"):
        pytest.skip("no such option")
    found, optimizer = steps({"name": name, **options}, 10)
    expected, plain = steps({"name": name, "fused": False, **options}, 10)
    assert optimizer.param_groups[0]["fused"] is True
    assert plain.param_groups[0]["fused"] is False
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [{"fused": False}, {"fused": None}, {"foreach": True}, {"foreach": False}])
def test_what_is_given_wins(given):
    optimizer = build_optimizer(
        OPTIONS | {"optimizer": {"name": "sgd", **given}}, [{"params": [nn.Parameter(torch.ones(2))]}]
    )
    group = optimizer.param_groups[0]
    assert {name: group[name] for name in ("fused", "foreach")} == {"fused": None, "foreach": None} | given


@pytest.mark.parametrize(
    ("spec", "parameter"),
    [
        ({"name": "adamw", "differentiable": True}, torch.ones(2)),
        ({"name": "adam", "capturable": True}, torch.ones(2)),
        ("sgd", torch.ones(2, dtype=torch.complex64)),
        ("sgd", torch.ones(2, dtype=torch.bfloat16)),
        ("sgd", torch.ones(2, device="meta")),
        ("sgd", torch.ones(2, 3).T),
        ("rmsprop", torch.ones(2)),
    ],
    ids=str,
)
def test_not_fused(spec, parameter):
    optimizer = build_optimizer(OPTIONS | {"optimizer": spec}, [{"params": [nn.Parameter(parameter)]}])
    assert not optimizer.param_groups[0].get("fused")


def test_sparse_gradients_are_not_fused():
    table = nn.Embedding(5, 3, sparse=True)
    assert has_sparse_gradients(nn.Sequential(table))
    assert not has_sparse_gradients(nn.Embedding(5, 3))
    optimizer = build_optimizer(
        OPTIONS | {"optimizer": {"name": "sgd", "weight_decay": 0}}, [{"params": [table.weight]}], True
    )
    table(torch.tensor([1])).sum().backward()
    optimizer.step()  # fused kernels refuse them


def test_one_kind_of_parameter_that_is_not_excludes_all():
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]
    assert implementation(torch.optim.SGD, {}, {"foreach", "fused"}, parameters, False) == {}
    assert implementation(torch.optim.SGD, {}, {"foreach", "fused"}, parameters[:1], False) == {"fused": True}


class OnCuda(nn.Parameter):
    """A parameter of which a GPU is told to have it."""

    device = torch.device("cuda:0")  # type: ignore[assignment]


@pytest.mark.parametrize(("memory", "expected"), [(10**9, {}), (10**5, {"foreach": False})])
def test_foreach_copies_only_what_is_small_for_the_gpu(memory, expected, monkeypatch):
    monkeypatch.setattr("dyvision.tasks.fused._memory", lambda device: memory)
    parameters = [OnCuda(torch.ones(1000))]
    assert implementation(torch.optim.RMSprop, {}, {"foreach"}, parameters, False) == expected
    assert implementation(torch.optim.SparseAdam, {}, set(), parameters, False) == {}


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("stored", [False, True])
def test_a_checkpoint_of_another_implementation_and_layout_goes_on(name, stored):
    expected, _ = steps({"name": name, "fused": False}, 6)
    kernel, before = steps({"name": name, "fused": stored}, 3)
    moved = nn.Parameter(kernel.detach().to(memory_format=torch.channels_last))
    optimizer = build_optimizer(OPTIONS | {"optimizer": {"name": name, "fused": not stored}}, [{"params": [moved]}])
    prepare(optimizer, trainer())
    optimizer.load_state_dict(before.state_dict())
    assert optimizer.param_groups[0]["fused"] is not stored
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):  # the kernel and the first three gradients
        torch.randn(kernel.shape, generator=generator)
    for _ in range(3):
        step(optimizer, moved, generator)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("optimizer", FUSED)
def test_clipping_under_mixed_precision(scaled, optimizer):
    weights = []
    for fused, clip in ((True, 0.01), (False, 0.01), (True, None)):
        trained = task(optimizer={"name": optimizer, "fused": fused}, lr=0.01)
        assert fit(trained, gradient_clip_val=clip, **mixed(scaled)).global_step == 3
        weights.append(torch.cat([value.detach().flatten() for value in trained.network.parameters()]))
    clipped, expected, unclipped = weights
    torch.testing.assert_close(clipped, expected, rtol=1e-3, atol=1e-4)
    assert (clipped - unclipped).abs().max() > 1e-3


def test_own_fused_optimizers_are_clipped_too():
    class Own(ClassificationTask):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), fused=True)

    assert fit(Own("test_resnet", num_classes=2), precision="bf16-mixed", gradient_clip_val=1.0).global_step == 3


def test_a_scaled_lbfgs_is_refused_in_one_line():
    class Own(ClassificationTask):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(ValueError, match=r"trainer\.precision='16-mixed' .*lbfgs.* bf16-mixed"):
        fit(Own("test_resnet", num_classes=2), **mixed(scaled=True))


def test_a_run_that_was_not_fused_goes_on_fused(tmp_path):
    first = task(optimizer={"name": "sgd", "fused": False}, lr=0.01, lr_schedule="constant")
    run = trainer(tmp_path, 4)
    run.fit(first, one_batch())
    run.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    for group in content["optimizer_states"][0]["param_groups"]:
        group["fused"] = None  # as runs of earlier versions left it
    torch.save(content, tmp_path / "a.ckpt")
    second = task(optimizer="sgd", lr=0.01, lr_schedule="constant")
    again = trainer(tmp_path, 7)
    again.fit(second, one_batch(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert again.optimizers[0].param_groups[0]["fused"] is True
    trainer(tmp_path, 7).fit(
        first := task(optimizer={"name": "sgd", "fused": False}, lr=0.01, lr_schedule="constant"), one_batch()
    )
    found: dict[str, Tensor] = second.network.state_dict()
    for name, value in first.network.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
