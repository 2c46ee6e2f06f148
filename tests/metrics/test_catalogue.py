"""What a name means is the same for the leaderboard, the report, the search and the loggers."""

import subprocess
import sys

import pytest

from tests.commands import environment
from vae_zoo.metrics.catalogue import caption, cards, direction, entry, metric_order, unused


@pytest.mark.parametrize(
    "metric, sign",
    {
        "test/elbo": 1,
        "test/nll_iw100": -1,
        "test/rec": -1,
        "test/kl_content": 0,
        "test/facet0/kl": 0,
        "test/mig": 1,
        "test/dci_completeness": 1,
        "test/factor_vae": 1,
        "test/cluster_accuracy_majority": 1,
        "test/facet1/shape/cluster_accuracy_majority": 1,
        "test_unseen/count_accuracy": 1,
        "test_unseen/count_mae": -1,
        "test/ap50": 1,
        "test/ece": -1,
        "test/digits_fid": -1,
        "test/verification_auc_k1": 1,
        "test/cluster_purity": 1,
        "test/cluster_purity_chance": 0,
        "test/clusters_used": 0,
        "test/active_units_z": 0,
        "test/seconds": 0,
        "test/judge_accuracy": 0,
        "test/fid_judge": -1,
        "test/udr": 1,
        "test/seed_ari_facet0": 1,
        "test/facet0/facet1/mutual_information": 0,
        "test/facet0/clusters_effective": 0,
        "test/cluster_facet": 0,
        "test/probe/style": 0,
        "test/novelty": 0,
        "test/mig/gaussian": 1,
        "test/separation": 1,
        "test/worth": 1,
        "test/worth/rate": 1,
        "test/worth_rec/z": 1,
        "test/accuracy_swap_local": 1,
        "test/accuracy_swap_global": 0,
        "test/accuracy_resample_global": 0,
        "test/sampled_codes/accuracy_resample_global_official": 0,
        "test/identification_k5": 1,
        "test/held_out_error_k5": -1,
        "test/recall50": 1,
        "test/dci_disentanglement/gaussian": 1,
        "test/cluster_accuracy_hungarian_pixels": 0,
        "test/facet1/shape/nmi_pixels": 0,
    }.items(),
)
def test_direction(metric, sign):
    assert direction(metric) == sign


def test_columns_come_in_a_known_order():
    names = "test_unseen/map test/facet10/nmi test/zeta test/facet2/nmi test/mig test/kl_z10 test/kl_z2 test/elbo".split()
    assert sorted(names, key=metric_order) == (
        "test/elbo test/kl_z2 test/kl_z10 test/mig test/zeta test/facet2/nmi test/facet10/nmi test_unseen/map".split()
    )


def test_cards_come_in_a_known_order_and_from_their_own_prefix_alone():
    shown = "test/elbo test/nll_iw100 test/nll_iw5 test/rec test/accuracy test/map test/mig train/images_per_second".split()
    other = "val/elbo train/elbo test/images_per_second test/facet0/accuracy test/sap test/rec_x test_unseen/map".split()
    assert cards([*reversed(shown), *other]) == shown
    assert entry("test/nll_iw5").unit == "nats" and not entry("test/mig").unit


def test_what_a_number_is_beside_stands_beside_it_and_is_no_headline():
    names = "test/ami test/ami_pixels test/mig test/mig/gaussian test/modularity test/modularity/gaussian".split()
    by_column = sorted(reversed(names), key=metric_order)
    assert [by_column.index(name) - by_column.index(name.removesuffix("_pixels")) for name in names if "pixels" in name] == [
        1
    ]
    assert [by_column.index(f"{name}/gaussian") - by_column.index(name) for name in ("test/mig", "test/modularity")] == [
        1,
        1,
    ]
    assert cards(["test/mig", "test/mig/gaussian", "test/cluster_accuracy_hungarian_pixels"]) == ["test/mig"]
    assert entry("test/mig").compared and not entry("test/mig/gaussian").compared


def test_the_headline_of_two_blocks_is_the_pair_of_separation_and_worth():
    assert cards(["test/elbo", "test/worth", "test/accuracy", "test/separation"])[:2] == ["test/separation", "test/worth"]
    assert cards(["test/elbo", "test/worth"]) == ["test/elbo", "test/worth"], "a single block has nothing to separate"
    names = ["test/elbo", "test/worth_rec/z", "test/worth/z", "test/worth", "test/separation"]
    assert sorted(names, key=metric_order) == [*names[:0:-1], names[0]]


def test_a_block_is_unused_below_a_share_of_the_reconstruction_error():
    numbers = {
        "test/worth/z": 0.0099,
        "test/worth/u": 0.0101,
        "test/worth_rec/u": 0.0,
        "test/worth": 0.0,
        "val/worth/c": 0.0,
    }
    assert unused(numbers) == ["z"]


def test_captions_name_the_block():
    assert caption("swap_z") == "block z from the image of the row, all other blocks from the image of the column"
    assert caption("samples") == "samples from the prior, decoded"
    assert caption("samples_facet0") == "samples from each cluster of facet0, decoded"
    assert caption("something_else") == "something else"


def test_looking_up_imports_nothing_heavy():
    """Hydra imports the search's plugin, and so the catalogue, at every start."""
    program = "import sys, vae_zoo.metrics.catalogue; print({'numpy', 'torch', 'sklearn'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
