"""A run as a folder of the Hugging Face hub: written, uploaded, downloaded, and refused where it could do harm."""

import base64
import hashlib
import json
import pickle
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import vae_zoo
from tests.cli.calls import call
from vae_zoo import UserError, load_model

hub = pytest.importorskip("huggingface_hub", reason="sharing needs huggingface_hub: pip install 'vae_zoo[export]'")


@pytest.fixture
def shared(copy_of_run):
    """A shared folder that the test may change."""
    run = copy_of_run()
    numbers = json.loads((run / "metrics.json").read_text())
    added = {
        "test/accuracy": 0.9,
        "test/accuracy_chance": 0.1,
        "test/block/z/shape": 0.5,
        "test/block/untrained/shape": 0.25,
    }
    (run / "metrics.json").write_text(json.dumps(numbers | added))
    status = json.loads((run / "run.json").read_text())
    command = "python train.py model=vae data.root=/home/me/secret seed=0"
    (run / "run.json").write_text(json.dumps(status | {"command": command}))
    return vae_zoo.export(run, format="safetensors")


def test_a_shared_folder_gives_the_model_of_the_run_to_the_bit(shared):
    run, again = load_model(shared.parent), load_model(shared)
    assert shared.name == "hub" and type(again) is type(run) and again.step == run.step == 5 and not again.training
    assert run.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in run.state_dict().items())
    images = torch.rand(4, *run.image_shape)
    assert torch.equal(run.reconstruct(images), again.reconstruct(images))
    assert {p.name for p in shared.iterdir()} == {"config.json", "model.safetensors", "README.md", "figures"}


def test_the_card_has_metadata_numbers_beside_controls_command_and_licence(shared):
    card = hub.ModelCard.load(shared / "README.md")
    assert card.data.library_name == "vae_zoo" and card.data.license == "cc-by-4.0"
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["test/accuracy"].metric_value == 0.9 and results["test/accuracy"].dataset_name == "Digits"
    assert "| `test/accuracy` | 0.9 | chance 0.1 |" in card.text
    assert re.search(r"\| z \| 0\.5 \|\n\| untrained \| 0\.25 \|", card.text)
    assert "python train.py model=vae data.root=<path> seed=0" in card.text and "secret" not in card.text
    assert "UCI, CC BY 4.0" in card.text and "| z | 10 | gaussian |" in card.text
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", card.text)
    assert pictures and all((shared / picture).is_file() for picture in pictures)


# ---- the hub --------------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to an upload and to downloads; files: {repository: {name: content}}."""

    files: dict[str, dict[str, bytes]] = {}
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value, code=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(text)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.files.setdefault(name, {})
            return self.answer({"url": f"http://{self.headers['Host']}/{name}", "id": name, "name": name})
        if self.path == "/api/validate-yaml":
            assert json.loads(text)["content"].startswith("---\nlibrary_name: vae_zoo\n")
            return self.answer({"errors": [], "warnings": []})
        name, action = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)(?:/main)?(?:\?.*)?", self.path).groups()
        if action == "preupload":
            paths = [file["path"] for file in json.loads(text)["files"]]
            answer = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self.answer({"files": answer, "commitOid": "0" * 40})
        assert action == "commit"
        for line in text.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.files[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        address = f"http://{self.headers['Host']}/{name}/commit/{'1' * 40}"
        return self.answer({"success": True, "commitOid": "1" * 40, "commitUrl": address})

    def do_GET(self):
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/\w+/([^?]+)", self.path):
            content = self.files.get(found[1], {}).get(found[2])
            if content is None:
                return self.answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")
            tag = hashlib.sha1(content).hexdigest()
            return self.answer(content, X_Repo_Commit="1" * 40, ETag=f'"{tag}"')
        name = self.path.removeprefix("/api/models/").partition("/revision")[0].partition("?")[0]
        return self.answer({"id": name, "modelId": name, "sha": "0" * 40, "siblings": [], "private": False})

    do_HEAD = do_GET


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The hub on this machine; yields what was uploaded to it."""
    monkeypatch.setattr(Hub, "files", {})
    http = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    yield Hub.files
    http.shutdown()
    http.server_close()


def test_a_model_that_was_pushed_is_loaded_from_the_hub(copy_of_run, server):
    run = copy_of_run()
    answer = call(run.parent, "export run=run push=me/digits-vae")
    assert answer.code == 0, answer.err
    assert {"config.json", "model.safetensors", "README.md"} <= server["me/digits-vae"].keys()
    assert 'load_model("hf://me/digits-vae")' in server["me/digits-vae"]["README.md"].decode()
    model, again = load_model(run), load_model("hf://me/digits-vae")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(UserError, match=r"^hf://me/other cannot be downloaded \(.+\); check the name and the network$"):
        load_model("hf://me/other")


def test_a_hub_that_cannot_be_reached_is_told_in_a_sentence(copy_of_run, server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    answer = call(copy_of_run().parent, "export run=run push=me/digits-vae")
    assert answer.code == 2 and answer.err.startswith("error: push=me/digits-vae failed (") and answer.err.count("\n") == 1


# ---- what could do harm ---------------------------------------------------------------------------------------------


class Harm:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def with_target(target, **settings):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        config["model"]["network"] = {"_target_": target, **settings}
        (folder / "config.json").write_text(json.dumps(config))

    return change


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


HARMFUL = {
    "foreign target": (with_target("evil.Network"), r"imports 'evil\.Network', which is not in trust; if you trust it, add"),
    "of a trusted module": (
        with_target("vae_zoo.runs.folder.subprocess.Popen", args=["true"]),
        "which is not in trust",
    ),
    "class that a trusted module imports": (
        with_target("vae_zoo.reports.report.Environment", extensions=["mine.Extension"]),
        "which is not in trust",
    ),
    "function that loads pickles": (with_target("torch.load", f="weights"), "imports 'torch.load', which is not in trust"),
    "interpolation": (with_target("vae_zoo.nets.MLP", hidden="${oc.decode:'{_target_: os.system}'}"), "is an interpolation"),
    "unknown setting": (with_target("vae_zoo.nets.MLP", hidden=[16], code=1), "model.network.code is not a key of"),
    "pickle": (write("model.safetensors", pickle.dumps(Harm())), "damaged or not in the safetensors format"),
    "not JSON": (write("config.json", b"{"), "config.json is damaged or not the config of a vae_zoo model"),
    "no model": (write("config.json", b"{}"), "config.json is damaged or not the config of a vae_zoo model"),
}


@pytest.mark.parametrize("change, sentence", HARMFUL.values(), ids=HARMFUL)
def test_a_harmful_folder_is_refused_in_a_sentence(change, sentence, shared):
    change(shared)
    with pytest.raises(UserError, match=sentence) as told:
        load_model(shared)
    assert "\n" not in str(told.value)


def test_weights_of_another_model_are_refused(shared):
    from safetensors.torch import load_file, save_file

    weights = load_file(shared / "model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, shared / "model.safetensors")
    with pytest.raises(UserError, match="does not match its own config"):
        load_model(shared)


@pytest.mark.parametrize("name", ["hf://../../etc", "hf://me/..", "hf://me", "hf://me/a/b", "hf://me/.git"])
def test_names_that_leave_the_hub_are_refused(name):
    with pytest.raises(UserError, match=r"is not the name of a model on the hub; give hf://<user>/<name>$"):
        load_model(name)


@pytest.mark.parametrize("words", ["push=../me", "push=me/..", "push=me", "push=a/b/c"])
def test_names_that_leave_the_hub_are_not_uploaded_to(words, finished_run):
    answer = call(finished_run.parent, f"export run=run {words}")
    assert answer.code == 2 and answer.err == f"error: {words} is not allowed; give <user>/<name> on the hub, or null\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("format=onnx push=me/x", "push= needs format=safetensors, got format=onnx"),
        ("format=safetensors uint8=true", "uint8= needs format=onnx or torch_export, got format=safetensors"),
    ],
)
def test_settings_without_effect_are_refused(words, sentence, finished_run):
    answer = call(finished_run.parent, f"export run=run {words}")
    assert answer.code == 2 and sentence in answer.err
