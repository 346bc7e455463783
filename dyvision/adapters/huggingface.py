"""Hugging Face: models, backbones and tasks as a folder, or a repository, of a config, safetensors and a model card.

``save_pretrained(model, folder)``, ``from_pretrained(folder)``, ``push_to_hub(model, "user/repository")``. A folder of
any origin is safe to load: it names no code, and nothing outside it is read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import nn

from dyvision.adapters._model_card import model_card
from dyvision.adapters._saved_config import CONFIG, CREATE, WEIGHTS, describe, read_config, rebuild, write_config
from dyvision.adapters._saved_weights import read_weights, write_weights
from dyvision.backbones.keywords import check_keywords, keywords_of
from dyvision.layers.arguments import UnknownArgumentError
from dyvision.saving import check_folder, write_text
from dyvision.tasks import BaseTask
from dyvision.tasks.components import accepted_arguments
from dyvision.tasks.opening import TASK_CLASSES
from dyvision.text import did_you_mean, first_line

__all__ = ("from_pretrained", "push_to_hub", "save_pretrained")

_CARD = "README.md"


def save_pretrained(
    model: nn.Module,
    folder: str | PathLike[str],
    *,
    metrics: Mapping[str, float] | None = None,
    dataset: str | None = None,
    license: str | None = None,
    image_size: int | tuple[int, int] = 224,
) -> Path:
    """Write ``config.json``, ``model.safetensors`` and, if there is none yet, a model card (``README.md``).

    Args:
        model: Of :func:`dyvision.create_model`, :func:`dyvision.create_backbone`, or a task.
        folder: Is made if it does not exist.
        metrics: For the card: numbers by name. By default those that the trainer of a task logged last.
        dataset: What the metrics were measured on.
        license: Of the weights, as Hugging Face calls it: ``"apache-2.0"``.
        image_size: Side, or height and width, of the images whose cost the card states.

    Returns:
        The folder.

    Raises:
        ValueError: If the network was made or changed by other code, so that no config describes it.
        OSError: If it cannot be written.
    """
    target = Path(folder).expanduser()
    check_folder(target, "save_pretrained")
    config = describe(model)
    found = _logged(model) if metrics is None else metrics
    card = None if (target / _CARD).exists() else model_card(model, config, found, dataset, license, image_size)
    write_weights(model.state_dict(), target / WEIGHTS)
    write_config(config, target / CONFIG)
    if card is not None:
        write_text(target / _CARD, str(card))
    return target


def from_pretrained(
    source: str | PathLike[str],
    *,
    trust: Collection[str] = (),
    task_class: type[BaseTask] | None = None,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Build what :func:`save_pretrained` saved, with its weights, in evaluation mode.

    Args:
        source: A folder, or a repository of the hub (``"user/repository"``).
        trust: Dotted names of classes that the config may name although they are not dyvision's.
        task_class: Class of a task of your own.
        revision: Branch, tag or commit of the repository.
        cache_dir: Where the hub's files are kept.
        token: For private repositories.
        local_files_only: Whether the network is not asked.
        **arguments: Replace those of the config.

    Raises:
        OSError: If there is no such folder or repository.
        ValueError: If a file is damaged or does not fit the other, or the config names code that is not trusted; the
            message names the file and the field.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        files = {name: _inside(folder, name) for name in (CONFIG, WEIGHTS)}
    elif folder.exists():
        raise ValueError(f"{folder}: a file; give the folder with {CONFIG} and {WEIGHTS}")
    else:
        hub: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
        try:
            files = {
                name: Path(hf_hub_download(str(source), name, local_files_only=local_files_only, **hub))
                for name in (CONFIG, WEIGHTS)
            }
        except (OSError, ValueError, EntryNotFoundError) as error:
            raise OSError(
                f"{source}: no such folder, and no repository that can be read ({first_line(error)}); give a folder of "
                "save_pretrained, or check the name and the connection"
            ) from error
    allowed = (trust,) if isinstance(trust, str) else trust
    config = read_config(files[CONFIG])
    _check_keywords(config, arguments, task_class)
    state = read_weights(files[WEIGHTS])
    return rebuild(config, state, files[CONFIG], files[WEIGHTS], allowed, task_class, arguments).eval()


def _check_keywords(config: Mapping[str, Any], given: Mapping[str, Any], task_class: type[BaseTask] | None) -> None:
    """Say which keyword is neither one of ``from_pretrained`` nor one of what the config describes."""
    if not given:
        return
    if config["kind"] != "task":
        layer = given.get("layer", config["arguments"].get("layer", "static"))
        if isinstance(layer, str):  # anything else is refused with the config's name
            check_keywords(given, [from_pretrained, CREATE[config["kind"]]], layer)
        return
    kind = task_class or TASK_CLASSES.get(config["task"])
    if kind is None:  # refused with the config's name
        return
    names, anything = accepted_arguments(kind)
    for name in () if anything else given:
        if name not in names:
            known = [*names, *keywords_of(from_pretrained)]
            raise UnknownArgumentError(f"from_pretrained has no argument {name!r}{did_you_mean(name, known)}")


def push_to_hub(model: nn.Module, repo_id: str, *, card: Mapping[str, Any] | None = None, **options: Any) -> str:
    """Save a network in a repository of the hub, which is made if it does not exist.

    Args:
        model: As for :func:`save_pretrained`.
        repo_id: ``"user/repository"``.
        card: What :func:`save_pretrained` takes for the card: ``metrics``, ``dataset``, ``license``, ``image_size``.
        **options: Of ``huggingface_hub.ModelHubMixin.push_to_hub``: ``private``, ``token``, ``commit_message``, ...

    Returns:
        Address of the commit.

    Raises:
        ValueError: As for :func:`save_pretrained`.
        OSError: If the hub cannot be reached or refuses.
    """
    return str(_Repository(model, dict(card or {})).push_to_hub(repo_id, **options))


class _Repository(ModelHubMixin, library_name="dyvision"):
    """A network as huggingface_hub saves and uploads it."""

    def __init__(self, model: nn.Module, card: dict[str, Any]) -> None:
        self.model, self.card = model, card

    def _save_pretrained(self, save_directory: Path) -> None:
        save_pretrained(self.model, save_directory, **self.card)


def _inside(folder: Path, name: str) -> Path:
    """A file of a folder; a link that leads out of it is not followed, but for those of the hub's own cache.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is elsewhere.
    """
    path, root = folder / name, folder.resolve()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give a folder that save_pretrained wrote")
    places = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    if not any(path.resolve().is_relative_to(place) for place in places):
        raise ValueError(f"{path}: a link to a file outside the folder, which is not read; copy the file into it")
    return path


def _logged(model: nn.Module) -> dict[str, float]:
    """What the trainer of a task has logged last in evaluation."""
    trainer = getattr(model, "_trainer", None) if isinstance(model, BaseTask) else None
    values = {} if trainer is None else trainer.callback_metrics
    return {name: float(value) for name, value in values.items() if name.startswith(("val/", "test/"))}
