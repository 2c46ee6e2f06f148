"""tools/model_cards.py: the pages of the best runs."""

import importlib.util

import pytest
import yaml

from tests.commands import REPOSITORY
from vae_zoo import config_dir

pytest.importorskip("huggingface_hub", reason="sharing needs huggingface_hub: pip install 'vae_zoo[export]'")


@pytest.fixture
def cards(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("model_cards", REPOSITORY / "tools/model_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OUT", tmp_path / "docs")
    return module


def test_the_seed_with_the_lowest_validation_loss_has_the_page(cards, copy_of_run, tmp_path, capsys):
    for seed, loss in ((3, 20.0), (4, 10.0), (5, 30.0)):
        run = copy_of_run(f"runs/spair/seed{seed}")
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
        (run / "metrics.csv").write_text(f"epoch,step,val/loss\n0,2,1.0\n0,5,{loss}\n")
    assert cards.main(tmp_path / "runs") == 0
    said = capsys.readouterr().out
    assert "spair: 3 runs\n" in said and "mfcvae: 0 runs; train them: python train.py experiment=mfcvae/beyond" in said
    page = (tmp_path / "docs/spair.md").read_text()
    assert page.startswith("# VAE on Digits\n") and "that of 3 seeds with the lowest loss on validation images" in page
    assert "| 5 | 4 |" in page, "step and seed of the chosen run"
    pictures = {path.name for path in (tmp_path / "docs/figures").iterdir()}
    assert pictures and all(f"(figures/{name})" in page for name in pictures)
    index = (tmp_path / "docs/index.md").read_text()
    assert index.count("](") == 3 and "[VAE on Digits](spair.md)" in index, "only pages that exist"


def test_a_run_without_a_validation_loss_and_a_folder_without_runs_are_told(cards, copy_of_run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert cards.main(tmp_path / "empty") == 2
    run = copy_of_run("runs/spair/seed3")
    (run / "metrics.csv").write_text("epoch,step,val/loss\n")
    with pytest.raises(cards.UserError, match="has no val/loss"):
        cards.main(tmp_path / "runs")


def test_every_page_has_an_experiment_and_a_place_in_the_docs(cards):
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    for name, card in cards.CARDS.items():
        assert (config_dir() / "experiment" / f"{card.experiment}.yaml").is_file()
        assert f"models/{name}.md" in navigation and (REPOSITORY / f"docs/models/{name}.md").is_file()
