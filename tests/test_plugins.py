"""Modules of users: how they are found, what they register, and what is said when they fail."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch

from dyvision import plugins
from dyvision.backbones import list_backbones, register_backbone
from dyvision.data import list_data_formats, register_data_format, register_transform
from dyvision.layers import get_layer, list_layers, register_layer
from dyvision.registry import check_plugins, record_plugins
from dyvision.tasks import register_detection_head, register_segmentation_head
from dyvision.tasks.heads import list_heads
from tests.plugin_sandbox import plugin_sandbox

LAYER = """
from dyvision.layers import get_layer, register_layer

@register_layer("{name}")
class Own(get_layer("se")):
    pass
"""


@pytest.fixture(autouse=True)
def forgotten():
    with plugin_sandbox():
        yield


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def install(folder: Path, name: str, value: str, package: str = "their-package") -> None:
    """What ``pip install --target`` leaves of a package with an entry point."""
    info = folder / f"{package.replace('-', '_')}-1.2.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    write(info / "entry_points.txt", f"[dyvision.plugins]\n{name} = {value}\n")


def test_a_module_of_the_working_directory_is_imported_by_name(here) -> None:
    write(here / "first_own.py", LAYER.format(name="first_own"))
    assert plugins.import_plugin("first_own") == "first_own"
    assert "first_own" in list_layers() and get_layer("first_own").__module__ == "first_own"


def test_a_file_is_imported_from_any_place_once(here, tmp_path_factory) -> None:
    file = write(tmp_path_factory.mktemp("far") / "far_own.py", LAYER.format(name="far_own"))
    assert plugins.import_plugin(str(file)) == str(file) == plugins.import_plugin(str(file))
    assert get_layer("far_own").__module__ == "far_own"


def test_a_file_of_a_package_is_a_module_of_it(here) -> None:
    write(here / "own_package" / "__init__.py", "")
    write(here / "own_package" / "names.py", "NAME = 'packed'\n")
    write(here / "own_package" / "layers.py", "from .names import NAME\n" + LAYER.format(name="packed"))
    plugins.import_plugin("own_package/layers.py")
    plugins.import_plugin("own_package.layers")
    assert get_layer("packed").__module__ == "own_package.layers"


def test_a_path_in_a_config_is_looked_for_beside_it_first(here) -> None:
    write(here / "beside_own.py", "raise RuntimeError('the wrong one')")
    write(here / "configs" / "beside_own.py", LAYER.format(name="beside_own"))
    plugins.import_plugin("beside_own.py", "a.yaml: import:", here / "configs")
    assert "beside_own" in list_layers()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1\nb = (", "broken_own.py:2: SyntaxError"),
        ("a = 1\n\nb = c\n", "broken_own.py:3: NameError: name 'c' is not defined"),
        ("import torch\nf = lambda: torch.ones(2) @ torch.ones(3)\nf()\n", "broken_own.py:2: RuntimeError"),
        ("import no_such_package_at_all\n", "broken_own.py:1: ModuleNotFoundError: No module named 'no_such"),
        ("import sys\nsys.exit(3)\n", "broken_own.py:2: SystemExit: 3"),
        ("from dyvision import register_layer\n\nregister_layer('dcd')(int)\n", "broken_own.py:3: ValueError: layer"),
    ],
)
@pytest.mark.parametrize("typed", ["broken_own", "broken_own.py", "./broken_own.py"])
def test_what_fails_is_told_with_file_and_line(text, said, typed, here) -> None:
    write(here / "broken_own.py", text)
    with pytest.raises(ValueError, match=r"^--import") as caught:
        plugins.import_plugin(typed)
    assert f"--import {typed}: " in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("no_such_own", "there is no module 'no_such_own', neither in the working directory ({here}) nor"),
        ("no_such_own.py", "no such file; looked at {here}/no_such_own.py"),
        ("folder/no_such.py", "no such file; looked at {here}/folder/no_such.py"),
        ("json.py", "Python has another module 'json'"),
        ("own.layers.py", "without another dot"),
        ("", "expected a module or a file"),
        ("--model.layer", "expected a module or a file"),
    ],
)
def test_what_cannot_be_found_is_told_with_where_it_was_looked_for(typed, said, here) -> None:
    for name in ("json.py", "own.layers.py"):
        write(here / name, "")
    with pytest.raises(ValueError, match=r"^--import") as caught:
        plugins.import_plugin(typed)
    assert said.format(here=here) in str(caught.value)


def test_files_beside_a_plugin_hide_no_module_of_python(here) -> None:
    write(here / "quiet_own.py", "import colorsys\nassert hasattr(colorsys, 'rgb_to_hsv')\n")
    write(here / "colorsys.py", "")
    sys.modules.pop("colorsys", None)
    plugins.import_plugin("quiet_own.py")


def test_installed_plugins_are_loaded_when_a_name_is_not_known(here, monkeypatch) -> None:
    write(here / "lazy_own.py", LAYER.format(name="lazy_own"))
    write(here / "called_own.py", f"def register():\n{textwrap.indent(LAYER.format(name='called_own'), '    ')}")
    install(here, "lazy", "lazy_own")
    install(here, "called", "called_own:register", "second-package")
    monkeypatch.syspath_prepend(str(here))
    plugins._looked = False
    assert get_layer("dcd") and "lazy_own" not in sys.modules
    assert get_layer("lazy_own") and get_layer("called_own")
    plugins._looked = False
    assert {"lazy_own", "called_own"} <= set(list_layers())


def test_a_broken_plugin_is_one_warning_with_its_name(here, monkeypatch) -> None:
    write(here / "bad_own.py", "a = 1\nraise OSError('no disk')\n")
    write(here / "good_own.py", LAYER.format(name="good_own"))
    install(here, "bad", "bad_own", "a-bad-package")
    install(here, "good", "good_own")
    monkeypatch.syspath_prepend(str(here))
    plugins._looked = False
    with pytest.warns(UserWarning, match="bad") as caught:
        assert "good_own" in list_layers()
    assert len(caught) == 1
    assert str(caught[0].message).startswith("plug-in 'bad' of a-bad-package 1.2 (bad_own) is left out: ")
    assert str(caught[0].message).endswith("bad_own.py:2: OSError: no disk")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list_layers()


REGISTER = {
    "layer": lambda name: register_layer(name)(get_layer("se")),
    "backbone": lambda name: register_backbone(name)(lambda **arguments: torch.nn.Identity()),
    "segmentation head": lambda name: register_segmentation_head(name)(torch.nn.Identity),
    "detection head": lambda name: register_detection_head(name)(lambda backbone, classes, config: backbone),
    "transform": lambda name: register_transform(name)(type("Own", (__import__("albumentations").HorizontalFlip,), {})),
    "data format": lambda name: register_data_format(name)(
        type("Own", (__import__("dyvision.data").data.ImageFolderDataModule,), {})
    ),
}
TAKEN = {
    "layer": "dcd",
    "backbone": "resnet18",
    "segmentation head": "UPerHead",
    "detection head": "fcos",
    "transform": "HorizontalFlip",
    "data format": "coco",
}


@pytest.mark.parametrize("kind", REGISTER)
def test_a_name_is_registered_once_and_both_places_are_told(kind) -> None:
    REGISTER[kind]("own_one")
    with pytest.raises(ValueError, match="is registered already") as caught:
        # another line
        exec("\n\nregister('own_one')", {"__name__": "elsewhere", "register": _elsewhere(kind)})
    assert str(caught.value).startswith(f"{kind} 'own_one' is registered already, at ")
    assert str(caught.value).count("test_plugins.py:") + str(caught.value).count("<string>:") == 2
    with pytest.raises(ValueError, match=f"{kind} '{TAKEN[kind]}' is registered already, (by|at) "):
        REGISTER[kind](TAKEN[kind])


def _elsewhere(kind):
    given = {
        "layer": (register_layer, get_layer("se")),
        "backbone": (register_backbone, lambda **arguments: torch.nn.Identity()),
        "segmentation head": (register_segmentation_head, torch.nn.Identity),
        "detection head": (register_detection_head, lambda backbone, classes, config: backbone),
        "transform": (register_transform, __import__("albumentations").HorizontalFlip),
        "data format": (register_data_format, __import__("dyvision.data").data.ImageFolderDataModule),
    }
    decorator, thing = given[kind]
    return lambda name: decorator(name)(thing)


@pytest.mark.parametrize("kind", REGISTER)
@pytest.mark.parametrize("name", ["", "a b", "null", "true", "off", "12", "a/b", "a.b", "-a", None, 3])
def test_a_name_is_a_word_that_yaml_reads_as_text(kind, name) -> None:
    with pytest.raises(ValueError, match="a name is a word"):
        REGISTER[kind](name)


@pytest.mark.parametrize(
    ("register", "given"),
    [
        (register_layer, torch.nn.functional.conv2d),
        (register_backbone, "resnet18"),
        (register_segmentation_head, dict),
        (register_detection_head, lambda backbone: backbone),
        (register_transform, torch.nn.Identity),
        (register_data_format, torch.utils.data.Dataset),
    ],
)
def test_what_is_of_another_kind_is_refused(register, given) -> None:
    with pytest.raises(TypeError, match="own_wrong"):
        register("own_wrong")(given)
    assert "own_wrong" not in {*list_layers(), *list_backbones(), *list_heads("segmentation"), *list_data_formats()}


def test_a_module_that_is_reloaded_replaces_what_it_registered(here) -> None:
    import importlib

    write(here / "again_own.py", LAYER.format(name="again_own"))
    plugins.import_plugin("again_own")
    before = get_layer("again_own")
    importlib.reload(sys.modules["again_own"])
    assert get_layer("again_own") is not before


def test_a_wrong_name_is_told_with_those_of_plugins(here) -> None:
    write(here / "own_near.py", LAYER.format(name="spiral_conv"))
    plugins.import_plugin("own_near")
    with pytest.raises(ValueError, match="did you mean 'spiral_conv'"):
        get_layer("spiral_con")
    with pytest.raises(ValueError, match="--import names the module"):
        get_layer("zzzzzz")


def test_a_record_names_what_is_used_and_imports_nothing(here) -> None:
    write(here / "own_kept.py", LAYER.format(name="own_kept") + LAYER.format(name="own_unused"))
    plugins.import_plugin("own_kept.py")
    records = record_plugins({"layer": "own_kept", "backbone": "resnet18"})
    assert records == [{"kind": "layer", "name": "own_kept", "module": "own_kept", "import": "own_kept.py"}]
    with plugin_sandbox():
        check_plugins(records, {"layer": "own_kept"}, "a.ckpt")


@pytest.mark.parametrize(
    "recorded", [None, 3, "x", [3], [{}], [{"kind": "layer"}], [{"kind": 1, "name": 2, "module": 3}]]
)
def test_a_record_of_a_stranger_may_be_anything(recorded) -> None:
    check_plugins(recorded, {"layer": "x"}, "a.ckpt")


def test_a_missing_name_is_told_with_the_way_out(here) -> None:
    write(here / "evil_own.py", "open('ran', 'w')")
    record = [{"kind": "layer", "name": "gone", "module": "evil_own", "import": "evil_own.py"}]
    with pytest.raises(ValueError, match=r"a.ckpt: names the layer 'gone', .* give --import evil_own.py"):
        check_plugins(record, {"layer": "gone"}, "a.ckpt")
    check_plugins(record, {"layer": "dcd"}, "a.ckpt")  # the user gave another
    assert not (here / "ran").exists()


def test_worker_processes_that_are_spawned_find_the_module(here) -> None:
    write(
        here / "deep" / "spawned_own.py",
        """
        import torch

        class Squares(torch.utils.data.Dataset):
            def __len__(self): return 4
            def __getitem__(self, index): return torch.tensor(index ** 2)
        """,
    )
    main = write(
        here / "main.py",
        """
        import torch
        from dyvision.plugins import import_plugin

        if __name__ == "__main__":
            import_plugin("deep/spawned_own.py")
            from spawned_own import Squares
            loader = torch.utils.data.DataLoader(Squares(), 2, num_workers=1, multiprocessing_context="spawn")
            print([batch.tolist() for batch in loader])
        """,
    )
    done = subprocess.run([sys.executable, main], capture_output=True, text=True, timeout=120, cwd=here)
    assert done.stdout.strip() == "[[0, 1], [4, 9]]", done.stderr
