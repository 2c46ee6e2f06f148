"""The tables say what the run folders hold: right numbers, honest bold print, and no run that did not finish."""

import base64
import csv
import hashlib
import io
import json
import math
import re
import shutil
import statistics
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.calls import TINY, call, contents
from tests.commands import environment
from tests.reports.test_report import EVIL, Page
from vae_zoo.figures.encode import to_png
from vae_zoo.reports import leaderboard
from vae_zoo.reports.leaderboard import write_leaderboard
from vae_zoo.reports.settings import find_runs, group_runs, interval
from vae_zoo.runs import folder as runs
from vae_zoo.utils.errors import UserError

CLASSES = {"beta_vae": "BetaVAE", "factor_vae": "FactorVAE", "vae": "VAE"}
ELBO = {"beta_vae": (-41.5, -43.0, -42.1), "factor_vae": (-40.0, -40.75, -41.0)}


def config(model="beta_vae", seed=0, *, data=(), trainer=(), likelihood="Bernoulli", **settings):
    """As a real one, without what nothing here looks at; data and trainer: what differs from these."""
    return {
        "seed": seed,
        "model": {
            "_target_": f"vae_zoo.models.{model}.{CLASSES[model]}",
            "network": {"_target_": "vae_zoo.nets.Conv", "channels": [32, 64], "hidden": [256]},
            "likelihood": {"_target_": f"vae_zoo.distributions.{likelihood}"},
            "image_shape": [1, 32, 32],
            **settings,
        },
        "data": {
            "_target_": "vae_zoo.data.Digits",
            "seed": seed,
            "batch_size": 64,
            "size": 32,
            "image_shape": [1, 32, 32],
            **dict(data),
        },
        "trainer": {"_target_": "vae_zoo.training.Trainer", "seed": seed, "max_steps": 500, **dict(trainer)},
    }


def add(root, cfg, metrics=None, state="finished", name="beta_vae-digits", **status):
    """A run folder, as `runs.run_name` would call it."""
    folder = root / name / f"seed{cfg['seed']}_{runs.config_hash(cfg)}"
    (folder / "figures").mkdir(parents=True)
    runs.write_config(folder, cfg)
    runs.write_status(folder, state=state, started="2026-01-01T00:00:00", **status)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def sweep(tmp_path):
    """2 models x 3 seeds; beta_vae lacks one MIG, and the figures of a run have its seed as colour."""
    root = tmp_path / "outputs"
    for model, elbos in ELBO.items():
        for seed, elbo in enumerate(elbos):
            metrics = {"test/elbo": elbo, "test/kl_z": 10.0 + seed, "train/seconds": 60.0 + seed}
            metrics |= {f"test/block/z/{factor}": 0.25 * seed for factor in ("shape", "scale")}
            if (model, seed) != ("beta_vae", 2):
                metrics["test/mig"] = 0.1 * (seed + 1)
            folder = add(root, config(model, seed), metrics, name=f"{model}-digits")
            for step in (9, 10):
                picture = np.full((4, 6, 3), 100 * seed + step, np.uint8)
                (folder / "figures" / f"samples_{step}.png").write_bytes(to_png(picture))
    return root


def tables_of(root):
    return group_runs(find_runs(root))


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_sweep_agrees_with_a_computation_by_hand(sweep):
    write_leaderboard(sweep)
    beta, factor = read_csv(sweep / "leaderboard.csv")
    assert [beta["model"], beta["data"], beta["settings"], beta["n"], beta["seeds"]] == [
        "beta_vae",
        "digits",
        "",
        "3",
        "0, 1, 2",
    ]
    assert float(beta["test/elbo_mean"]) == pytest.approx(-126.6 / 3)
    assert float(beta["test/elbo_std"]) == pytest.approx(math.sqrt((0.7**2 + 0.8**2 + 0.1**2) / 2))
    assert float(factor["test/elbo_mean"]) == pytest.approx(statistics.mean(ELBO["factor_vae"]))
    assert float(factor["test/elbo_std"]) == pytest.approx(statistics.stdev(ELBO["factor_vae"]))
    assert float(beta["test/mig_mean"]) == pytest.approx(0.15) and beta["test/mig_n"] == "2"
    assert float(beta["test/block/z/shape_std"]) == pytest.approx(0.25)
    assert not any(name.startswith("train/") for name in beta)
    each = read_csv(sweep / "runs.csv")
    assert [float(run["test/elbo"]) for run in each] == [*ELBO["beta_vae"], *ELBO["factor_vae"]]
    assert each[2]["test/mig"] == "" and each[5]["train/seconds"] == "62.0"
    assert (sweep / each[0]["run"] / "config.yaml").is_file()


def test_markdown_shows_mean_and_sample_deviation_and_the_best_in_bold(sweep):
    text = write_leaderboard(sweep)
    assert (sweep / "leaderboard.md").read_text() == text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["model", "seeds", "elbo ↑", "kl_z", "mig ↑"]
    assert rows[2] == ["beta_vae", "3", "-42.20 ± 0.75", "11.0 ± 1.0", "0.150 ± 0.071 (2)"]
    assert rows[3] == ["factor_vae", "3", "**-40.58** ± 0.52", "11.0 ± 1.0", "**0.200** ± 0.100"]
    assert ["beta_vae", "z", "0.25 ± 0.25", "0.25 ± 0.25"] in rows


def test_a_single_seed_has_no_deviation(tmp_path):
    add(tmp_path, config(), {"test/elbo": -5.0})
    text = write_leaderboard(tmp_path)
    assert "±" not in text and re.search(r"\| beta_vae \| +1 \| +-5 \|", text)
    assert read_csv(tmp_path / "leaderboard.csv")[0]["test/elbo_std"] == ""


def test_evaluation_overrides_and_extends_the_final_numbers(sweep):
    folder = next((sweep / "beta_vae-digits").glob("seed0_*"))
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text('{"test/elbo": -1.0, "test/sap": 0.5, "test/bad": NaN}')
    run = next(run for run in find_runs(sweep) if run.folder == folder)
    assert (run.metrics["test/elbo"], run.metrics["test/sap"], run.metrics["test/kl_z"]) == (-1.0, 0.5, 10.0)
    assert "test/bad" not in run.metrics


def test_single_facets_are_in_the_csv_and_not_in_the_tables_of_everything(tmp_path):
    for seed in range(2):
        add(tmp_path, config(seed=seed), {"test/facet0/shape/nmi": 0.5 + seed, "test/cluster_accuracy_majority": 0.25})
    text = write_leaderboard(tmp_path)
    assert "facet0" not in text and "cluster_accuracy_majority" in text
    (line,) = read_csv(tmp_path / "leaderboard.csv")
    assert float(line["test/facet0/shape/nmi_mean"]) == 1.0 and line["test/facet0/shape/nmi_n"] == "2"


@pytest.mark.parametrize("metric, best", [("test/mig", "b"), ("test/nll_iw5", "a"), ("test/clusters_used", None)])
def test_bold_goes_to_the_better_side(tmp_path, metric, best):
    for beta, value in ((1, 0.25), (2, 0.5), (3, 0.375)):
        add(tmp_path, config(beta=beta), {metric: value})
    (table,), _ = tables_of(tmp_path)
    bold = [cell.best for cell in leaderboard.column(table, metric)]
    assert bold == {"a": [True, False, False], "b": [False, True, False], None: [False] * 3}[best]


def test_equals_are_all_bold_or_none(tmp_path):
    for beta, value in ((1, 0.50001), (2, 0.50002), (3, 0.1)):
        add(tmp_path, config(beta=beta), {"test/mig": value, "test/sap": 0.2})
    (table,), _ = tables_of(tmp_path)
    assert [cell.best for cell in leaderboard.column(table, "test/mig")] == [True, True, False]  # 0.5000 and 0.5000
    assert not any(cell.best for cell in leaderboard.column(table, "test/sap"))


def test_a_row_with_an_unused_block_wins_nothing_but_bounds_and_says_so(tmp_path):
    """The useless style wins the separation, as it does in truth; only the pair with worth tells."""
    honest = {"test/separation": 0.6, "test/worth": 0.9, "test/worth/z": 0.9, "test/worth/u": 2.5, "test/elbo": -42.0}
    cheat = {"test/separation": 0.9, "test/worth": 0.0, "test/worth/z": 0.001, "test/worth/u": 2.9, "test/elbo": -40.0}
    for beta, numbers in ((1, honest), (1000, cheat)):
        for seed in range(5):
            shifted = {name: value + 0.001 * seed * (name == "test/separation") for name, value in numbers.items()}
            add(tmp_path, config(seed=seed, beta=beta), shifted | {"test/accuracy": 0.5 + beta / 10_000})
    (table,), _ = tables_of(tmp_path)
    groups = {group.settings: group for group in table.groups}
    assert groups["beta=1000"].unused == ["z"] and groups["beta=1"].unused == []
    assert table.metrics[:2] == ["test/separation", "test/worth"]
    winners = {metric: [cell.best for cell in leaderboard.column(table, metric)] for metric in table.metrics}
    names = [group.settings for group in table.groups]
    for metric, best in winners.items():
        won = [name for name, is_best in zip(names, best) if is_best]
        assert won == (["beta=1000"] if metric == "test/elbo" else ["beta=1"]), metric
    write_leaderboard(tmp_path)
    text, page = (tmp_path / "leaderboard.md").read_text(), Page((tmp_path / "leaderboard.html").read_text())
    assert "| beta_vae (z unused) | beta=1000 |" in text and "have blocks that the decoder ignores" in page.text
    assert page.text.count("z unused") >= 2
    told = {pair.metric: leaderboard.verdict(pair) for pair in table.pairs}
    assert told["test/separation"] == "beta_vae beta=1000 is ahead, but does not use z"
    assert told["test/elbo"] == "beta_vae beta=1000 is better" and told["test/worth"] == "beta_vae beta=1 is better"


def test_likelihoods_are_not_compared(tmp_path):
    for likelihood, shift in (("Bernoulli", 0.0), ("Gaussian", 900.0)):
        for seed in range(3):
            add(
                tmp_path,
                config("vae", seed, likelihood=likelihood),
                {"test/elbo": shift - seed, "test/mig": 0.1 + shift / 1e4},
            )
    (table,), _ = tables_of(tmp_path)
    assert not any(cell.best for cell in leaderboard.column(table, "test/elbo"))
    assert [cell.best for cell in leaderboard.column(table, "test/mig")] == [False, True]
    assert {pair.metric for pair in table.pairs} == {"test/mig"}
    assert any("Bernoulli, Gaussian" in note and "elbo" in note for note in leaderboard.notes(table))


# ---- groups ---------------------------------------------------------------------------------------------------------


def settings(tmp_path, *configs):
    for cfg in configs:
        add(tmp_path, cfg, {"test/elbo": 1.0})
    tables, _ = tables_of(tmp_path)
    return [(table.data, group.settings) for table in tables for group in table.groups]


def test_rows_tell_what_differs(tmp_path):
    grid = [config(beta=beta, seed=seed) for beta in (16.0, 4.0, 4) for seed in (0, 1)]
    grid = [cfg for cfg in grid if isinstance(cfg["model"]["beta"], float) or cfg["seed"] == 1]
    cyclic = {"_target_": "vae_zoo.schedules.Cyclic", "start": 0.0, "end": 4.0}
    assert settings(tmp_path, *grid[:4], config(beta=cyclic), config(beta=4.0, trainer={"max_steps": 900})) == [
        ("digits", "beta=4, trainer.max_steps=500"),
        ("digits", "beta=4, trainer.max_steps=900"),
        ("digits", "beta=16, trainer.max_steps=500"),
        ("digits", "beta=Cyclic, trainer.max_steps=500"),
    ]


def test_what_follows_another_setting_is_left_out(tmp_path):
    mlp = config()
    mlp["model"]["network"] = {"_target_": "vae_zoo.nets.MLP", "hidden": [16]}
    slow = config(trainer={"max_steps": 900})
    base = config()
    for cfg in (base, mlp, slow):
        cfg["model"]["capacity"] = {"steps": cfg["trainer"]["max_steps"]}
    assert [text for _, text in settings(tmp_path, base, mlp, slow)] == [
        "network=Conv, trainer.max_steps=500",
        "network=Conv, trainer.max_steps=900",
        "network=MLP, trainer.max_steps=500",
    ]


def test_nulls_and_spelling_of_numbers_make_no_group(tmp_path):
    first, second = config(seed=0, beta=4), config(seed=1, beta=4.0, data={"subset": None, "cache": "/elsewhere"})
    assert settings(tmp_path, first, second) == [("digits", "")]


def test_other_test_images_make_another_table(tmp_path):
    small = config(data={"size": 28, "image_shape": [1, 28, 28]})
    small["model"]["image_shape"] = [1, 28, 28]
    assert settings(tmp_path, config(), small, config(data={"batch_size": 128})) == [
        ("digits data.size=28", ""),
        ("digits data.size=32", "data.batch_size=64"),
        ("digits data.size=32", "data.batch_size=128"),
    ]


def test_names_are_those_that_were_chosen(tmp_path):
    add(tmp_path, config(), {"test/mig": 0.1}, name="my_beta-digits")
    add(tmp_path, config(beta=3), {"test/mig": 0.1}, name="beta_vae-my_digits")
    add(
        tmp_path,
        config(beta=4),
        {"test/mig": 0.1},
        name="paper-digits",
        command="python train.py experiment=paper/digits",
    )
    shutil.copytree(next((tmp_path / "my_beta-digits").iterdir()), tmp_path / "beta-digits" / "mine")
    names = {run.folder.relative_to(tmp_path).parts[0]: (run.model, run.data) for run in find_runs(tmp_path)}
    assert names == {
        "my_beta-digits": ("my_beta", "digits"),
        "beta_vae-my_digits": ("beta_vae", "my_digits"),
        "paper-digits": ("beta_vae", "digits"),
        "beta-digits": ("beta_vae", "digits"),
    }


def test_a_repeated_run_counts_once_and_the_newest_counts(sweep):
    folder = next((sweep / "beta_vae-digits").glob("seed0_*"))
    shutil.copytree(folder, sweep / "again")
    runs.write_status(sweep / "again", started="2026-02-01T00:00:00")
    (sweep / "again" / "metrics.json").write_text('{"test/elbo": -50.0}')
    (table,), left = tables_of(sweep)
    assert list(table.groups[0].values("test/elbo")) == [-50.0, *ELBO["beta_vae"][1:]]
    assert [(run.folder, run.state) for run in left] == [(folder, "repeated")]


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_runs_are_found_at_any_depth_but_not_inside_runs(sweep):
    six = find_runs(sweep)
    inside = six[0].folder
    for place in (inside / "previous", inside / "evaluation", sweep / ".trash"):
        shutil.copytree(six[1].folder, place)
    shutil.copytree(six[0].folder, sweep / "a" / "b" / "c")
    (sweep / "conf").mkdir()
    (sweep / "conf" / "config.yaml").write_text("not: a run")
    (sweep / "loop").symlink_to(sweep)
    (sweep / "linked").symlink_to(six[0].folder)  # the same run once more
    assert len(six) == 6 and len(find_runs(sweep)) == 7


def test_no_number_is_a_negative_zero(sweep):
    """A worth of -1e-6, which is rounding."""
    for k, path in enumerate(sorted(sweep.rglob("metrics.json"))):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"test/worth": 0.1 * k if "beta" in str(path) else -1e-6}))
    text = write_leaderboard(sweep)
    assert "worth" in text and not re.search(r"-0\.?0*\b(?!\.?\d)", text)


def test_what_did_not_finish_is_listed_and_not_averaged(sweep):
    other = {"test/elbo": -1e6}
    add(sweep, config(seed=3), other, "failed", error="kl_z is NaN at step 12")
    cut_short = add(sweep, config(seed=4), other, "interrupted")
    (cut_short / "checkpoints").mkdir()
    (cut_short / "checkpoints" / "last.ckpt").touch()
    add(sweep, config(seed=5), other, "running")
    alive = add(sweep, config(seed=6), other, "running")
    add(sweep, config(seed=7), None, "finished")
    (add(sweep, config(seed=8), None) / "run.json").unlink()
    refused = sweep / "beta_vae-digits" / "seed9_01234567"
    refused.mkdir()
    (refused / "error.txt").write_text("model.beta=-1 is not allowed; give a number >= 0\n")
    with runs.locked(alive):
        text = write_leaderboard(sweep)
    (table,), left = tables_of(sweep)
    assert {run.folder.name.split("_")[0]: run.state for run in left} == {
        "seed3": "failed",
        "seed4": "interrupted",
        "seed5": "died",
        "seed6": "died",  # now that its lock is free
        "seed7": "unfinished",
        "seed8": "unfinished",
        "seed9": "failed",
    }
    assert "| running" in text and "kl_z is NaN at step 12" in text and "model.beta=-1 is not allowed" in text
    assert re.search(r"\| beta_vae +\| 3 of 9 \| +-42.20 ± 0.75", text)
    assert text.count(f"python train.py resume={cut_short}") == 1 and text.count("it had no checkpoint yet") == 1
    states = [run["state"] for run in read_csv(sweep / "runs.csv")]
    assert states.count("finished") == 6 and len(states) == 13


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{", b"[" * 100_000, b'{"test/elbo": "high"}'])
@pytest.mark.parametrize("name", ["config.yaml", "run.json", "metrics.json", "evaluation/metrics.json"])
def test_damaged_files_harm_no_other_run(sweep, name, content):
    folder = next((sweep / "factor_vae-digits").glob("seed1_*"))
    (folder / "evaluation").mkdir()
    (folder / name).write_bytes(content)
    (folder / "figures" / "samples_10.png").write_bytes(b"\x89PNG torn")
    text = write_leaderboard(sweep)
    beta, factor = read_csv(sweep / "leaderboard.csv")
    assert float(beta["test/elbo_mean"]) == pytest.approx(-126.6 / 3)
    if name == "evaluation/metrics.json":  # its own numbers stay
        assert float(factor["test/elbo_mean"]) == pytest.approx(statistics.mean(ELBO["factor_vae"]))
        assert ("is damaged and is ignored" in (sweep / "runs.csv").read_text()) == (b"high" not in content)
    else:
        state = "unfinished" if b"high" in content and name != "config.yaml" else "damaged"
        assert factor["n"] == "2" and re.search(
            rf"\| factor_vae-digits/seed1_\w+ +\| {state} +\| .*{name * (state == 'damaged')}", text
        )


def test_odd_values_in_a_config_do_no_harm(sweep):
    folder = next((sweep / "factor_vae-digits").glob("seed1_*"))
    text = (folder / "config.yaml").read_text()
    odd = "model:\n  1: 2\n  when: 2024-01-01\n  nan: .nan\n  likelihood: [3]\n  _target_: 7\n"
    (folder / "config.yaml").write_text(re.sub(r"(?s)model:\n.*?(?=data:)", odd, text).replace("seed: 1", "seed: [1, x]", 1))
    write_leaderboard(sweep)
    assert len(read_csv(sweep / "leaderboard.csv")) == 3


def test_runs_are_only_read(sweep, tmp_path):
    before = contents(sweep)
    write_leaderboard(sweep, tmp_path / "out" / "new")
    first = contents(tmp_path / "out")
    write_leaderboard(sweep, tmp_path / "out" / "new")
    assert contents(sweep) == before and contents(tmp_path / "out") == first  # the same twice, and nothing half written
    assert sorted(first) == ["new"] + [
        f"new/{n}" for n in ("leaderboard.csv", "leaderboard.html", "leaderboard.md", "runs.csv")
    ]


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_pairs_compare_seed_by_seed(tmp_path):
    noise = np.random.default_rng(0)
    for seed in range(6):
        shared = 10 * noise.normal()  # a lucky seed is lucky for both
        add(tmp_path, config(seed=seed, beta=1), {"test/elbo": shared, "test/rec": shared, "test/sap": 1.0})
        gap = 1 + 0.1 * noise.normal()
        add(tmp_path, config(seed=seed, beta=2), {"test/elbo": shared - gap, "test/rec": shared - gap, "test/sap": 2.0})
    (table,), _ = tables_of(tmp_path)
    elbo, rec = table.pairs  # sap is no headline
    assert elbo.seeds == 6 and elbo.low < 1 < elbo.high and elbo.high - elbo.low < 0.4
    assert elbo.difference == pytest.approx(table.groups[0].mean("test/elbo") - table.groups[1].mean("test/elbo"))
    assert leaderboard.verdict(elbo) == "beta_vae beta=1 is better"
    assert leaderboard.verdict(rec) == "beta_vae beta=2 is better"  # the same numbers, as a cost


def test_pairs_need_three_common_seeds(tmp_path):
    for seed in range(4):
        add(tmp_path, config(seed=seed, beta=1), {"test/mig": 0.1 * seed})
        add(tmp_path, config(seed=seed + 1, beta=2), {"test/mig": 0.1 * seed})
        add(tmp_path, config(seed=seed + 2, beta=3), {"test/mig": 0.1 * seed})
    (table,), _ = tables_of(tmp_path)
    assert [(p.a.settings, p.b.settings, p.seeds) for p in table.pairs] == [
        ("beta=1", "beta=2", 3),
        ("beta=2", "beta=3", 3),
    ]
    assert leaderboard.verdict(table.pairs[0]) == "beta_vae beta=1 is ahead (too few seeds)"
    assert "1/4 for 3 seeds" in leaderboard.caution(table)


def test_of_many_rows_the_best_is_compared_with_each(tmp_path):
    for beta in range(12):
        for seed in range(3):
            add(
                tmp_path,
                config(seed=seed, beta=beta),
                {"test/rec": abs(beta - 5) + 0.1 * seed * beta, "test/novelty": 1.0},
            )
    (table,), _ = tables_of(tmp_path)
    assert {pair.a.settings for pair in table.pairs} == {"beta=5"}
    assert len({pair.b.settings for pair in table.pairs}) == len(table.pairs) == 11
    assert "only the one with the best mean" in leaderboard.caution(table)


def test_interval_holds_the_true_difference_as_often_as_it_says():
    generator = np.random.default_rng(0)
    intervals = [interval(generator.normal(0.5, 1.0, size=8)) for _ in range(200)]
    assert 0.9 <= np.mean([low <= 0.5 <= high for low, high in intervals]) <= 0.99


def test_interval_is_deterministic_and_bounded_by_the_sample():
    values = np.array([0.3, 0.1, 0.25])
    assert interval(values) == interval(values.copy()) == pytest.approx((0.1, 0.3))
    assert interval(np.full(4, 0.5)) == (0.5, 0.5)


# ---- outputs --------------------------------------------------------------------------------------------------------


class Policy(Page):
    """Also the scripts and their policy."""

    def __init__(self, html):
        super().__init__(html)
        self.policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
        self.script = re.search(r"(?s)<script>(.*?)</script>", html)[1]


def test_page_holds_one_script_which_its_policy_names(sweep):
    write_leaderboard(sweep)
    page = Policy((sweep / "leaderboard.html").read_text())
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.policy and page.policy.startswith("default-src 'none'")
    assert page.tags.count("script") == 1 and not page.handlers
    assert "aria-sort" in page.script
    assert not {"link", "iframe", "object", "form"} & set(page.tags)


def test_page_shows_numbers_and_the_newest_figures_of_the_lowest_seeds(sweep):
    write_leaderboard(sweep)
    html = (sweep / "leaderboard.html").read_text()
    page = Page(html)
    for text in ("-42.20 ± 0.75", "-40.58 ± 0.52", "0.150 ± 0.071 (2)", "6 finished", "Which factor a block holds"):
        assert text in page.text, text
    assert '<b class="best">-40.58</b>' in html and '<b class="best">-42.20</b>' not in html
    assert [image.getpixel((0, 0))[0] for image in page.pictures()] == [10, 10]  # step 10 of seed 0, of both


def test_reports_are_linked_from_where_the_page_lies(sweep, tmp_path):
    (find_runs(sweep)[0].folder / "report.html").write_text("a report")
    out = tmp_path / "elsewhere" / "deep"
    write_leaderboard(sweep, out)
    (link,) = re.findall(r'<a href="([^"]*)"', (out / "leaderboard.html").read_text())
    assert (out / link).resolve().read_text() == "a report"


def test_figures_beyond_the_limit_are_counted(sweep, monkeypatch):
    monkeypatch.setattr(leaderboard, "PICTURES", 200)
    write_leaderboard(sweep)
    page = Page((sweep / "leaderboard.html").read_text())
    assert len(page.urls) == 1 and "1 more figures did not fit" in page.text


def test_no_string_breaks_out(tmp_path):
    name = EVIL.replace("/", "")
    root = tmp_path / name
    for seed in range(3):
        for beta in (EVIL, f"{EVIL}|`*x*`"):
            cfg = config(seed=seed, beta=beta)
            cfg["model"]["_target_"] = EVIL
            key = f"test/{EVIL}"
            folder = add(
                root, cfg, {key: 1.0, f"test/block/{EVIL}/{EVIL}": 0.5, "test/mig": seed * len(beta)}, name=f"{name}-x"
            )
            (folder / "figures" / f"{name}_7.png").write_bytes(to_png(np.zeros((4, 4, 3), np.uint8)))
            (folder / "report.html").write_text("")
    add(root, config(seed=9), state="failed", error=f"\x1b[2J{EVIL}\n| a | b |", name=f"{name}-x")
    add(root, config(seed=10), state=EVIL, name=f"{name}-x")
    text = write_leaderboard(root)
    html = (root / "leaderboard.html").read_text()
    page = Policy(html)
    assert page.tags.count("script") == 1 and not page.handlers and "evil" not in page.script
    pictures = [url for url in page.urls if url.startswith("data:")]
    assert len(pictures) == 2 and len(page.urls) == 8
    assert all(re.match(r"(data:image/|[\w.%-]+/)", url) for url in page.urls)  # pictures, and reports at relative places
    assert page.text.count("<script src=") >= 15  # shown as text, everywhere
    assert "<script" not in text and "<img" not in text and "\x1b" not in text
    for lines in re.findall(r"(?m)(?:^\|.*\n)+", text):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}) == 1, lines
    assert len(read_csv(root / "runs.csv")) == 8


def test_csv_is_no_formula(tmp_path):
    add(tmp_path, config(beta="=1+1"), {"test/elbo": -1.5}, name="x")
    add(tmp_path, config(beta=2), state="failed", error='=HYPERLINK("http://evil.example")\nmore', name="x")
    write_leaderboard(tmp_path)
    rows = list(csv.reader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[2][rows[0].index("note")].startswith("'=HYPERLINK")
    assert rows[1][rows[0].index("test/elbo")] == "-1.5"  # numbers stay numbers


# ---- command --------------------------------------------------------------------------------------------------------


def test_command_prints_the_table_and_says_where_it_is(sweep):
    answer = call(sweep.parent, f"evaluate runs={sweep.name}")
    assert answer.code == 0, answer.err
    assert "**-40.58** ± 0.52" in answer.out and "written to outputs" in answer.out
    assert call(sweep.parent, f"evaluate runs={sweep.name} out=tables").code == 0
    assert (sweep.parent / "tables" / "leaderboard.html").is_file()


def test_long_lists_of_pairs_are_not_printed(sweep):
    for beta in range(2, 8):
        for seed in range(3):
            add(sweep, config(seed=seed, beta=beta), {"test/elbo": -50.0 - 10 * beta - 0.1 * seed * beta})
    text = write_leaderboard(sweep)
    assert "28 differences over the same seeds are in leaderboard.md" in text and "95 % interval" not in text
    assert (sweep / "leaderboard.md").read_text().count("is ahead (too few seeds)") == 28


def test_long_lists_of_runs_that_are_not_averaged_are_not_printed(sweep):
    for seed in range(100, 113):
        add(sweep, config(seed=seed), {}, state="failed")
    text = write_leaderboard(sweep)
    assert "runs, which are listed in leaderboard.md and leaderboard.html." in text and "seed112" not in text
    assert (sweep / "leaderboard.md").read_text().count("| failed |") >= 13


def test_folders_without_runs_are_refused(sweep, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no runs"):
        write_leaderboard(tmp_path / "empty")
    with pytest.raises(UserError, match="is not a folder"):
        write_leaderboard(tmp_path / "nowhere")
    run = find_runs(sweep)[0].folder
    with pytest.raises(UserError, match="is a single run; use run="):
        write_leaderboard(run)
    answer = call(tmp_path, "evaluate runs=empty")
    assert answer.code == 2 and answer.err.startswith("error: runs=empty has no runs")
    assert not list((tmp_path / "empty").iterdir())


def test_no_torch_is_imported(sweep):
    program = (
        "import sys; from vae_zoo.reports.leaderboard import write_leaderboard; write_leaderboard(sys.argv[1]);"
        "print([name for name in ('torch', 'lightning', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(sweep)], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_columns_sort_in_a_browser(sweep, tmp_path):
    """The page's own policy lets its script run; a click puts the best first, a second one last, blanks always last."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium")
    add(sweep, config("vae"), {"test/elbo": -60.0}, name="vae-digits")
    write_leaderboard(sweep)
    click = 'for (const n of [1, 2]) { document.querySelectorAll("thead button")[4].click(); document.body.append(\
[...document.querySelectorAll(".main tbody th b")].map((b) => b.textContent).join(">")); }'
    digest = base64.b64encode(hashlib.sha256(click.encode()).digest()).decode()
    html = (sweep / "leaderboard.html").read_text()
    html = html.replace("script-src ", f"script-src 'sha256-{digest}' ").replace(
        "</body>", f"<script>{click}</script></body>"
    )
    (tmp_path / "clicked.html").write_text(html)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    command = [
        browser,
        *options,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"file://{tmp_path}/clicked.html",
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "factor_vae&gt;beta_vae&gt;vae" in dom and "beta_vae&gt;factor_vae&gt;vae" in dom
    assert dom.index("factor_vae&gt;beta_vae&gt;vae") < dom.index("beta_vae&gt;factor_vae&gt;vae")


@pytest.mark.slow
def test_one_multirun_and_one_evaluate_command(tmp_path):
    """The README's leaderboard: 2 models x 3 seeds on digits, against means and deviations of their metrics.json."""
    assert call(tmp_path, f"train -m model=vae,beta_vae seed=0,1,2 {TINY}").code == 0
    assert call(tmp_path, "evaluate runs=outputs").code == 0
    rows = {row["model"]: row for row in read_csv(tmp_path / "outputs" / "leaderboard.csv")}
    assert [*rows] == ["beta_vae", "vae"]
    for model, row in rows.items():
        files = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / f"{model}-digits").glob("*/metrics.json")]
        assert len(files) == 3 == int(row["n"])
        for metric in ("test/elbo", "test/rec", "test/kl_z"):
            values = [numbers[metric] for numbers in files]
            assert float(row[f"{metric}_mean"]) == pytest.approx(statistics.mean(values))
            assert float(row[f"{metric}_std"]) == pytest.approx(statistics.stdev(values))


def test_a_terminal_shows_the_headline_columns_that_fit_into_120(sweep):
    options = {"evaluation": {"level": "quick"}}
    for path in sweep.rglob("metrics.json"):
        more = {f"test/nll_iw{10**k}": 40.0 + k for k in range(9)} | {"test/irs": 0.5}
        more |= {f"test/worth/block{k}": 1.0 for k in range(9)} | {"test/ami": 0.5}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    text = write_leaderboard(sweep, options=options | {"columns": "headline"})
    everything = write_leaderboard(sweep, options=options | {"columns": "all"})
    assert everything == write_leaderboard(sweep)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert max(map(len, rows)) <= 120 < max(len(line) for line in everything.splitlines() if line.startswith("|"))
    assert "more columns in leaderboard.html, or with columns=all" in text and "irs" in everything
    assert "elbo" in text and "irs" not in text
    assert "| ami" in text and "worth/block8" not in text, "numbers of the whole model come before those of single blocks"


def test_results_are_exported_with_what_made_them(sweep, tmp_path):
    write_leaderboard(sweep, options={"evaluation": {"level": "quick"}, "export": tmp_path / "results"})
    files = sorted((tmp_path / "results").rglob("*.json"))
    assert len(files) == sum(len(table.groups) for table in group_runs(find_runs(sweep))[0])
    entry = json.loads(files[0].read_text())
    assert {"model", "data", "seeds", "command", "commit", "hardware", "versions", "numbers"} <= entry.keys()
    for number in entry["numbers"].values():
        values = [value for value in number["values"] if value is not None]
        assert number["mean"] == pytest.approx(np.mean(values)) and len(number["values"]) == len(entry["seeds"])


def test_data_of_one_name_and_other_contents_are_not_averaged(tmp_path):
    for seed, digest in enumerate(("1a2b", "1a2b", "ffff")):
        cfg = config(seed=seed)
        cfg["data"] = cfg["data"] | {"path": f"/place{seed}/images.npz"}
        add(tmp_path, cfg, {"test/elbo": -1.0}, digests={"path": digest})
    tables, left = tables_of(tmp_path)
    assert sorted(len(group.runs) for table in tables for group in table.groups) == [1, 2] and not left
    assert {table.data for table in tables} == {"digits data.path=images.npz (1a2b)", "digits data.path=images.npz (ffff)"}


def test_values_of_results_are_those_of_the_seeds_beside_them(tmp_path):
    for seed, number in enumerate((0.0, None, 0.2)):
        numbers = {"test/elbo": -1.0} | ({} if number is None else {"test/accuracy": number})
        add(tmp_path, config(seed=seed), numbers, command=f"python train.py experiment=mine/../../a{seed * 0} seed={seed}")
    write_leaderboard(tmp_path, options={"evaluation": {"level": "quick"}, "export": tmp_path / "results" / "here"})
    (file,) = (tmp_path).glob("results/**/*.json")
    assert file.parent.name == "here", "a name from a run folder leads nowhere else"
    entry = json.loads(file.read_text())
    assert entry["seeds"] == [0, 1, 2] and entry["numbers"]["test/accuracy"]["values"] == [0.0, None, 0.2]


def test_results_of_a_sweep_are_named_after_the_experiments_of_its_jobs(tmp_path):
    for experiment, beta in (("mine-narrow", 1), ("mine-wide", 2)):
        for seed in range(2):
            add(
                tmp_path,
                config(seed=seed, beta=beta),
                {"test/elbo": -1.0},
                name=experiment,
                command="python train.py sweep=mine",
            )
    write_leaderboard(tmp_path, options={"evaluation": {"level": "quick"}, "export": tmp_path / "results"})
    assert sorted(path.stem for path in (tmp_path / "results").iterdir()) == ["mine-narrow", "mine-wide"]


def test_results_of_a_sweep_over_experiments_are_named_after_each(tmp_path):
    """One command names several, and a part of them was repeated by a command with one."""
    listed = "python train.py sweep=split_clusters experiment=mine/narrow,gmvae/street_digits_own -m"
    preset = "python train.py sweep=paper/parity"
    for folder, beta, commands in (
        ("mine-narrow", 1, [listed, "python train.py experiment=mine/narrow seed=1"]),
        ("gmvae-street_digits_own", 2, [listed, listed]),
        ("parity-ml_vae", 3, [preset, preset]),
    ):
        for seed, command in enumerate(commands):
            add(tmp_path, config(seed=seed, beta=beta), {"test/elbo": -1.0}, name=folder, command=command)
    write_leaderboard(tmp_path, options={"evaluation": {"level": "quick"}, "export": tmp_path / "results"})
    files = {path.relative_to(tmp_path / "results").as_posix() for path in (tmp_path / "results").rglob("*.json")}
    assert files == {"mine/narrow.json", "gmvae/street_digits_own.json", "parity/ml_vae.json"}
