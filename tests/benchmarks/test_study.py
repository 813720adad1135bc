"""The comparison on CIFAR-10: which rows there are, and what its table says."""

from dataclasses import replace

from benchmarks.study import BUDGETS, ENCODER, MODELS, SEEDS, key_of, rows, stages, table
from icgan_training.networks.config import ModelConfig, TrainConfig

BUDGET = replace(BUDGETS["cpu"], images=(100, 200))


def test_every_row_has_a_line_of_its_own_and_the_comparison_comes_first() -> None:
    listed = list(stages(BUDGET))
    assert len({row.key(images) for row, images in listed}) == len(listed)
    first = listed[: SEEDS * len(MODELS)]
    assert {row.group for row, _ in first} == {"models"}
    assert [row.seed for row, _ in first] == sorted(row.seed for row, _ in first)


def test_models_are_scored_at_every_number_of_pictures_and_no_run_is_asked_to_go_back() -> None:
    listed = list(stages(BUDGET))
    for name in MODELS:
        models = [images for row, images in listed if (row.group, row.name, row.seed) == ("models", name, 0)]
        assert models == [100, 200]
    seen: dict[str, int] = {}
    for row, images in listed:
        assert images >= seen.get(row.run, 0)
        seen[row.run] = images


def test_rows_share_a_run_only_where_nothing_but_the_drawing_differs() -> None:
    by_run: dict[str, set[str]] = {}
    for row in rows():
        by_run.setdefault(row.run, set()).add(f"{row.preset} {row.train} {row.seed}")
    assert all(len(kinds) == 1 for kinds in by_run.values())


def test_a_budget_changes_only_settings_that_there_are() -> None:
    known = set(ModelConfig.__dataclass_fields__) | set(TrainConfig.__dataclass_fields__)
    assert all(set(budget.overrides) <= known for budget in BUDGETS.values())


def line(name: str, seed: int, fid: float, images: int = 100) -> dict[str, object]:
    scores = {"fid": fid, "kid": 0.1, "precision": 0.5, "recall": 0.2, "density": 0.4, "coverage": 0.3}
    return {"group": "models", "name": name, "seed": seed, "images": images, "scores": scores}


def test_the_table_shows_the_mean_of_the_seeds_and_half_their_spread() -> None:
    text = table([line("IC-GAN", 0, 98.0), line("IC-GAN", 1, 101.0), line("unconditional", 0, 115.0)])
    assert "| models | IC-GAN | 100 | 2 | 99.5 ± 1.5 | 0.1000 ± 0.0000 |" in text
    assert "| models | unconditional | 100 | 1 | 115.0 | 0.1000 |" in text


def test_a_run_that_has_learnt_more_is_a_row_of_its_own() -> None:
    lines = [line("IC-GAN", 0, 98.0, 100), line("IC-GAN", 0, 75.0, 2_000)]
    assert "| models | IC-GAN | 100 | 1 | 98.0 |" in table(lines)
    assert "| models | IC-GAN | 2,000 | 1 | 75.0 |" in table(lines)
    assert len({key_of(each) for each in lines}) == 2


def test_data_of_another_encoder_adds_its_rows_and_runs_to_the_same_table() -> None:
    other = "resnet50 at 224 px"
    assert {(row.group, row.name) for row in rows(other)} == {("encoder", other)}
    assert not {row.run for row in rows(other)} & {row.run for row in rows(ENCODER)}
    text = table([line("IC-GAN", 0, 98.0), line(other, 0, 90.0) | {"group": "encoder"}])
    assert text.splitlines()[-1].startswith("| encoder | resnet50 at 224 px | 100 | 1 | 90.0 |")
