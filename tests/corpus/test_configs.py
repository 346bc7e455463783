"""Configuration files that cannot be used, and command lines that are none."""

from __future__ import annotations

import pytest

#: content of the file, words of the line (the file's name always has to be among them)
FILES = {
    "two colons": ("a: b: c\n", "YAML", "line 1"),
    "tab": ("model:\n\tlr: 1\n", "YAML", "line 2"),
    "unclosed": ("model: {lr: 1\n", "YAML"),
    "binary": ("\x00\x01\x02", "YAML"),
    "list": ("- 1\n- 2\n", "mapping"),
    "text": ("hello\n", "mapping"),
    "number": ("3\n", "mapping"),
    "code": ("!!python/object/apply:os.system ['echo']\n", "YAML"),
    "section is a list": ("model: [1, 2]\n", "model", "mapping"),
    "section is a number": ("data: 3\n", "data", "mapping"),
    "section is text": ("trainer: fast\n", "trainer", "mapping"),
    "unknown section": ("modle: {lr: 1}\n", "modle", "model"),
    "unknown key": ("model: {learning_rat: 1}\n", "learning_rat"),
    "misspelt key": ("model: {bakbone: resnet18}\n", "model.bakbone", "model.backbone"),
    "key of another task": ("model: {head: fcn}\n", "model.head"),
    "key of another section": ("data: {lr: 0.1}\n", "data.lr", "model.lr"),
    "number as a key": ("model: {1: 2}\n", "model.1"),
    "text for a number": ("model: {lr: abc}\n", "model.lr", "number"),
    "comma for a point": ("model: {lr: '0,1'}\n", "model.lr", "number"),
    "list for a number": ("trainer: {max_epochs: [1, 2]}\n", "trainer.max_epochs", "integer"),
    "mapping for a number": ("data: {batch_size: {a: 1}}\n", "data.batch_size", "integer"),
    "bool for a number": ("trainer: {max_epochs: yes}\n", "trainer.max_epochs", "integer"),
    "task is a number": ("task: 3\n", "task", "3"),
    "task is a list": ("task: [classification]\n", "task"),
    "base is a number": ("base: 3\n", "base"),
    "base is a list": ("base: [a]\n", "base"),
    "base is missing": ("base: nowhere\n", "nowhere"),
    "base is itself": ("base: spoilt.yaml\n", "base", "back"),
    "sample_data is a list": ("sample_data: [1]\n", "sample_data", "text"),
    "model of another kind": ("model: {class_path: torch.nn.Linear}\n", "torch.nn.Linear"),
    "model that does not exist": ("model: {class_path: no.such.Model}\n", "no.such"),
    "data that does not exist": ("data: {class_path: no.such.Data}\n", "no.such"),
    "callback that is a number": ("trainer: {callbacks: [3]}\n", "trainer.callbacks"),
    "logger that does not exist": ("trainer: {logger: {class_path: NoSuchLogger}}\n", "NoSuchLogger"),
    "missing checkpoint": ("ckpt_path: nowhere.ckpt\n", "nowhere.ckpt"),
    "deep": ("model: " + "{a: " * 3000 + "1" + "}" * 3000 + "\n", ""),
    "deep list": ("model: {class_names: " + "[" * 3000 + "]" * 3000 + "}\n", ""),
    "recursive": ("model: {layer_kwargs: &a {b: *a}}\n", "inside its own anchor"),
}


@pytest.mark.parametrize("name", FILES)
def test_file_is_refused(name, refused_in_fit, tmp_path) -> None:
    content, *words = FILES[name]
    path = tmp_path / "spoilt.yaml"
    path.write_text(content, encoding="utf-8")
    # a value is blamed on its file, or on its name where only the task knows that it is wrong
    refused_in_fit("classification", [f"--config={path}"], *words)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings(encoding, refused, tmp_path) -> None:
    path = tmp_path / "spoilt.yaml"
    path.write_bytes("task: classification\noutput: äöü\n".encode(encoding))
    refused(["fit", f"--config={path}"], "spoilt.yaml", "YAML")


COMMANDS = [
    ([], "command"),
    (["trian"], "trian", "'fit'"),
    (["train"], "train", "'fit'"),
    (["fitt"], "fitt", "'fit'"),
    (["evaluate"], "evaluate", "'validate'"),
    (["xyzzy"], "xyzzy", "validate"),
    (["--config", "a.yaml", "fit"], "--config", "dyvision fit"),
    (["--task=classification"], "--task", "command comes first"),
    (["fit", "validate"], "validate", "one command"),
    (["fit"], "which task", "--config"),
    (["fit", "--task"], "task"),
    (["fit", "--task="], "task"),
    (["fit", "--task=classificaton"], "'classification'"),
    (["fit", "--config"], "--config", "needs"),
    (["fit", "--config="], "config"),
    (["fit", "--config=nowhere.yaml"], "nowhere.yaml"),
    (["fit", "--config=segmentation/quikstart.yaml"], "segmentation/quickstart.yaml"),
    (["fit", "--config=."], "folder"),
    (["fit", "segmentation/quickstart.yaml"], "--config=segmentation/quickstart.yaml"),
    (["fit", "--task=classification", "lr=0.1"], "--lr=0.1"),
    (["fit", "--task=classification", "-lr", "0.1"], "lr"),
    (["predict", "last.ckpt"], "--ckpt_path=last.ckpt"),
    (["validate", "last.ckpt"], "--ckpt_path=last.ckpt"),
    (["test", "weights.pth"], "--ckpt_path=weights.pth"),
    (["predict", "--ckpt_path"], "ckpt_path"),
    (["predict", "--ckpt_path="], "ckpt_path"),
    (["fit", "--task=classification", "--data.root"], "--data.root", "value"),
    (["fit", "--task=classification", "--data=photos"], "--data.root=photos"),
    (["fit", "--task=classification", "--model=resnet50"], "--model.backbone=resnet50"),
]
#: an option without its section -> the option
SECTIONLESS = {
    "lr": "model.lr",
    "backbone": "model.backbone",
    "layer": "model.layer",
    "batch_size": "data.batch_size",
    "batch-size": "data.batch_size",
    "num_workers": "data.num_workers",
    "root": "data.root",
    "max_epochs": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "devices": "trainer.devices",
    "gpus": "trainer.devices",
    "accelerator": "trainer.accelerator",
    "precision": "trainer.precision",
    "resume": "ckpt_path",
    "checkpoint": "ckpt_path",
    "weight_decay": "model.weight_decay",
    "learning_rate": "model.lr",
    "image_size": "data.image_size",
    "img_size": "data.image_size",
    "seed": "seed",
}


@pytest.mark.parametrize(
    ("arguments", "words"), [(row[0], row[1:]) for row in COMMANDS], ids=[" ".join(row[0]) for row in COMMANDS]
)
def test_command_line_is_refused(arguments, words, refused) -> None:
    refused(arguments, *words)


@pytest.mark.parametrize("option", SECTIONLESS)
def test_option_without_its_section(option, refused_in_fit) -> None:
    refused_in_fit("classification", [f"--{option}=1"], f"--{option}", SECTIONLESS[option])
    refused_in_fit("classification", [f"--{option}", "1"], f"--{option}", SECTIONLESS[option])


def test_every_option_is_found_by_its_last_name(corpus, tmp_path) -> None:
    from dyvision.cli.trainer import TaskCLI, read_request
    from dyvision.cli.words import suggest

    request = read_request(["--task=segmentation", "--data.root=x", f"--trainer.default_root_dir={tmp_path}"])
    known = list(vars(TaskCLI("fit", request).parser.get_defaults().as_flat()))
    leaves = {name.rsplit(".", 1)[-1]: name for name in known if "." in name}
    assert len(leaves) > 80
    for leaf in leaves:
        assert f".{leaf}'" in suggest(leaf, known), leaf


OTHER = [
    (["list"], "layers"),
    (["list", "layer"], "'layers'"),
    (["list", "layers", "xyz*"], "no layers match"),
    (["config", "cat"], "name"),
    (["config", "cat", "nowhere"], "nowhere"),
    (["config", "cat", "segmentation/quikstart"], "segmentation/quickstart.yaml"),
    (["config", "cp", "nowhere", "x.yaml"], "nowhere"),
    (["config", "mv"], "'mv'"),
    (["data"], "ACTION"),
    (["data", "shw", "x"], "'show'"),
    (["data", "show"], "PATH"),
    (["data", "show", "nowhere"], "nowhere"),
    (["data", "show", ".", "--format", "voc2"], "voc2"),
    (["data", "show", ".", "--count", "x"], "--count", "'x'"),
    (["data", "sample"], "DIR"),
    (["data", "sample", "x", "--seed", "y"], "--seed", "'y'"),
    (["quickstart", "--layer", "odconvv"], "'odconv'"),
    (["quickstart", "--backbone", "mobilnetv2_035"], "mobilenetv2_035"),
    (["quickstart", "--seed", "x"], "--seed"),
    (["quickstart", "--seed", "-1"], "seed"),
    (["profile", "xyzzy"], "unknown backbone"),
    (["profile"], "model"),
    (["report"], "report"),
    (["report", "nowhere.ckpt"], "nowhere.ckpt"),
    (["benchmark"], "what"),
    (["benchmark", "xyzzy"], "xyzzy"),
    (["reproduce", "--foo"], "--foo"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), [(row[0], row[1:]) for row in OTHER], ids=[" ".join(row[0]) for row in OTHER]
)
def test_other_command_is_refused(arguments, words, refused) -> None:
    refused(arguments, *words)
