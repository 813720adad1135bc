"""Words on sheets."""

from __future__ import annotations

import numpy as np

from icgan_runtime.captions import under

SHEET = np.zeros((8, 200, 3), np.uint8)


def test_names_keep_their_letters_where_the_font_has_no_accents():
    np.testing.assert_array_equal(under(SHEET, "Bär ‘Zoë’.jpg"), under(SHEET, "Bar 'Zoe'.jpg"))
    np.testing.assert_array_equal(
        under(SHEET, "Ba\u0308r.jpg"), under(SHEET, "Bar.jpg")
    )  # as macOS writes it


def test_letters_of_other_scripts_are_question_marks_instead_of_empty_boxes():
    np.testing.assert_array_equal(under(SHEET, "星.jpg"), under(SHEET, "?.jpg"))
