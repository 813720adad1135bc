"""Scorers: functions, ONNX files, words; and what is said of those that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from icgan_runtime import onnx_scorer, text_scorer
from icgan_runtime.errors import RequestError
from icgan_runtime.steer.scorers import as_scorer, scored
from tests.runtime.steer import graphs

RED, GREEN, BLUE = (np.tile(np.array(rgb, np.uint8), (6, 8, 1)) for rgb in np.eye(3) * 255)
COLOURS = np.stack([RED, GREEN, BLUE])


def test_a_file_that_takes_pixels_scores_them_as_they_are(tmp_path):
    scorer = as_scorer(graphs.redness_of_pixels(tmp_path / "red.onnx"))
    np.testing.assert_allclose(scored(scorer, COLOURS), [255, 0, -255])


def test_more_pictures_than_one_run_takes_are_scored_in_their_order(tmp_path):
    scorer = onnx_scorer(graphs.redness_of_pixels(tmp_path / "red.onnx"))
    many = np.stack([RED // (1 + row % 5) for row in range(40)])
    np.testing.assert_allclose(scored(scorer, many), [255 // (1 + row % 5) for row in range(40)])


def test_words_find_the_picture_of_their_colour(tmp_path):
    files = (
        graphs.mean_of_floats(tmp_path / "image.onnx", name="image_embeds"),
        graphs.colour_words(tmp_path / "text.onnx"),
        graphs.tokenizer(tmp_path / "tokenizer.json"),
    )
    for word, best in (("red", 0), ("a green picture", 1), ("blue", 2)):
        scores = scored(text_scorer(word, *files), COLOURS)
        assert scores.argmax() == best
        assert np.abs(scores).max() <= 1 + 1e-6


def test_floats_are_normalised_as_the_graph_says_and_as_clip_where_it_says_nothing(tmp_path):
    words = graphs.colour_words(tmp_path / "text.onnx"), graphs.tokenizer(tmp_path / "tokenizer.json")
    grey = np.full((1, 9, 9, 3), 51, np.uint8)  # 0.2
    told = {"mean": "0.2, 0.2, 0.1", "std": "1,1,0.5"}
    encoder = graphs.mean_of_floats(tmp_path / "told.onnx", metadata=told)
    # [0, 0, 0.2] beside [-0.5, -0.5, 1.5]
    expected = 1.5 / np.sqrt(0.25 + 0.25 + 2.25)
    np.testing.assert_allclose(scored(text_scorer("blue", encoder, *words), grey), expected, atol=1e-5)
    clip = graphs.mean_of_floats(tmp_path / "clip.onnx")
    seen = (0.2 - np.array([0.48145466, 0.4578275, 0.40821073])) / [0.26862954, 0.26130258, 0.27577711]
    wanted = np.array([-0.5, -0.5, 1.5])
    expected = seen @ wanted / np.linalg.norm(seen) / np.linalg.norm(wanted)
    np.testing.assert_allclose(scored(text_scorer("blue", clip, *words), grey), expected, atol=1e-5)


def test_a_graph_for_one_image_is_run_for_each(tmp_path):
    encoder = graphs.mean_of_floats(tmp_path / "one.onnx", batch=1)
    words = graphs.colour_words(tmp_path / "text.onnx"), graphs.tokenizer(tmp_path / "tokenizer.json")
    assert scored(text_scorer("green", encoder, *words), COLOURS).argmax() == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 2)), "scorer: gave float64[2, 2] for 3 images, expected a number for each"),
        (1.0, "scorer: gave float64[] for 3 images, expected a number for each"),
        (["a", "b", "c"], "for 3 images, expected a number for each"),
        ([1, np.nan, 2], "scorer: gave nan for image 1, expected a finite number"),
    ],
)
def test_a_function_must_give_a_finite_number_for_each_picture(answer, message):
    with pytest.raises(RequestError) as caught:
        scored(lambda _: answer, COLOURS)
    assert message in str(caught.value)


def test_what_is_no_scorer_is_refused(tmp_path):
    wrong: Any
    (tmp_path / "text.onnx").write_text("no graph")
    for wrong, message in (
        (3, "scorer: int, expected a function of images, or the path of an ONNX file"),
        (tmp_path / "absent.onnx", "absent.onnx: cannot be read"),
        (tmp_path / "text.onnx", "text.onnx: ONNX Runtime cannot load it"),
        (
            graphs.redness_of_pixels(tmp_path / "two.onnx", width=2),
            "two.onnx: gives score float32[N, 2], expected a score for each image, float32[N]",
        ),
        (
            graphs.colour_words(tmp_path / "words.onnx"),
            "words.onnx: takes input_ids int64[N, L], expected one of uint8[N, H, W, 3] and float32",
        ),
        (
            graphs.mean_of_floats(tmp_path / "odd.onnx", metadata={"mean": "0.5"}),
            "odd.onnx: its mean is '0.5', expected three numbers",
        ),
        (
            graphs.mean_of_floats(tmp_path / "four.onnx", batch=4),
            "four.onnx: takes pixels float32[4, 3, 4, 4], expected any number of images, or one",
        ),
    ):
        with pytest.raises(RequestError) as caught:
            as_scorer(wrong)
        assert message in str(caught.value)


def test_encoders_that_do_not_belong_together_are_refused(tmp_path):
    images = graphs.mean_of_floats(tmp_path / "image.onnx")
    texts, wide = graphs.colour_words(tmp_path / "text.onnx"), graphs.colour_words(tmp_path / "wide.onnx", 5)
    tokens = graphs.tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "no.json").write_text("{}")
    for arguments, message in (
        (("red", images, wide, tokens), "images: "),
        (("red", texts, texts, tokens), "takes input_ids int64[N, L], expected one of uint8"),
        (("red", images, images, tokens), "texts: "),
        (("", images, texts, tokens), "text: 0 characters, expected 1..10000"),
        (("red", images, texts, tmp_path / "no.json"), "no.json: no tokenizer.json of `tokenizers`"),
        (("red", images, texts, tmp_path / "absent"), "tokenizer: "),
    ):
        with pytest.raises(RequestError) as caught:
            text_scorer(*arguments)
        assert message in str(caught.value)
