"""Networks as folders that Hugging Face's hub takes."""

from __future__ import annotations

import copy
import json
import os
import pickle

import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file

import dyvision
from dyvision.adapters.huggingface import from_pretrained, push_to_hub, save_pretrained
from dyvision.layers import list_layers
from dyvision.tasks import ClassificationTask, DetectionTask, SegmentationTask

TINY = {"backbone": "test_resnet", "num_classes": 3}


def assert_same(first, second) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(list(first.parameters())) == len(list(second.parameters())), "what was shared is shared"


@pytest.mark.parametrize("layer", list_layers())
def test_models_come_back(layer, tmp_path) -> None:
    model = dyvision.create_model("test_resnet", layer, num_classes=4, in_chans=1).eval()
    save_pretrained(model, tmp_path / "new" / "folder")
    again = from_pretrained(tmp_path / "new" / "folder")
    assert type(again) is type(model) and not again.training
    assert_same(model, again)
    x = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(again(x), model(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: dyvision.create_backbone("test_resnet", "dcd", out_indices=(1, 3), output_stride=16),
        lambda: dyvision.create_backbone("test_resnet", "kernelwarehouse", policy=["layer2.*", "layer3.*"]),
        lambda: dyvision.create_model("dy_mobilenetv2", num_classes=3),
        lambda: dyvision.create_model("test_resnet", "condconv", dynamic_classifier=True, num_kernels=2),
        lambda: dyvision.create_model("test_resnet", "dyconv", layer_kwargs={"num_kernels": 2}, drop_path_rate=0.1),
        lambda: ClassificationTask(layer="dcd", **TINY),
        lambda: SegmentationTask(layer="kernelwarehouse", **TINY),
        lambda: DetectionTask(layer="dyconv", head={"name": "fcos", "fpn_channels": 32}, **TINY),
    ],
)
def test_everything_else_comes_back(make, tmp_path) -> None:
    model = make().eval()
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert_same(model, again)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors"]


def test_a_classifier_that_starts_from_weights_keeps_its_bias(tmp_path) -> None:
    save_file(dyvision.create_model("test_resnet").state_dict(), tmp_path / "static.safetensors")
    file = tmp_path / "static.safetensors"
    model = dyvision.create_model("test_resnet", "condconv", dynamic_classifier=True, pretrained=file)
    save_pretrained(model, tmp_path / "saved")
    assert "static.safetensors" not in (tmp_path / "saved" / "config.json").read_text()
    assert_same(model, from_pretrained(tmp_path / "saved"))


def test_a_reset_classifier_comes_back(tmp_path) -> None:
    model = dyvision.create_model("test_resnet", "dcd", num_classes=4)
    model.reset_classifier(7)
    save_pretrained(model, tmp_path)
    assert from_pretrained(tmp_path)(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_shared_kernels_are_stored_once(tmp_path) -> None:
    model = dyvision.create_model("test_resnet", "kernelwarehouse")
    save_pretrained(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    assert len(stored) < len(state)
    assert len(stored) == len({tensor.data_ptr() for tensor in state.values()})


def test_hyperparameters_of_a_task_are_kept_and_replaced(tmp_path) -> None:
    task = SegmentationTask(layer="dcd", class_names=["a", "b|c", "<d>"], lr=0.3, **TINY)
    save_pretrained(task, tmp_path)
    assert from_pretrained(tmp_path).hparams.class_names == ["a", "b|c", "<d>"]
    assert from_pretrained(tmp_path, lr=0.5).hparams.lr == 0.5
    assert "b\\|c, &lt;d>" in (tmp_path / "README.md").read_text()


def test_the_card_has_metrics_and_costs(tmp_path) -> None:
    model = dyvision.create_model("test_resnet", "dcd", num_classes=4)
    save_pretrained(model, tmp_path, metrics={"accuracy": 0.9125}, dataset="Leaves", license="mit", image_size=64)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "dyvision" and card.data.license == "mit"
    assert card.data.pipeline_tag == "image-classification" and "dcd" in card.data.tags
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.9125, "Leaves")
    cost = dyvision.profile(model, (1, 3, 64, 64), latency=False)
    assert "| accuracy | 0.9125 |" in card.text
    assert f"| {cost.params / 1e6:.2f} M | {cost.macs / 1e6:.1f} M | 64 x 64 |" in card.text


def test_a_card_that_is_there_is_kept(tmp_path) -> None:
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    model = dyvision.create_model("test_resnet", "dcd")
    save_pretrained(model, tmp_path)
    save_pretrained(model, tmp_path, metrics={"accuracy": 1.0})
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_push_to_hub_uploads_the_folder(monkeypatch) -> None:
    uploaded = {}

    def create_repo(self, repo_id, **options):
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self, folder_path, repo_id, **options):
        uploaded.update({name: os.path.getsize(os.path.join(folder_path, name)) for name in os.listdir(folder_path)})
        uploaded["card"] = (folder_path / "README.md").read_text(encoding="utf-8")
        uploaded["state"] = from_pretrained(folder_path).state_dict()
        return f"https://example.org/{repo_id}"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    model = dyvision.create_model("test_resnet", "dcd")
    assert push_to_hub(model, "me/net", card={"metrics": {"accuracy": 0.5}}) == "https://example.org/me/net"
    assert uploaded["config.json"] and "| accuracy | 0.5 |" in uploaded["card"]
    assert torch.equal(uploaded["state"]["fc.weight"], model.fc.weight)


def test_what_no_config_describes(tmp_path) -> None:
    with pytest.raises(ValueError, match="was not made by dyvision"):
        save_pretrained(torch.nn.Conv2d(1, 1, 1), tmp_path)
    changed = dyvision.create_model("test_resnet")
    changed.fc = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="was changed after it was made"):
        save_pretrained(changed, tmp_path)
    chosen = dyvision.create_model("test_resnet", "dcd", policy=lambda name, conv: "layer4" in name)
    with pytest.raises(ValueError, match=r"policy=.* is no plain value"):
        save_pretrained(chosen, tmp_path)
    with pytest.raises(ValueError, match="has no network yet"):
        save_pretrained(ClassificationTask(backbone="test_resnet"), tmp_path)
    with pytest.raises(ValueError, match=r"metrics\['accuracy'\] must be a number"):
        save_pretrained(dyvision.create_model("test_resnet"), tmp_path, metrics={"accuracy": "good"})
    assert not any(tmp_path.iterdir())


def test_a_collapsed_network_is_saved_as_the_static_one(tmp_path) -> None:
    model = dyvision.create_model("test_resnet", "dyconv", num_classes=3).eval()
    static = dyvision.collapse(model, [torch.randn(4, 3, 64, 64)])
    save_pretrained(static, tmp_path)
    again = from_pretrained(tmp_path)
    assert_same(static, again)
    assert json.loads((tmp_path / "config.json").read_text())["arguments"]["layer"] == "static"


def test_a_network_can_still_be_pickled_and_copied(tmp_path) -> None:
    model = dyvision.create_model("test_resnet", "dcd", policy=lambda name, conv: "layer4" in name)
    again = pickle.loads(pickle.dumps(model))
    assert_same(model, again)
    with pytest.raises(ValueError, match=r"policy=.* is no plain value"):
        save_pretrained(again, tmp_path)
    copied = copy.deepcopy(dyvision.create_backbone("test_resnet", "dcd"))
    save_pretrained(copied, tmp_path)
    assert_same(copied, from_pretrained(tmp_path))


def test_through_timm_with_weights_of_a_file(tmp_path) -> None:
    import dyvision.adapters.timm

    assert dyvision.adapters.timm.register("dyvision_test_resnet_dcd")
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "static.safetensors")
    overlay = {"file": str(tmp_path / "static.safetensors")}
    model = timm.create_model("dyvision_test_resnet_dcd", pretrained=True, pretrained_cfg_overlay=overlay)
    save_pretrained(model, tmp_path / "saved")
    assert "static.safetensors" not in (tmp_path / "saved" / "config.json").read_text()
    assert_same(model, from_pretrained(tmp_path / "saved"))


def test_saving_takes_no_random_numbers(tmp_path) -> None:
    model = dyvision.create_model("test_resnet", "dcd")
    torch.manual_seed(0)
    save_pretrained(model, tmp_path)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.rand(1) == after


@pytest.mark.parametrize(
    ("make", "given", "close"),
    [
        (lambda: dyvision.create_model("test_resnet", "dyconv"), "drop_path", "drop_path_rate"),
        (lambda: dyvision.create_model("test_resnet", "dyconv"), "num_kernel", "num_kernels"),
        (lambda: dyvision.create_backbone("test_resnet"), "out_indeces", "out_indices"),
        (lambda: dyvision.create_backbone("test_resnet"), "revison", "revision"),
        (lambda: ClassificationTask("test_resnet", num_classes=2), "drop_rates", "drop_rate"),
        (lambda: ClassificationTask("test_resnet", num_classes=2), "local_file_only", "local_files_only"),
    ],
)
def test_misspelt_keywords_are_named(make, given, close, tmp_path) -> None:
    save_pretrained(make(), tmp_path)
    with pytest.raises(ValueError, match=f"{given!r} .did you mean {close!r}") as found:
        from_pretrained(tmp_path, **{given: 1})
    assert "from_pretrained has no" in str(found.value)
