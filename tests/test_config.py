"""training.config: closed, typed, told by name."""

from pathlib import Path

import pytest

from training.config import RunConfig, dump_config, load_config
from training.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.mark.parametrize("name", ["default.yaml", "camembert_base.yaml"])
def test_the_projects_own_configurations_load(name: str) -> None:
    assert load_config(CONFIGS / name).data.sources == ["data_cards/testimonies"]


def test_a_rate_that_yaml_reads_as_a_string_becomes_a_number() -> None:
    """YAML reads 5e-5 as text; a library must never see that."""
    assert load_config(None, ["optim.learning_rate=5e-5"]).optim.learning_rate == 5e-5


def test_settings_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\noptim: {epochs: 2}\n", encoding="utf-8")
    config = load_config(path, ["optim.epochs=5"])
    assert (config.seed, config.optim.epochs) == (3, 5)


def test_the_resolved_configuration_runs_again(tmp_path: Path) -> None:
    """run.yaml in the artifact is a configuration like any other."""
    config = load_config(CONFIGS / "camembert_base.yaml", ["seed=7"])
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("optim.epoch=3", "unknown key 'optim.epoch'; allowed here: epochs"),
        ("learning_rate=3", "unknown key 'learning_rate'"),
        ("optim.epochs=-1", "optim.epochs: .* greater than 0"),
        ("model.max_tokens=many", "model.max_tokens"),
        ("model.overlap=300", "model.overlap must be smaller"),
        ("optim.probe=true", "optim.probe needs recombined texts"),
        ("optim.augment_kinds=[sms, smoke]", "optim.augment_kinds.1: .*allowed: accents, sms.*'smoke'"),
        ("optim.augment=1.5", "optim.augment: .* less than or equal to 1"),
        ("optim.average=1", "optim.average: .* less than 1"),
        ("seed", "write it as key=value"),
        ("seed.x=1", None),
    ],
)
def test_a_wrong_setting_is_told_by_name(setting: str, expected: str | None) -> None:
    with pytest.raises(UserError, match=expected):
        load_config(None, [setting])


def test_a_missing_file_says_where_the_projects_own_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="configs/"):
        load_config(tmp_path / "none.yaml")


def test_training_texts_stay_as_they_are_unless_asked() -> None:
    """What changes texts, targets or weights on the way is off by default."""
    optim = load_config().optim
    assert (optim.augment, optim.join, optim.label_smoothing, optim.average) == (0.0, 0.0, 0.0, 0.0)
    assert load_config(None, ["optim.augment_kinds=[sms]"]).optim.augment_kinds == ["sms"]


def test_defaults_live_in_the_class() -> None:
    assert load_config() == RunConfig()
