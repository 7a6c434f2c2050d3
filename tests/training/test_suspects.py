"""Every training names its least normal images, also if a name is unusual."""

import numpy as np
import pytest

import daad_jax
from daad_jax.errors import UserError
from daad_jax.escaping import for_table
from daad_jax.training.suspects import SUSPECTS_FILE, Suspect, rank_suspects, read_suspects, write_suspects
from tests.tiny import tiny_config


def test_the_least_normal_come_first_in_units_of_the_average():
    distances = np.arange(40.0) + 1
    ranked = rank_suspects([f"{i}.png" for i in range(40)], distances)
    assert len(ranked) == 20
    assert ranked[0] == Suspect("39.png", 40 / 20.5)
    assert [s.name for s in ranked[:3]] == ["39.png", "38.png", "37.png"]
    assert len(rank_suspects([str(i) for i in range(500)], np.ones(500))) == 50
    assert len(rank_suspects(["a", "b"], np.zeros(2))) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_names_its_image(value):
    with pytest.raises(
        UserError, match=rf"b\.png: the score of this training image is {value}, which is not"
    ):
        rank_suspects(["a.png", "b.png", "c.png"], np.array([1.0, value, value]))


def test_any_name_is_a_row_of_the_file(tmp_path):
    names = ['a,"b".png', "line\nbreak.png", "\udcff.png", "=1+1.png"]
    write_suspects(tmp_path, [Suspect(name, 2.5) for name in names])
    read = read_suspects(tmp_path)
    assert read == [Suspect(for_table(name), 2.5) for name in names]
    assert [s.name for s in read] == ['a,"b".png', r"line\nbreak.png", r"\xff.png", "'=1+1.png"]
    assert read_suspects(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("score", ["high", "nan", "inf"])
def test_a_damaged_file_is_one_line(tmp_path, score):
    (tmp_path / SUSPECTS_FILE).write_text(f"rank,name,score\n1,a.png,{score}\n")
    with pytest.raises(UserError, match=r"suspects\.csv: this file is damaged; remove it"):
        read_suspects(tmp_path)


@pytest.mark.slow
def test_a_training_on_pixels_names_them(tmp_path):
    images = np.random.default_rng(0).integers(100, 120, (30, 8, 8, 1), np.uint8)
    images[7] = 255
    config = tiny_config(
        data__height=8, data__width=8, data__channels=1, train__steps=2, train__batch_size=8,
        loss__adversarial=0.0, loss__alignment=0.0, score__gamma=1.0,
    )  # fmt: skip
    daad_jax.train(config, tmp_path, data=images)
    suspects = read_suspects(tmp_path)
    assert len(suspects) == 20
    assert suspects[0].score >= suspects[-1].score > 0
