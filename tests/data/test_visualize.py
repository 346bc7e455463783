"""If these fail, pictures of predictions show wrong places or wrong classes."""

from __future__ import annotations

import os
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dyvision.visualize import (
    as_image,
    denormalize,
    draw_boxes,
    draw_label,
    draw_legend,
    draw_objects,
    fit,
    grid,
    legend_of,
    overlay_mask,
    overlay_with_legend,
    save,
)
from dyvision.visualize.figures import check_figure, heat_map, name_ticks, new_figure, save_figure

BLACK = np.zeros((40, 60, 3), np.uint8)


def test_denormalize_inverts_the_normalisation() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    tensor = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32))
    assert np.array_equal(denormalize(tensor, mean, std), pixels)
    assert denormalize(torch.full((3, 2, 2), 9.0)).max() == 255


def test_a_mask_colours_its_classes_only() -> None:
    mask = torch.full((40, 60), 255)
    mask[:10] = 0
    mask[10:20] = 1
    mask[20:30] = 9  # no colour for it
    out = np.array(overlay_mask(BLACK, mask, [[200, 0, 0], [0, 100, 0]], alpha=0.5))
    assert out[5, 5].tolist() == [100, 0, 0]
    assert out[15, 5].tolist() == [0, 50, 0]
    assert not out[20:].any()
    with pytest.raises(ValueError, match=r"mask is \[4, 4\], its image \[40, 60\]"):
        overlay_mask(BLACK, np.zeros((4, 4)), [[1, 2, 3]])
    assert not np.array(overlay_mask(BLACK, np.zeros((40, 60)), [])).any()


def test_boxes_masks_and_scores() -> None:
    masks = np.zeros((1, 40, 60), np.uint8)
    masks[0, 25:30, 25:30] = 1
    out = np.array(draw_boxes(BLACK, [[20, 20, 40, 35]], ["cat"], [[255, 0, 0]], scores=[0.5], masks=masks))
    assert out[35, 30].tolist() == [255, 0, 0]
    assert 0 < out[27, 27, 0] < 255
    assert not out[33, 33].any()
    none = draw_boxes(BLACK, torch.zeros((0, 4)), [], [])
    assert not np.array(none).any()
    with pytest.raises(ValueError, match="1 boxes but 2 labels"):
        draw_boxes(BLACK, [[1, 1, 2, 2]], ["a", "b"], [[1, 2, 3]])


def test_a_label_stays_inside() -> None:
    out = np.array(draw_label(BLACK, "x", [0, 0, 255], position=(500, -20)))
    assert (out == [0, 0, 255]).all(axis=2).any()
    assert out.shape == BLACK.shape


def test_overlays_have_a_legend_of_the_classes_that_occur() -> None:
    mask = np.zeros((40, 60), int)
    mask[:, 30:] = 2
    mask[0] = 255
    image, names, colors = (
        np.zeros((40, 60, 3), np.uint8),
        ["road", "sky", "a long name of a class"],
        [[200, 0, 0], [0, 200, 0], [0, 0, 200]],
    )
    out = np.array(overlay_with_legend(image, mask, names, colors))
    assert (out[:40, :60] == np.array(overlay_mask(image, mask, colors))).all()
    below = out[40:]
    assert (below == colors[0]).all(axis=2).any() and (below == colors[2]).all(axis=2).any()
    assert not (below == colors[1]).all(axis=2).any()
    assert out.shape[1] > 60  # the longest name is not cut
    nothing = overlay_with_legend(image, np.full((40, 60), 255), names, colors)
    assert nothing.size == (60, 40)


def test_grids_and_legends(tmp_path: Path) -> None:
    names = [f"a long name {number}" for number in range(12)]
    legend = draw_legend(names, [[number, 0, 0] for number in range(12)], 200)
    assert legend.width == 200
    assert legend.height > draw_legend(names, [[1, 0, 0]] * 12, 2000).height
    sheet = grid([BLACK] * 5, columns=3, gap=0, footer=legend)
    assert sheet.size == (200, 80 + legend.height)
    with pytest.raises(ValueError, match="a grid needs images"):
        grid([])
    path = save(sheet, tmp_path / "deep" / "sheet")
    assert Image.open(path).size == sheet.size
    assert path.name == "sheet.png"


def test_a_picture_is_written_into_what_is_named(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    assert save(BLACK, pipe) == pipe
    reader.join(10)
    assert Image.open(BytesIO(found[0])).format == "PNG" and pipe.is_fifo()
    (tmp_path / "mine").write_text("old")
    assert Image.open(save(BLACK, tmp_path / "mine")).format == "PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "pipe"]
    for name in ("a.xyz", "a.json"):
        with pytest.raises(ValueError, match=rf"{name}: .* no picture that can be written"):
            save(BLACK, tmp_path / name)


def test_images_come_in_one_form() -> None:
    assert as_image(Image.new("L", (3, 2), 7)).getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float64 \[2, 2\]"):
        as_image(np.zeros((2, 2)))
    assert fit(BLACK, 120, 40).size == (60, 40)
    assert fit(BLACK, 30, 300).size == (30, 20)


def test_objects_are_scaled_with_their_image() -> None:
    masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    masks[0, 12:15, 12:15] = True
    objects = {"boxes": torch.tensor([[10.0, 10, 20, 18]]), "labels": torch.tensor([2]), "masks": masks}
    names, colors = ["cat", "dog"], [[0, 255, 0], [255, 0, 0]]
    out = np.array(draw_objects(BLACK, objects, names, colors, (20, 30)))
    whole = {"boxes": 2 * objects["boxes"].bfloat16(), "labels": objects["labels"]}
    box = np.array(draw_objects(BLACK, whole, names, colors))
    assert out[36, 30].tolist() == box[36, 30].tolist() == [255, 0, 0]  # the second class, labels count from 1
    assert 0 < out[26, 26, 0] < 255 and not box[26, 26].any()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    assert not np.array(draw_objects(BLACK, nothing, names, colors)).any()


def test_a_legend_has_the_classes_that_occur() -> None:
    maps = [torch.tensor([[0, 255], [2, 2]]), np.array([-1, 9])]
    colors = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    legend = np.array(legend_of(maps, ["road", "sky", "car"], colors, 200))
    assert [(legend == color).all(axis=2).any() for color in colors] == [True, False, True]
    assert legend_of(maps, ["road", "sky", "car"], colors, 200, ignore_index=2).width == 200
    assert legend_of([np.full((2, 2), 255)], ["road"], colors, 200) is None


def test_figures_name_strangers_and_refuse_what_is_no_picture(tmp_path: Path) -> None:
    figure = new_figure(3, 3)
    axes = figure.add_subplot()
    heat_map(axes, np.eye(3), 0, 1, "Blues")
    name_ticks(axes.yaxis, ["$x^2$", "a\nb\x1b", "信号"])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [r"\$x^2\$", r"a b\x1b", "信号"]
    for name in ("new/a.png", "a.SVG", "a.pdf"):
        save_figure(figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 500
    with pytest.raises(ValueError, match=r"--plot .*a\.xyz: the suffix must be one of"):
        check_figure(tmp_path / "a.xyz", "--plot")
    with pytest.raises(ValueError, match="the suffix must be one of"):
        save_figure(figure, tmp_path / "a")
    assert not (tmp_path / "a").exists()
