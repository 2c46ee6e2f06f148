"""Training in this process: every model on digits, three on other data too, and each option of the trainer."""

import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Callback
from PIL import Image

from tests import wandb_files
from tests.config.test_schemas import choices
from tests.models.builders import costs
from vae_zoo import config_dir, load_model
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.config.check import check_train
from vae_zoo.evaluation.pictures import traversable
from vae_zoo.runs import folder as runs
from vae_zoo.runs.evaluate import evaluate_trained
from vae_zoo.runs.train import prepare, quiet
from vae_zoo.training.callbacks.figures import log_image
from vae_zoo.training.callbacks.monitor import NotFinite
from vae_zoo.training.loggers import MetricsCSV
from vae_zoo.training.trainer import AtomicCheckpointIO, precision_of

LADDERS = {  # networks, and mixtures for a few images
    "ladder_vae": ["model.network.hidden=[[8],[8]]"],
    "mfcvae": ["model.network.hidden=[[8],[8]]", "model.num_clusters=[4,4]"],
    "vade": ["model.network.hidden=[[8,8]]", "model.num_clusters=[4]"],
}
SCENES = ("spair", "split_spair")
CASES = [(model, "digits") for model in choices("model")]
CASES += [(model, data) for model in ("vae", "ml_vae", "split_vae") for data in ("dsprites", "image_folder")]
FEW = {data: [f"data.{split}_size={n}" for split in ("val", "test")] for data, n in (("dsprites", 8), ("digits", 40))}
SMALL = "data=digits model/network=mlp model.network.hidden=[32] trainer.max_steps=20 trainer.log_every_n_steps=5".split()


def configuration(*words):
    register_resolvers()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return check_train(compose("train", overrides=list(words)))


def train(folder, *words, callback=None):
    quiet()
    cfg = configuration(*words)
    runs.write_config(folder, cfg)
    trainer, model, data = prepare(folder, cfg)
    if callback is not None:
        trainer.callbacks.append(callback)
    trainer.fit(model, datamodule=data)
    return trainer, model, data


class Count(Callback):
    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append(batch["index"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(24):
        (folder / f"class{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"class{i % 2}" / f"{i}.png")
    return folder


@pytest.mark.parametrize("model, data", CASES)
def test_every_model_sees_exactly_max_steps_batches(tmp_path, pictures, small_evaluation, model, data):
    words = [f"model={model}", f"data={data}", "data.batch_size=4"]
    words += LADDERS.get(model, [f"model.network.{'hidden=[8]' if model in SCENES else 'channels=[4,4,4,4]'}"])
    words += ["model.discriminator_hidden=[8]"] if model == "factor_vae" else []
    words += ["model.mixture_start=6"] if model == "split_vade" else []
    words += [f"data.path={pictures}", "data.channels=3", "data.num_classes=2"] if data == "image_folder" else []
    words += FEW.get(data, [])
    count = Count()
    trainer, module, loaded = train(tmp_path, *words, "trainer.max_steps=12", callback=count)
    assert len(count.batches) == trainer.global_step == module.step == 12
    assert all(torch.equal(batch, loaded.train_indices(t)) for t, batch in enumerate(count.batches))
    numbers = evaluate_trained(trainer, module, loaded, tmp_path).numbers
    assert {"test/elbo", "test/rec", "train/images_per_second"} <= numbers.keys()
    assert all(math.isfinite(value) for value in numbers.values()) and numbers["test/rec"] > 0
    figures = {p.name for p in (tmp_path / "figures").iterdir()}
    traversals = {f"traversals_{block}" for block in traversable(module)}
    names = {"reconstructions", "samples", "kl_per_dimension"} | traversals
    assert {f"{name}_12.png" for name in names} | {f"{name}_12.webp" for name in traversals} <= figures


def test_metrics_while_training_are_logged_and_shift_nothing(tmp_path):
    words = [*SMALL, "model=vae", "evaluation.level=quick"]
    trainer, watched, _ = train(tmp_path / "watched", *words, "callbacks.metrics.every_n_steps=10")
    trainer.loggers[0].save()
    rows = MetricsCSV(tmp_path / "watched" / "metrics.csv").rows()
    values = {row["step"]: float(row["val/block/z/label"]) for row in rows if row["val/block/z/label"]}
    assert list(values) == ["10", "20"], "a search takes the last step's"
    assert all(0 <= value <= 1 for value in values.values()) and watched.latest_at["val/block/z/label"] == 20
    _, plain, _ = train(tmp_path / "plain", *words)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))


def test_metrics_while_training_train_each_classifier_once(tmp_path, monkeypatch):
    from vae_zoo.metrics import judge

    trained, kept = [], judge.train_judge

    def train_judge(data, target, **options):
        trained.append(target)
        return kept(data, target=target, steps=2, **options)

    monkeypatch.setattr(judge, "train_judge", train_judge)
    train(tmp_path, *SMALL, "model=ss_vae", "data.labelled=100", "callbacks.metrics.every_n_steps=10")
    assert trained == ["label"]


def test_first_nan_stops_the_run_and_names_term_step_and_image(tmp_path):
    class Poison(Callback):
        def on_train_start(self, trainer, module):
            log_prob = module.likelihood.log_prob

            def poisoned(x, params):
                values = log_prob(x, params)
                return torch.where(torch.arange(len(values)) == 3, torch.nan, values) if module.step == 12 else values

            module.likelihood.log_prob = poisoned

    with pytest.raises(NotFinite, match="rec not finite at step 13") as error:
        train(tmp_path, *SMALL, "model=vae", "callbacks.checkpoint.every_n_steps=4", callback=Poison())
    data = prepare(tmp_path, configuration(*SMALL, "model=vae"))[2]
    assert f"[{int(data.train_indices(12)[3])}]" in str(error.value), "the one image whose term was NaN"
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 12
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


def test_checkpoint_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)

    def save_half(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"step": 2}, path)
    assert io.load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(Exception, match="weights_only|Unsupported|WeightsUnpickler"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")


def test_averaged_weights_are_what_is_kept(tmp_path):
    class Average(Callback):
        """The recursion w' = d w' + (1 - d) w by hand, from the weights after each step."""

        average = None

        def on_train_batch_end(self, trainer, module, *rest):
            weight = module.encoder[1].weight.detach().clone()
            self.average = weight if self.average is None else 0.9 * self.average + 0.1 * weight

    mine = Average()
    train(tmp_path, *SMALL, "model=vae", "trainer.ema_decay=0.9", callback=mine)
    kept = load_model(tmp_path).encoder[1].weight
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert torch.allclose(kept, mine.average, atol=1e-6)
    assert not torch.allclose(kept, checkpoint["current_model_state"]["encoder.1.weight"], atol=1e-4)


@pytest.mark.parametrize("model", ["vae", "factor_vae"])
def test_gradients_are_clipped_to_the_norm(tmp_path, model):
    class Norms(Callback):
        def __init__(self):
            self.largest = 0.0

        def on_before_optimizer_step(self, trainer, module, optimizer):
            gradients = [p.grad.flatten() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            self.largest = max(self.largest, float(torch.cat(gradients).norm()))

    free, clipped = Norms(), Norms()
    words = [*SMALL, f"model={model}", *(["model.discriminator_hidden=[16,16]"] if model == "factor_vae" else [])]
    train(tmp_path / "free", *words, callback=free)
    train(tmp_path / "clipped", *words, "trainer.gradient_clip_val=0.5", callback=clipped)
    assert free.largest > 5
    if model == "factor_vae":  # clipped by the model itself, before the hook
        assert clipped.largest <= 0.5 * (1 + 1e-5)


def test_patience_stops_a_run_that_does_not_improve(tmp_path):
    words = ["model=vae", "trainer.patience=2", "model.optimizer.lr=1e-30", "trainer.val_check_interval=2"]
    trainer, _, _ = train(tmp_path, *SMALL, *words)
    assert trainer.global_step == 6  # the first validation is the best; the second and third do not improve on it
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_learning_rate_follows_its_schedule(tmp_path):
    class Rates(Callback):
        def __init__(self):
            self.rates = []

        def on_train_batch_end(self, trainer, *rest):
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates = Rates()
    schedule = "model.lr_schedule={_target_: vae_zoo.schedules.Linear, start: 1.0, end: 0.0, steps: 10}"
    train(tmp_path, *SMALL, "model=vae", "model.optimizer.lr=1e-2", schedule, callback=rates)
    assert np.allclose(rates.rates, [1e-2 * max(0, 1 - t / 10) for t in range(20)])


def test_bf16_keeps_kl_and_likelihood_in_float32(tmp_path):
    trainer, module, data = train(tmp_path, *SMALL, "model=beta_tc_vae", "trainer.precision=bf16-mixed")
    batch = data.train_batch(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.encoder(batch["image"]).dtype == torch.bfloat16
        assert all(value.dtype == torch.float32 for value in costs(module, batch).values())


@pytest.mark.parametrize(
    "able, accelerator, chosen",
    [
        ({"avx512_bf16": True}, "cpu", "bf16-mixed"),
        ({"avx512_f": True, "avx512_bf16": False}, "cpu", "32-true"),
        ({"avx512_bf16": True}, "mps", "32-true"),
    ],
)
def test_fast_is_what_the_device_computes_in(monkeypatch, caplog, able, accelerator, chosen):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    with caplog.at_level("INFO"):
        assert precision_of("fast", accelerator) == chosen
    assert f"trainer.precision=fast: {chosen}" in caplog.text


@pytest.mark.slow
def test_compiled_and_plain_checkpoints_are_the_same_kind(tmp_path):
    train(tmp_path / "compiled", *SMALL, "model=vae", "trainer.compile=true")
    train(tmp_path / "plain", *SMALL, "model=vae")
    compiled, plain = load_model(tmp_path / "compiled"), load_model(tmp_path / "plain")
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for name, weight in plain.state_dict().items():  # the compiler may add in another order
        assert torch.allclose(weight, compiled.state_dict()[name], atol=1e-3), name


def test_run_resumes_in_another_memory_format(tmp_path):
    small = ["model.network.channels=[4,8]", "model.network.hidden=[8]", "data.batch_size=8", "trainer.val_check_interval=2"]
    words = ["data=digits", "model=vae", *small]
    train(tmp_path, *words, "trainer.max_steps=4")

    def resumed(channels_last):
        cfg = configuration(*words, "trainer.max_steps=8", f"trainer.channels_last={channels_last}")
        trainer, model, data = prepare(tmp_path / str(channels_last), cfg)
        trainer.fit(model, datamodule=data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
        return model

    same, other = resumed(False), resumed(True)
    assert not same.encoder[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert other.encoder[2].weight.is_contiguous(memory_format=torch.channels_last)
    for name, weight in same.state_dict().items():  # moments of other weights would change them by 0.003
        torch.testing.assert_close(other.state_dict()[name], weight, atol=1e-6, rtol=0, msg=name)


def test_validation_does_not_depend_on_the_batch_size(tmp_path):
    losses = []
    for size in (64, 100):
        trainer, module, data = train(tmp_path / str(size), *SMALL, "model=vae", "trainer.max_steps=1")
        data.batch_size = size
        trainer.validate_loop.verbose = False
        losses.append(trainer.validate(module, datamodule=data, verbose=False) and module.trainer.callback_metrics)
    assert losses[0]["val/loss"] == pytest.approx(float(losses[1]["val/loss"]), rel=1e-6)


def test_pictures_reach_disk_and_every_logger(tmp_path):
    class Dashboard:
        def __init__(self):
            self.seen = []

        def log_figure(self, name, image, step):
            self.seen.append((name, image.shape, step))

    boards = [Dashboard(), object(), Dashboard()]
    log_image(boards, tmp_path, "samples", np.zeros((4, 6, 3), np.uint8), 7)
    assert Image.open(tmp_path / "samples_7.png").size == (6, 4)
    assert boards[0].seen == boards[2].seen == [("samples", (4, 6, 3), 7)]


def test_tensorboard_gets_numbers_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["model=vae", "logger=tensorboard", "callbacks.figures.every_n_steps=10"]
    train(tmp_path, *SMALL, *words)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert "figures/reconstructions" in events.Tags()["images"]
    assert [event.step for event in events.Scalars("train/loss")] == [5, 10, 15, 20]


def test_metrics_csv_is_in_lightnings_form_and_cut_back(tmp_path):
    log = MetricsCSV(tmp_path / "metrics.csv")
    log.log_metrics({"train/loss": 2.0}, step=10)
    log.save()
    log.log_metrics({"val/loss": 3.0}, step=10)
    log.log_metrics({"train/loss": 1.0}, step=20)
    log.save()
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == ["epoch,step,train/loss,val/loss", "0,10,2.0,", "0,10,,3.0", "0,20,1.0,"]
    fresh = MetricsCSV(tmp_path / "metrics.csv")
    fresh.cut_back(10)
    fresh.log_metrics({"train/loss": 1.5}, step=20)
    fresh.save()
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == ["epoch,step,train/loss,val/loss", "0,10,2.0,", "0,10,,3.0", "0,20,1.5,"]


def test_loaded_model_answers_a_users_tensor(tmp_path):
    train(tmp_path, *SMALL, "model=beta_vae")
    model = load_model(tmp_path)
    assert not model.training
    x = torch.rand(5, 1, 32, 32)
    assert model.encode(x)["z"].mean.shape == (5, 10)
    assert model.reconstruct(x).shape == x.shape and model.sample(3).shape == (3, 1, 32, 32)
    with pytest.raises(ValueError, match=r"images must be float32 of shape \[B, 1, 32, 32\], got float32 \[5, 3, 32, 32\]"):
        model.encode(torch.rand(5, 3, 32, 32))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        model.reconstruct(x * 255)


def test_wandb_offline_history_is_whole_after_a_resume(tmp_path):
    """Rewritten from metrics.csv into ONE new offline folder, under the same id; the older one moved aside."""
    cfg = configuration(*SMALL, "model=vae", "logger=wandb_offline")
    for steps, checkpoint in ((10, None), (20, tmp_path / "checkpoints" / "last.ckpt")):
        cfg["trainer"]["max_steps"] = steps
        trainer, model, data = prepare(tmp_path, cfg)
        board = trainer.loggers[1]
        board.log_hyperparams(cfg)
        board.rewrite_history(tmp_path / "metrics.csv", steps - 10)
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
        name = board.experiment.id
        import wandb

        wandb.finish()
    assert name == (tmp_path / "wandb_id").read_text()
    live = [p for p in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(live) == 1 and len(list((tmp_path / "wandb" / "replaced").glob("offline-run-*"))) == 1
    rows = [row for row in wandb_files.read(live[0])["history"] if "train/loss" in row or "val/loss" in row]
    assert [row["trainer/global_step"] for row in rows] == [5, 10, 10, 15, 20, 20]  # a validation at the end of each session
