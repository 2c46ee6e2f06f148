"""A sweep is its jobs' folders: whatever dies, the same command does what is missing and nothing else."""

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra import compose, initialize_config_dir

from tests.cli.calls import TINY, call, contents
from tests.commands import REPOSITORY, run, start
from vae_zoo.cli import run as cli_run
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.cli.job import jobs_here
from vae_zoo.runs import folder as runs
from vae_zoo.sweeps import jobs as sweeps

MODEL = """
import os, signal
from pathlib import Path
from vae_zoo.models.vae import VAE


class Moody(VAE):
    def __init__(self, *args, mood="fine", number=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.mood = mood

    def on_train_start(self):
        super().on_train_start()
        with open("starts", "a") as file:
            file.write(f"{self.mood} {self.trainer.global_step}\\n")

    def objective(self, batch):
        if self.mood.startswith("raise") and self.step == 2:
            raise RuntimeError("the third step is too much")
        if self.mood == "die" and self.step == 2 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().objective(batch)
"""
MOODS = ["a", "b", "raise1", "c", "die", "d", "e", "f", "raise2", "g", "h", "i"]


@pytest.fixture
def moody(tmp_path):
    """A folder with a model of one's own that fails on demand."""
    (tmp_path / "moody.py").write_text(MODEL)
    conf = tmp_path / "conf" / "model"
    conf.mkdir(parents=True)
    (conf / "moody.yaml").write_text("defaults: [_vae]\n_target_: moody.Moody\nmood: fine\n")
    return tmp_path


def state_of_jobs(folder):
    """{mood: (folder, state)} of every job that has begun."""
    found = {}
    for path in (folder / "outputs" / "moody-digits").glob("*/config.yaml"):
        found[yaml.safe_load(path.read_text())["model"]["mood"]] = (path.parent, runs.read_status(path.parent).get("state"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_killed_sweep_of_twelve_jobs_is_continued_by_the_same_command(moody, launcher):
    """Two jobs raise, one is killed, then the sweep; the jobs that outlive it are left to end."""
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["--config-dir", "conf", "-m", *TINY.split(), "model=moody", f"model.mood={','.join(MOODS)}"]
    words += [f"launcher={launcher}", *(["sweep.jobs=2"] if launcher == "joblib" else [])]
    killed = start(moody, "train", *words)
    while sum(state == "finished" for _, state in state_of_jobs(moody).values()) < 4:
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    done = [folder for folder, state in state_of_jobs(moody).values() if state == "finished"]
    kept = {folder: (folder / "metrics.json").stat().st_mtime_ns for folder in done}
    assert len(kept) < 9, "it was to be killed half-way"

    again = run(moody, "train", *words, code=1)
    killed.communicate()  # of the jobs that outlived it
    found = state_of_jobs(moody)
    assert {mood: state for mood, (_, state) in found.items()} == {
        mood: "failed" if mood.startswith("raise") else "finished" for mood in MOODS
    }
    for folder, written in kept.items():
        assert (folder / "metrics.json").stat().st_mtime_ns == written and f"done before: {folder}" in again.stdout
    for folder, state in found.values():
        assert not (folder / "previous").exists() or state == "failed", "nothing was trained twice"
        assert (folder / "error.txt").exists() == (state == "failed")
    begun = Counter(line.split()[0] for line in (moody / "starts").read_text().splitlines())
    assert begun["die"] == 2 and all(begun[mood] == 1 for mood in MOODS if mood != "die" and not mood.startswith("raise"))
    assert len(list((moody / "outputs" / "sweeps").iterdir())) == 1, "the same command is the same sweep"

    record = next((moody / "outputs" / "sweeps").iterdir())
    rows = [line.split("|") for line in (record / "table.md").read_text().splitlines()[2:]]
    assert len(rows) == 12 and sum("the third step is too much" in row[3] for row in rows) == 2


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """{seed and hash: numbers} of five runs, one after the other."""
    folder = tmp_path_factory.mktemp("one_by_one")
    for seed in range(5):
        assert call(folder, f"train {TINY} model=vae seed={seed}").code == 0
    return numbers_of(folder)


def numbers_of(folder):
    found = {}
    for path in (folder / "outputs" / "vae-digits").glob("*/metrics.json"):
        numbers = json.loads(path.read_text())
        found[path.parent.name] = {name: value for name, value in numbers.items() if name.startswith("test/")}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local"])
def test_five_seeds_by_a_launcher_are_the_five_runs_one_by_one(tmp_path, one_by_one, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher")
    run(tmp_path, "train", "-m", *TINY.split(), "model=vae", "sweep=seeds5", f"launcher={launcher}", "logger=wandb_offline")
    assert len(one_by_one) == 5 and numbers_of(tmp_path) == one_by_one
    folders = list((tmp_path / "outputs" / "vae-digits").iterdir())
    assert len({(folder / "wandb_id").read_text() for folder in folders}) == 5
    assert all(len(list((folder / "wandb").glob("offline-run-*"))) == 1 for folder in folders)


def test_stop_on_failure_begins_no_more_jobs(moody, jobs_in_this_process):
    words = f"train --config-dir conf -m {TINY} model=moody model.mood=raise1,a"
    answer = call(moody, f"{words} sweep.stop_on_failure=true")
    assert answer.code == 1
    assert {mood: state for mood, (_, state) in state_of_jobs(moody).items()} == {"raise1": "failed"}
    assert "| not started |" in answer.out


def test_a_command_is_not_stopped_by_another_on_the_same_sweep_and_stops_none(moody, jobs_in_this_process):
    """The other has been stopped before this one begins, and stays so; this one stops itself alone."""
    record = moody / "outputs" / "sweeps" / "shared"
    other = record / sweeps.WORKERS / "elsewhere-1"
    sweeps.stop(other, 130)
    words = f"train --config-dir conf -m {TINY} model=moody sweep.name=shared sweep.stop_on_failure=true"
    answer = call(moody, f"{words} model.mood=a,raise1,b")
    assert answer.code == 1 and sweeps.stop_code(other) == 130
    assert {mood: state for mood, (_, state) in state_of_jobs(moody).items()} == {"a": "finished", "raise1": "failed"}
    assert len(list(record.glob(f"{sweeps.WORKERS}/*/stop"))) == 2


def jobs_run(monkeypatch, code, begun=lambda process: None):
    """In place of training a job runs `code`, which knows its folder, and then has finished."""
    finish = "(folder / 'metrics.json').write_text('{\"test/elbo\": 1}')\n(folder / 'report.html').write_text('')\n"
    finish += "(folder / 'run.json').write_text('{\"state\": \"finished\"}')"
    script = f"import os, pathlib, signal, sys, time\nfolder = pathlib.Path(sys.argv[1])\n{code}\n{finish}"

    def start_job(words, **options):
        process = subprocess.Popen([words[0], "-c", script, words[words.index("vae_zoo.runs.train") + 1]], **options)
        begun(process)
        return process

    monkeypatch.setattr(cli_run, "subprocess", SimpleNamespace(Popen=start_job))


def test_job_that_is_terminated_ends_itself_only(tmp_path, monkeypatch):
    jobs_run(monkeypatch, "if 'seed0' in folder.name: os.kill(os.getpid(), signal.SIGTERM)")
    answer = call(tmp_path, f"train -m {TINY} model=vae seed=0,1")
    states = [line.split("|")[2].strip() for line in answer.out.splitlines() if line.startswith("| vae-digits")]
    assert answer.code == 1 and states == ["unfinished", "finished"], answer.out + answer.err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_a_job_starts_ends_the_sweep(tmp_path, monkeypatch, signum):
    """Before the job can handle it; Ctrl-C comes to the job too."""

    def stop(process):
        threading.Timer(0.5, os.kill, (os.getpid(), signum)).start()
        if signum == signal.SIGINT:
            threading.Timer(0.5, process.send_signal, (signum,)).start()

    jobs_run(monkeypatch, "time.sleep(60)", stop)
    answer = call(tmp_path, f"train -m {TINY} model=vae seed=0,1")
    assert answer.code == 128 + signum, answer.out + answer.err
    assert len(list((tmp_path / "outputs" / "vae-digits").glob("*/config.yaml"))) == 1
    assert "| not started |" in answer.out


def test_job_inherits_the_locks_of_its_folder_and_its_turn(tmp_path, monkeypatch):
    """No equal command comes between, and a sweep that is killed frees neither while its job goes on."""
    listing = """
held = []
for fd in range(3, 64):
    try:
        held.append(str(os.fstat(fd).st_ino))
    except OSError:
        pass
(folder / "held").write_text(" ".join(held))
"""
    folders = []

    def claim_too(process):
        folders.append(Path(process.args[-1]))
        with pytest.raises(runs.Busy), runs.locked(folders[0]):
            pass

    jobs_run(monkeypatch, listing, claim_too)
    answer = call(tmp_path, f"train -m {TINY} model=vae sweep.jobs=2 sweep.name=mine")
    assert answer.code == 0, answer.out + answer.err
    slot = next((tmp_path / "outputs" / "sweeps" / "mine" / ".slots").iterdir())
    held = (folders[0] / "held").read_text().split()
    assert {str(file.stat().st_ino) for file in (folders[0] / ".lock", slot)} <= set(held)
    with runs.locked(folders[0]):
        pass


def test_job_that_is_refused_has_failed_though_its_folder_holds_a_finished_run(tmp_path, monkeypatch):
    """The checkpoint's settings are none of the folder's hash."""
    jobs_run(monkeypatch, "")
    words = f"train -m {TINY} model=vae"
    assert call(tmp_path, words).code == 0
    done = next((tmp_path / "outputs" / "vae-digits").iterdir())
    before = contents(done)
    refused = call(tmp_path, f"{words} callbacks.checkpoint.every_n_steps=-1")
    sentence = "callbacks.checkpoint.every_n_steps=-1 is not allowed"
    assert refused.code == 1 and f"error: {sentence}" in refused.err
    row = next(line for line in refused.out.splitlines() if line.startswith(f"| vae-digits/{done.name}"))
    assert "| failed " in row and sentence in row
    assert contents(done) == before
    again = call(tmp_path, words)
    assert again.code == 0 and "| done before |" in again.out, again.out + again.err


def test_leaderboard_of_a_sweep_needs_no_more_than_its_folder(tmp_path, jobs_in_this_process):
    answer = call(tmp_path, f"train -m {TINY} model=vae seed=0,1 sweep.name=mine")
    assert answer.code == 0, answer.err
    (tmp_path / "outputs" / "other").mkdir()
    record = tmp_path / "outputs" / "sweeps" / "mine"
    jobs = sweeps.read_record(record)
    assert [runs.is_finished(job.folder) for job in jobs] == [True, True]
    assert yaml.safe_load((record / "sweep.yaml").read_text())["command"].startswith("python train.py -m data=digits")
    elbo = [json.loads((job.folder / "metrics.json").read_text())["test/elbo"] for job in jobs]
    table = (record / "table.md").read_text()
    assert all(f"{value:.4g}" in table for value in elbo) and table in answer.out
    answer = call(tmp_path, "evaluate runs=outputs/sweeps/mine")
    assert answer.code == 0, answer.err
    assert {"leaderboard.csv", "leaderboard.md", "leaderboard.html"} <= {p.name for p in record.iterdir()}
    assert f"{sum(elbo) / 2:.2f}"[:5] in (record / "leaderboard.md").read_text()


def test_runs_that_a_limit_stopped_are_done_said_to_be_stopped_and_averaged(tmp_path, jobs_in_this_process):
    words = f"train -m {TINY} model=vae seed=0,1 sweep.name=mine trainer.max_steps=8 trainer.val_check_interval=2"
    words += " trainer.patience=1 model.optimizer.lr=1e-30"
    first, again = call(tmp_path, words), call(tmp_path, words)
    for answer in (first, again):
        assert answer.code == 0, answer.err
        assert answer.out.count("| stopped: patience | stopped by trainer.patience=1 at step 4 of 8;") == 2
    assert again.out.count("done before (stopped: patience): ") == 2 and "step 4" not in again.out.partition("| job")[0]
    answer = call(tmp_path, "evaluate runs=outputs/sweeps/mine")
    assert answer.code == 0 and "Runs: 2 stopped: patience." in answer.out, answer.err
    assert "vae: 2 of 2 runs stopped early (patience)." in answer.out


def test_name_of_a_sweep_is_that_of_its_words():
    words = ["model=vae", "seed=0,1"]
    name = sweeps.sweep_name("seeds5", words)
    assert name.startswith("seeds5_")
    assert name == sweeps.sweep_name("seeds5", ["seed=0,1", "model=vae", "launcher=joblib", "logger=wandb", "sweep.jobs=2"])
    assert name != sweeps.sweep_name("seeds5", ["model=vae", "seed=0,1,2"])


def test_jobs_share_the_threads_and_each_has_its_own_gpu(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(sweeps, "num_cores", lambda: 8)
    monkeypatch.setattr(sweeps, "gpus", lambda: ["0", "1"])
    cpu = {"accelerator": "cpu", "devices": 1, "strategy": "auto"}
    assert sweeps.share(1, 4, cpu) == {"OMP_NUM_THREADS": "2"}
    assert sweeps.share(1, 2, {**cpu, "devices": 2, "strategy": "ddp"}) == {"OMP_NUM_THREADS": "2"}
    assert sweeps.share(20, 16, cpu) == {"OMP_NUM_THREADS": "1"}
    auto = {"accelerator": "auto", "devices": "auto", "strategy": "auto"}
    assert [sweeps.share(place, 4, auto)["CUDA_VISIBLE_DEVICES"] for place in range(4)] == ["0", "1", "0", "1"]
    assert "CUDA_VISIBLE_DEVICES" not in sweeps.share(0, 4, {**auto, "accelerator": "gpu", "devices": 2})
    assert [sweeps.share(0, jobs, auto).get("VAE_ZOO_GPU_SHARE") for jobs in (2, 3, 8)] == [None, "0.5000", "0.2500"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert sweeps.share(0, 2, cpu) == {"OMP_NUM_THREADS": "1"}


def test_jobs_of_slurm_share_no_machine():
    package = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
    assert jobs_here(f"{package}.SlurmLauncher", 16) == 1 and jobs_here(f"{package}.LocalLauncher", 16) == 16


@pytest.mark.parametrize(
    "visible, num, ranks", [("-1", 0, 1), ("", 0, 1), ("2", 1, 1), ("0,1,2,3", 4, 4), ("0,GPU-8f,-1,3", 2, 2)]
)
def test_ddp_on_all_gpus_has_as_many_ranks_as_there_are(monkeypatch, visible, num, ranks):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(sweeps, "num_cores", lambda: 16)
    every = {"accelerator": "gpu", "devices": -1, "strategy": "ddp"}
    assert len(sweeps.gpus()) == num and sweeps.num_ranks(every) == ranks
    assert sweeps.share(0, 2, every) == {"OMP_NUM_THREADS": str(8 // ranks)}
    assert sweeps.jobs_at_once(every) == (1 if num else 16)
    assert sweeps.jobs_at_once({**every, "devices": 1}) == (num or 16)
    assert sweeps.jobs_at_once({**every, "devices": 1}, jobs_per_gpu=8) == (8 * num or 16)
    assert sweeps.num_ranks({**every, "devices": [0, 2]}) == 2


def test_gpus_that_submitit_hides_and_threads_that_ray_sets_are_restored(monkeypatch):
    gpus, threads = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"
    monkeypatch.setattr(sweeps, "num_cores", lambda: 8)
    trainer = {"accelerator": "auto", "devices": "auto", "strategy": "auto"}
    monkeypatch.setenv(gpus, "4,6")
    monkeypatch.delenv(threads)
    given = sweeps.given()
    for hidden in ("", "0"):  # without and with gpus_per_node=1
        monkeypatch.setenv(gpus, hidden)
        sweeps.restore(given, "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher")
        assert [sweeps.share(place, 2, trainer)[gpus] for place in range(2)] == ["4", "6"]
    monkeypatch.setenv(threads, "1")
    sweeps.restore(given, "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher")
    assert sweeps.share(0, 2, trainer)[threads] == "4"
    monkeypatch.setenv(gpus, "3")
    sweeps.restore(given, "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher")
    assert os.environ[gpus] == "3", "SLURM's word is its own"


def test_only_so_many_jobs_have_a_turn_at_once(tmp_path):
    with (
        sweeps.acquire_slot(tmp_path, 2, {"accelerator": "cpu"}),
        sweeps.acquire_slot(tmp_path, 2, {"accelerator": "cpu"}) as (second, _),
    ):
        assert second["OMP_NUM_THREADS"] == "1"
        assert sweeps._free_slot(tmp_path / ".slots", 2) is None
    with sweeps.acquire_slot(tmp_path, 1, {"accelerator": "cpu"}, "LocalLauncher"):
        assert sweeps._free_slot(tmp_path / ".slots", 1) is None, "submitit starts all jobs at once, also on one GPU"


FOLDER = REPOSITORY / "conf" / "sweep"
SWEEPS = sorted(p.relative_to(FOLDER).with_suffix("").as_posix() for p in FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("choice", SWEEPS)
def test_sweep_preset_composes_and_sweeps_without_a_flag(choice):
    register_resolvers()
    with initialize_config_dir(config_dir=str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[f"sweep={choice}", "model=beta_vae"], return_hydra_config=True)
    assert cfg.hydra.mode.name == "MULTIRUN" and len(cfg.hydra.sweeper.params) > 0


def test_paths_are_those_of_the_command_where_jobs_change_their_folder(tmp_path, jobs_in_this_process):
    """And so are the locks and refusals of the sweep."""
    answer = call(
        tmp_path, f"train -m {TINY} data=image_folder data.path=nowhere model=vae hydra.job.chdir=true sweep.jobs=2"
    )
    assert answer.code == 1 and f"data.path={tmp_path / 'nowhere'} is not a folder" in answer.out + answer.err
    assert [p.parent.parent for p in tmp_path.rglob(".slots")] == [tmp_path / "outputs" / "sweeps"]
