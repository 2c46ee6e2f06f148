"""Exported graphs give what the model gives, without the model."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

import vae_zoo
from tests.annotations import unchecked
from tests.cli.calls import call, contents
from tests.commands import REPOSITORY
from tests.config.test_schemas import choices, composed
from vae_zoo import UserError
from vae_zoo.contract import Block
from vae_zoo.distributions import Normal
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.runs import export as module
from vae_zoo.runs.load import build, load_model
from vae_zoo.utils.files import replacing

pytest.importorskip("onnxscript", reason="exports need onnxscript: pip install 'vae_zoo[export]'")
ort = pytest.importorskip("onnxruntime", reason="exports are read by onnxruntime: pip install 'vae_zoo[export]'")


@pytest.fixture(autouse=True)
def no_checks_in_graphs():
    """As in a user's process: torch cannot trace the checks of annotations."""
    with unchecked():
        yield


SMALL = ["model/network=mlp", "model.network.hidden=[8]"]
FAST = {("split_vae", "onnx"): SMALL, ("parted_vae", "torch_export"): SMALL, ("mfcvae", "torch_export"): []}
CASES = [pytest.param(*case, words, id="-".join(case)) for case, words in FAST.items()]
CASES += [pytest.param(name, "onnx", [], marks=pytest.mark.slow) for name in choices("model")]
CASES += [pytest.param(name, "torch_export", [], marks=pytest.mark.slow) for name in ("ml_vae", "spair", "split_vae")]


@pytest.mark.parametrize("name, format, words", CASES)
def test_graphs_agree_with_the_model_for_any_number_of_images(name, format, words, tmp_path):
    torch.manual_seed(0)
    model = build(composed(f"model={name}", "data=digits", *words)["model"]).eval().requires_grad_(False)
    images = torch.randint(256, (6, *model.image_shape), dtype=torch.uint8)
    module.write_graphs(model, images, tmp_path, format, uint8=False)
    for count in (1, 2, 5):
        x = torch.rand(count, *model.image_shape)
        q = run(tmp_path / "encoder", format, image=x)
        for block, posterior in model.encode(x).items():
            kind = model.blocks[block].kind
            assert {n for n in q if n.startswith(f"{block}_")} >= {
                *([f"{block}_probs"] if kind == "categorical" else [f"{block}_mean"]),
                *([f"{block}_logvar"] if kind == "gaussian" else []),
            }
            for key, part in (("mean", "mean"), ("logvar", "logvar"), ("probs", "mean")):
                if f"{block}_{key}" in q and not (key == "probs" and kind == "gaussian"):
                    np.testing.assert_allclose(q[f"{block}_{key}"], getattr(posterior, part), atol=1e-4, rtol=1e-4)
        if hasattr(model, "clusters"):
            for facet, probs in model.clusters(model.encode(x)).items():
                np.testing.assert_allclose(q[f"{facet}_probs"], probs, atol=1e-4)
        codes = model.sample_prior(count)
        np.testing.assert_allclose(run(tmp_path / "decoder", format, **codes)["image"], model.decode(codes), atol=1e-4)


def run(path: Path, format: str, **inputs: torch.Tensor) -> dict[str, np.ndarray]:
    if format == "torch_export":
        graph = torch.export.load(path.with_suffix(".pt2")).module()
        return {name: value.numpy() for name, value in graph(*inputs.values()).items()}
    session = ort.InferenceSession(path.with_suffix(".onnx"))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: value.numpy() for name, value in inputs.items()})))


@pytest.fixture(scope="module")
def exported(finished_run) -> Path:
    """The folder that `python export.py run=<run>` has written; whichever process of pytest is first writes it."""
    folder = finished_run.parent / "exported"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            answer = call(finished_run.parent, "export run=run out=exported uint8=true")
            assert answer.code == 0 and answer.out == "written to exported\n", answer.err
    return folder


def test_model_json_tells_a_client_what_the_graphs_take_and_give(exported, finished_run):
    about = json.loads((exported / "model.json").read_text())
    model = load_model(finished_run)
    size = model.blocks["z"].size
    assert sorted(p.name for p in exported.iterdir()) == ["decoder.onnx", "encoder.onnx", "model.json"]
    assert about["encoder"]["inputs"] == [{"name": "image", "shape": ["N", *model.image_shape], "dtype": "uint8"}]
    assert [output["name"] for output in about["encoder"]["outputs"]] == ["z_mean", "z_logvar"]
    assert about["decoder"]["inputs"] == [{"name": "z", "shape": ["N", size], "dtype": "float32"}]
    z = about["blocks"]["z"]
    assert z["kind"] == "gaussian" and len(z["low"]) == len(z["high"]) == size and all(np.less(z["low"], z["high"]))
    assert about["model"] == "VAE" and about["steps"] == 5 and "255" in about["preprocessing"]
    images = torch.randint(256, (3, *model.image_shape), dtype=torch.uint8)
    got, want = run(exported / "encoder", "onnx", image=images), model.encode(images.float() / 255)["z"]
    np.testing.assert_allclose(got["z_logvar"], want.logvar.detach(), atol=1e-4)


def test_the_client_of_the_page_runs_without_torch(exported, finished_run, tmp_path):
    (page,) = re.findall(r"```python\n(import json.*?)```", (REPOSITORY / "docs/how_to/export.md").read_text(), re.DOTALL)
    assert len([line for line in page.splitlines() if line.strip()]) <= 12
    (tmp_path / "export").symlink_to(exported)
    pixels = np.random.default_rng(0).integers(256, size=(32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    code = f"import sys; sys.modules['torch'] = sys.modules['vae_zoo'] = None\n{page}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = load_model(finished_run)
    want = model.reconstruct(torch.from_numpy(pixels)[None, None].float() / 255)[0, 0]
    got = np.asarray(Image.open(tmp_path / "decoded.png"))
    np.testing.assert_allclose(got, want.mul(255).numpy(), atol=0.51)


class Undecided(LatentVariableModel):
    """What it computes depends on the values of the image."""

    def __init__(self):
        super().__init__((1, 4, 4))
        self.blocks = {"z": Block(2, "gaussian", "brightness")}

    def encode(self, batch):
        x = self.image(batch)
        mu = x.mean((2, 3)).expand(-1, 2)
        return {"z": Normal(mu if x.sum() > 3 else -mu, mu)}


class Shares(Undecided):
    """Divides by a sum that may be 0."""

    def encode(self, batch):
        mu = batch.mean((2, 3)).expand(-1, 2)
        return {"z": Normal(mu, mu - 1)}

    def decode(self, codes):
        return (codes["z"] / (codes["z"].sum(1, keepdim=True) + 1e-8)).repeat(1, 8).view(-1, 1, 4, 4)


def test_a_small_number_that_keeps_a_division_finite_stays_in_the_graph(tmp_path):
    module.write_graphs(Shares(), torch.zeros(4, 1, 4, 4, dtype=torch.uint8), tmp_path, "onnx", uint8=False)
    assert (run(tmp_path / "decoder", "onnx", z=torch.zeros(3, 2))["image"] == 0).all()


def test_a_model_that_cannot_be_exported_is_refused_with_the_reason(tmp_path):
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"^the encoder of Undecided cannot be exported as onnx \(.+\); format=") as told:
        module.write_graphs(Undecided(), images, tmp_path, "onnx", uint8=False)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("error", [0.001, np.nan])
def test_a_graph_that_gives_something_else_is_refused_and_nothing_is_left(error, copy_of_run, monkeypatch):
    folder = copy_of_run()
    before = contents(folder)
    write = module.WRITERS["torch_export"]

    def other(*arguments):
        graph = write(*arguments)
        return lambda given: {name: value + error for name, value in graph(given).items()}

    monkeypatch.setitem(module.WRITERS, "torch_export", other)
    answer = call(folder.parent, "export run=run format=torch_export")
    assert answer.code == 2 and "differs by" in answer.err and answer.err.count("\n") == 1
    assert contents(folder) == before


def test_an_export_replaces_an_earlier_one_but_no_other_files(tmp_path):
    out = tmp_path / "out"
    for text in ("one", "two"):
        with replacing(out) as new:
            (new / "a").write_text(text)
    assert (out / "a").read_text() == "two"
    (out / "mine").write_text("precious")
    with pytest.raises(UserError, match="has mine, which is not part of this export"):
        with replacing(out) as new:
            (new / "a").write_text("three")
    assert {p.name: p.read_text() for p in out.iterdir()} == {"a": "two", "mine": "precious"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


REFUSED = {
    "export": "run has no value and no default; add run=<value>",
    "export run=run format=tflite": "format=tflite is not allowed; give onnx, torch_export or safetensors, or null",
    "export run=nowhere": "nowhere is not a run folder: it has no config.yaml; give a folder such as",
    "export run=run data.batch_size=3": "data.batch_size cannot be changed, since the data would differ",
    "export run=untrained": "untrained has no checkpoints/last.ckpt; train it first",
    "export -m run=run": "export.py does not support -m",
}


@pytest.mark.parametrize("line, sentence", REFUSED.items(), ids=REFUSED)
def test_mistakes_are_told_in_a_sentence(line, sentence, copy_of_run, tmp_path):
    if "untrained" in line:
        (copy_of_run("untrained") / "checkpoints/last.ckpt").unlink()
    copy_of_run()
    answer = call(tmp_path, line)
    assert answer.code == 2 and answer.err.startswith(f"error: {sentence}") and answer.err.count("\n") == 1, answer.err


def test_a_missing_package_is_named_with_the_command_that_installs_it(finished_run, monkeypatch):
    monkeypatch.setattr("vae_zoo.utils.lazy.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(
        UserError, match=r"^this needs onnxscript, which is not installed; run: pip install 'vae_zoo\[export\]'$"
    ):
        vae_zoo.export(finished_run)
