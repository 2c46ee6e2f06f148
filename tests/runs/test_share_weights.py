"""tools/weights.py: the presets that a release attaches."""

import importlib.util

import pytest

from tests.commands import REPOSITORY
from vae_zoo import config_dir

pytest.importorskip("huggingface_hub", reason="sharing needs huggingface_hub: pip install 'vae_zoo[export]'")


@pytest.fixture
def weights():
    spec = importlib.util.spec_from_file_location("weights", REPOSITORY / "tools/weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_presets_are_exported_and_a_missing_or_large_one_is_told(weights, copy_of_run, tmp_path, monkeypatch, capsys):
    assert len(weights.PRESETS) == 5
    for words in weights.PRESETS.values():
        assert (config_dir() / "experiment" / f"{words.removeprefix('experiment=')}.yaml").is_file()
    copy_of_run("runs/spair")
    assert weights.make(tmp_path / "runs", tmp_path / "out") == 2
    told = capsys.readouterr()
    assert told.out.startswith("spair: ") and "MB in" in told.out and (tmp_path / "out/spair/model.safetensors").is_file()
    assert "mfcvae: no run; train it: python train.py experiment=mfcvae/digits hydra.run.dir=" in told.err
    monkeypatch.setattr(weights, "LIMIT", 1000)
    assert weights.make(tmp_path / "runs", tmp_path / "out") == 2
    assert "spair: 0." in capsys.readouterr().err
