"""Runs on scenes, from the command to the last number."""

import json

from tests.cli.calls import call

FEW = (
    "experiment=spair/scenes_small trainer=cpu trainer.max_steps=6 data.train_size=64 data.val_size=16 data.test_size=16 "
    "data.batch_size=4 model.presence_warmup_steps=2 model.network.hidden=[16] model.object_network.hidden=[16] "
    "hydra.run.dir=run"
)


def test_a_model_of_objects_alone_is_trained_and_evaluated_to_the_end(tmp_path, small_evaluation):
    answer = call(tmp_path, f"train {FEW} data.ground=black model.background_dim=0")
    assert answer.code == 0, answer.err
    answer = call(tmp_path, "evaluate run=run")
    assert answer.code == 0, answer.err
    numbers = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert {"test/elbo", "test/ap50", "test/nll_iw100"} <= numbers.keys()
    assert not any("active_units" in name or name.startswith("test/block/") for name in numbers)
