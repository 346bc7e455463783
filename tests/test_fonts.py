"""If these failed, class names would be rows of boxes."""

import pytest

from dyvision.visualize import draw_boxes, draw_label, draw_legend
from dyvision.visualize.fonts import _letters, font_file


@pytest.mark.parametrize("text", ["Straßenbahn ä", "δρόμος", "автомобиль", "שלום", "سيارة"])
def test_scripts_that_need_no_font_of_the_system(text):
    assert {ord(letter) for letter in text if not letter.isspace()} <= _letters(font_file(text))


def test_letters_differ_from_each_other_and_from_a_missing_glyph():
    pictures = [draw_label(draw_legend([], [], 60), text, position=(0, 0)).tobytes() for text in "яжъωψ"]
    assert len(set(pictures)) == 5


@pytest.mark.parametrize("text", ["汽车", "a\nb", "\x07", "[/b]", "😀", ""])
def test_any_text_can_be_drawn(text):
    image = draw_legend([text], [[1, 2, 3]], 80)
    assert draw_boxes(image, [[0, 0, 5, 5]], [text], [[1, 2, 3]]).size == image.size
