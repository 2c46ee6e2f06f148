"""What is wrong with a run is said before the page is served."""

import sys

import pytest
import yaml

from tests.cli.calls import call


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("", "explore.py needs a run"),
        ("run=nowhere", "nowhere is not a run folder: it has no config.yaml"),
        ("run=[]", "run=[] is not allowed; give a run folder, or a list of them"),
        ("run=nowhere port=0", "port=0 is not allowed"),
        ("run=nowhere device=tpu", "device=tpu is not allowed; give cpu, mps, cuda or cuda:<number>"),
        ("-m run=nowhere,elsewhere", "explore.py does not support -m"),
    ],
)
def test_a_wrong_command_is_answered_in_a_sentence(words, sentence, tmp_path):
    answer = call(tmp_path, f"explore {words}")
    assert answer.code == 2 and sentence in answer.err, answer.err


def test_a_run_that_imports_a_foreign_class_needs_trust(copy_of_run, tmp_path):
    run = copy_of_run()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["_target_"] = "os.system"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    answer = call(tmp_path, f"explore run={run}")
    assert answer.code == 2 and "imports 'os.system', which is not in trust" in answer.err


def test_a_checkpoint_that_would_run_code_is_not_loaded(copy_of_run, tmp_path):
    run = copy_of_run()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    answer = call(tmp_path, f"explore run={run}")
    assert answer.code == 2 and "damaged or not a vae_zoo checkpoint" in answer.err
    assert not (tmp_path / "ran").exists()


def test_without_gradio_the_command_says_how_to_install_it(finished_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [name for name in sys.modules if name.startswith("vae_zoo.explorer")]:
        monkeypatch.delitem(sys.modules, name)
    answer = call(tmp_path, f"explore run={finished_run}")
    assert answer.code == 2 and "pip install 'vae_zoo[explore]'" in answer.err


def test_runs_whose_images_differ_are_not_shown_side_by_side(finished_run, tmp_path):
    pytest.importorskip("gradio")
    words = "data=digits data.size=16 model=vae model/network=mlp model.network.hidden=[16] trainer=cpu callbacks=none"
    assert call(tmp_path, f"train {words} trainer.max_steps=2 hydra.run.dir=other").code == 0
    answer = call(tmp_path, f"explore run=[{finished_run},other]")
    assert answer.code == 2 and "cannot be shown together; give runs with equal image shapes" in answer.err


def test_a_port_that_is_taken_is_reported(finished_run, tmp_path):
    pytest.importorskip("gradio")
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = call(tmp_path, f"explore run={finished_run} port={port}")
    assert answer.code == 2 and f"port={port} on host=127.0.0.1 cannot be used" in answer.err
