"""The backbone for mmsegmentation and mmdetection, against mmengine and mmsegmentation themselves."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dyvision.layers import CoefficientBranch, list_layers

pytest.importorskip("mmengine")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from dyvision.adapters.openmmlab import DyVisionBackbone

NAME = "test_resnet"
CHANNELS = [(one["num_chs"], one["reduction"]) for one in __import__("timm").create_model(NAME).feature_info]
FOUR = [channels for channels, reduction in CHANNELS if reduction >= 4]


@pytest.fixture(params=["static", "dcd", "dyconv", "condconv"])
def layer(request) -> str:
    return request.param


def test_maps_are_those_that_it_announces(layer) -> None:
    backbone = DyVisionBackbone(NAME, layer, out_indices=(1, 3)).eval()
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert isinstance(maps, tuple) and [one.shape[1] for one in maps] == backbone.out_channels
    assert [64 // one.shape[2] for one in maps] == backbone.out_strides
    assert DyVisionBackbone(NAME, layer).out_channels == FOUR


def test_it_is_built_by_the_registries_of_both_frameworks() -> None:
    from mmengine.registry import MODELS, Registry

    config = dict(type="DyVisionBackbone", name=NAME, layer="dcd", out_indices=[1, 2])
    for registry in (MODELS, Registry("model", parent=MODELS, scope="mmdet")):
        assert isinstance(registry.build(dict(config)), DyVisionBackbone)


@pytest.mark.parametrize("frozen", [-1, 0, 2])
def test_frozen_stages_do_not_learn_but_their_branches_do(frozen, layer) -> None:
    backbone = DyVisionBackbone(NAME, layer, frozen_stages=frozen).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([one for one in backbone.parameters() if one.requires_grad], 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(one.square().mean() for one in backbone(torch.randn(4, 3, 64, 64))).backward()
        optimizer.step()
    body = backbone.network.body
    branches = [f"network.body.{name}." for name, one in body.named_modules() if isinstance(one, CoefficientBranch)]
    kept = {name for name, value in backbone.state_dict().items() if torch.equal(before[name], value)}
    first = ("network.body.conv1", "network.body.bn1")
    stages = (first, *((f"network.body.layer{number}.",) for number in range(1, 5)))
    for number, stage in enumerate(stages):
        names = [name for name in before if name.startswith(stage) and not name.startswith(tuple(branches))]
        names = [name for name in names if "temperature" not in name and before[name].ndim > 0]
        assert names
        if number <= frozen:
            assert set(names) <= kept
        else:
            assert not set(names) & kept, stage
    assert not backbone.network.body.conv1.training or frozen < 0
    assert all(
        parameter.requires_grad for name, parameter in backbone.named_parameters() if name.startswith(tuple(branches))
    )


def test_norm_eval_keeps_the_running_statistics() -> None:
    backbone = DyVisionBackbone(NAME, "dcd", norm_eval=True).train()
    before = {name: value.clone() for name, value in backbone.named_buffers() if "running" in name}
    free = {
        id(one) for module in backbone.modules() if isinstance(module, CoefficientBranch) for one in module.modules()
    }
    inside = {f"{name}.running_mean" for name, module in backbone.named_modules() if id(module) in free}
    backbone(torch.randn(4, 3, 64, 64))
    same = {name: torch.equal(value, before[name]) for name, value in backbone.named_buffers() if name in before}
    assert same and all(same[name] for name in same if name.replace("running_var", "running_mean") not in inside)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "resnet_no"}, "unknown backbone"),
        ({"layer": "dcdd"}, "did you mean 'dcd'"),
        ({"frozen_stages": 9}, "frozen_stages=9: test_resnet has the stages 0 to 4"),
        ({"out_indices": (9,)}, "there is no level 9"),
    ],
)
def test_wrong_arguments_are_named(arguments, said) -> None:
    with pytest.raises(ValueError, match="") as caught:
        DyVisionBackbone(**{"name": NAME, **arguments})
    assert said in str(caught.value)


def test_pretrained_loads_weights_and_nothing_else(tmp_path) -> None:
    other = DyVisionBackbone(NAME, "dcd")
    torch.save({f"body.{name}": value for name, value in other.network.body.state_dict().items()}, tmp_path / "a.pth")
    backbone = DyVisionBackbone(NAME, "dcd", init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "a.pth")))
    backbone.init_weights()
    theirs = other.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in backbone.state_dict().items())
    with pytest.raises(ValueError, match="initialise themselves"):
        DyVisionBackbone(NAME, init_cfg=dict(type="Kaiming")).init_weights()


@pytest.mark.parametrize("layer_name", list_layers())
def test_branches_are_found_by_the_word_of_the_page(layer_name) -> None:
    """``paramwise_cfg`` of mmengine takes parts of names."""
    backbone = DyVisionBackbone(NAME, layer_name)
    names = [name for name, one in backbone.named_modules() if isinstance(one, CoefficientBranch)]
    page = (Path(__file__).parents[2] / "docs" / "adapters" / "openmmlab.md").read_text(encoding="utf-8")
    words = re.findall(r'"(\w+)"', re.findall(r"predicting = \((.+)\)", page)[0])
    assert all(any(word in name for word in words) for name in names)


def write_scenes(root: Path) -> None:
    """Ten pictures, half of each bright, and which half."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("img", "ann"):
            (root / folder / split).mkdir(parents=True)
        for number in range(5):
            column = int(generator.integers(16, 48))
            image = generator.integers(0, 60, (64, 64, 3)).astype(np.uint8)
            image[:, column:] += 150
            mask = np.zeros((64, 64), np.uint8)
            mask[:, column:] = 1
            cv2.imwrite(str(root / "img" / split / f"{number}.jpg"), image)
            cv2.imwrite(str(root / "ann" / split / f"{number}.png"), mask)


def test_mmsegs_own_runner_trains_saves_and_loads(tmp_path, monkeypatch) -> None:
    pytest.importorskip("mmseg")
    from mmengine.config import Config
    from mmengine.runner import Runner

    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "scenes")
    pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
    data = dict(
        batch_size=2,
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type="InfiniteSampler", shuffle=True),
        dataset=dict(
            type="BaseSegDataset",
            data_root=str(tmp_path / "scenes"),
            metainfo=dict(classes=("dark", "bright")),
            data_prefix=dict(img_path="img/train", seg_map_path="ann/train"),
            pipeline=pipeline,
        ),
    )
    config = Config(
        dict(
            custom_imports=dict(imports=["dyvision.adapters.openmmlab"]),
            default_scope="mmseg",
            work_dir=str(tmp_path / "work"),
            model=dict(
                type="EncoderDecoder",
                data_preprocessor=dict(type="SegDataPreProcessor", mean=[100] * 3, std=[60] * 3, size=(64, 64)),
                backbone=dict(type="DyVisionBackbone", name=NAME, layer="dcd"),
                decode_head=dict(
                    type="FCNHead", in_channels=FOUR[-1], in_index=-1, channels=8, num_classes=2, num_convs=1
                ),
                train_cfg=dict(),
                test_cfg=dict(mode="whole"),
            ),
            train_dataloader=data,
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=3, val_interval=100),
            optim_wrapper=dict(
                optimizer=dict(type="SGD", lr=0.01, weight_decay=0.01),
                paramwise_cfg=dict(custom_keys={"branch": dict(decay_mult=0)}),
            ),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=3, by_epoch=False)),
            log_level="ERROR",
            randomness=dict(seed=0),
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config.dump(tmp_path / "config.py")
        runner = Runner.from_cfg(Config.fromfile(tmp_path / "config.py"))
        runner.train()
    wrapper = runner.optim_wrapper.optimizer
    decays = {
        name: group["weight_decay"]
        for group in wrapper.param_groups
        for name, one in runner.model.named_parameters()
        if one is group["params"][0]
    }
    assert {decay for name, decay in decays.items() if "branch" in name} == {0}
    assert {decay for name, decay in decays.items() if "branch" not in name} == {0.01}
    saved = tmp_path / "work" / "iter_3.pth"
    trained = {name: value.clone() for name, value in runner.model.state_dict().items()}
    for value in runner.model.parameters():
        value.data.zero_()
    runner.load_checkpoint(str(saved))
    assert all(torch.equal(value, trained[name]) for name, value in runner.model.state_dict().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": "dcd"}, "'layers' .did you mean 'layer'"),
        ({"in_chans": 3}, "'in_chans' .did you mean 'in_channels'"),
        ({"depth": 50}, "'depth'; it takes name, layer, "),
        (
            {"layer": "dyconv", "num_kernels": 2},
            r"'num_kernels': it is one of the layer 'dyconv'; give layer_kwargs=\{",
        ),
    ],
)
def test_misspelt_keywords_of_a_config_are_named(given, message) -> None:
    from mmengine.registry import MODELS

    with pytest.raises(TypeError, match=f"DyVisionBackbone has no argument {message}") as found:
        MODELS.build({"type": "DyVisionBackbone", "name": NAME, **given})
    assert "\n" not in str(found.value)
