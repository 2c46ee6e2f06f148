"""The panels of a capability show what the model gives for the same codes."""

import numpy as np
import torch

from tests.explorer.test_state import images_of, run_of
from vae_zoo.contract import EditsObjects
from vae_zoo.evaluation.suites.grouped import Evidence, whole_groups
from vae_zoo.explorer.capabilities import edited, in_cluster, local_and_global, looks, of_classes, of_group
from vae_zoo.explorer.state import follower


def test_the_content_of_a_group_is_pooled_and_a_new_image_is_not_among_its_evidence():
    run = run_of("ml_vae")
    evidence = Evidence(run.model, run.data, whole_groups(run.data, "test", 0, 60))
    (_, images, captions), (_, held_out, texts) = of_group(evidence, 1, 3)
    assert len(images) == len(captions) == 6 and len(held_out) == len(texts) == 4
    rows = evidence.of(3)[evidence.first[1]]
    assert (evidence.group[rows] == 1).all()
    np.testing.assert_array_equal(images[:3], evidence.images(rows).numpy())
    content = evidence.content
    precision = content.logvar[rows].neg().exp()
    mean = (precision * content.mu[rows]).sum(0) / precision.sum(0)
    again = evidence.decode(mean.expand(3, -1), evidence.styles.mu[rows])
    np.testing.assert_allclose(images[3:], again, atol=1e-5)
    new, other = evidence.of(2)[evidence.first[1]].tolist()
    from_one = evidence.decode(content.mu[[other]], evidence.styles.mu[[new]])
    np.testing.assert_allclose(held_out[1], from_one[0], atol=1e-5)
    spread = [float(text.rpartition("std ")[2]) for text in texts[1:]]
    assert spread == sorted(spread, reverse=True) and spread[0] > spread[-1]


def test_a_cluster_gives_its_facet_and_the_image_all_other_codes():
    run, images = run_of("mfcvae"), images_of("mfcvae")
    codes = images.codes(run, "test:0")
    cold, mixed = in_cluster(run, codes, "facet1", 2, temperature=0.0, count=3)
    assert cold.shape == mixed.shape == (3, 1, 16, 16)
    mean = run.model.priors["facet1"].mu[2].detach()
    expected = run.decode(codes | {"facet1": mean[None]})
    np.testing.assert_allclose(mixed, np.repeat(expected, 3, axis=0), atol=1e-6)
    warm = in_cluster(run, codes, "facet1", 2, temperature=1.0, count=3)[1]
    assert not np.allclose(warm[0], warm[1])
    np.testing.assert_array_equal(warm, in_cluster(run, codes, "facet1", 2, temperature=1.0, count=3)[1])


def test_classes_of_an_image_include_its_own_reconstruction():
    run, images = run_of("parted_vae"), images_of("parted_vae")
    codes = images.codes(run, "test:0")
    moved, samples = of_classes(run, codes, "c", samples=2)
    assert moved.shape == (10, 1, 16, 16) and samples.shape == (10, 1, 32, 16)
    own = int(codes["c"].argmax())
    np.testing.assert_allclose(moved[own], run.decode(codes)[0], atol=1e-5)
    assert not np.allclose(moved[own], moved[own - 1], atol=1e-5)


def test_the_local_panel_shows_what_the_local_code_alone_decodes_to():
    run, images = run_of("split_vae"), images_of("split_vae")
    (_, shown, captions), (_, with_local, _), _ = local_and_global(images, run, "test:0", count=2)
    assert captions[2] == "what z_local alone explains"
    codes = images.codes(run, "test:0")
    np.testing.assert_allclose(shown[2], run.model.decode_local(codes["z_local"])[0].detach(), atol=1e-6)
    donor = run.data.single(torch.from_numpy(run.index[:1]))["image"]
    mixed = run.decode(codes | {"z_local": run.encode(donor)["z_local"]})
    np.testing.assert_allclose(with_local[0], np.concatenate([donor[0], mixed[0]], axis=1), atol=1e-6)


def test_edits_of_objects_are_made_in_their_order():
    run, images = run_of("spair"), images_of("spair")
    assert isinstance(run.model, EditsObjects)
    codes = images.codes(run, "test:0")
    before = run.model.render(codes)
    present = (before.presence[0] > 0.5).nonzero()[:, 0].tolist()
    one, two = present[:2]
    gone = run.model.render(edited(run, codes, [("remove", one, 0, 0)]))
    assert gone.presence[0, one] == 0 and gone.presence.sum() == before.presence.sum() - 1
    moved = run.model.render(edited(run, codes, [("remove", two, 0, 0), ("move", one, *share_of(run, two))]))
    assert moved.presence[0, two] == 1 and moved.presence[0, one] == 0
    centre = torch.tensor(share_of(run, two)) * 24
    torch.testing.assert_close(moved.box[0, two, :2], centre, atol=0.05, rtol=0)
    torch.testing.assert_close(moved.box[0, two, 2:], before.box[0, one, 2:])
    copied = run.model.render(edited(run, codes, [("remove", two, 0, 0), ("copy", one, *share_of(run, two))]))
    assert copied.presence[0, [one, two]].tolist() == [1, 1]
    torch.testing.assert_close(copied.sprite[0, two], before.sprite[0, one])


def share_of(run, cell: int) -> tuple[float, float]:
    """The middle of a cell, a little aside, as shares of the sides."""
    x, y = ((run.model.centres[cell] + 1) / 24).tolist()
    return x, y


def test_a_changed_object_keeps_its_place_and_takes_a_look_of_the_test_set():
    run, images = run_of("spair"), images_of("spair")
    codes = images.codes(run, "test:0")
    lenders, places = looks(run)
    before = run.model.render(codes)
    changed = run.model.render(edited(run, codes, [("change", 0, 0, 0)]))
    torch.testing.assert_close(changed.box, before.box)
    torch.testing.assert_close(changed.sprite[0, 0], run.model.render(lenders[0]).sprite[0, places[0].item()])
    again = run.model.render(edited(run, codes, [("change", 0, 0, 0), ("change", 0, 0, 0)]))
    torch.testing.assert_close(again.sprite[0, 0], run.model.render(lenders[1]).sprite[0, places[1].item()])


def test_the_dimension_that_shows_a_factor_is_the_one_that_moves_with_it():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(500, 4))
    kind, size, angle = rng.integers(3, size=500), rng.normal(size=500), rng.uniform(0, 2 * np.pi, 500)
    codes[:, 1] += 2 * (kind == 1)
    codes[:, 2] -= 2 * size
    codes[:, 3] = 0.1 * np.cos(angle)  # a circular factor, in a dimension of small variance
    assert [follower(codes, factor) for factor in (kind, size, angle)] == [1, 2, 3]


def test_a_film_of_a_categorical_block_goes_through_its_values():
    run, images = run_of("parted_vae"), images_of("parted_vae")
    codes = images.codes(run, "test:0")
    title, frames = run.film(codes, "c", run.data.label[run.index].numpy())
    assert title == "c = 0 to 9" and len(frames) == 10
    np.testing.assert_allclose(frames, of_classes(run, codes, "c", samples=1)[0])
