"""Words of a command line that Hydra reads as the text that was meant."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tests.cli.calls import TINY, call
from vae_zoo.utils.text import override, without_paths

TEXTS = [
    "/x/lr=0.1",
    "/a b/(c)",
    "a,b",
    "/ü/é",
    'a "b"',
    "back\\slash",
    "end\\",
    'q\\"x',
    "it's",
    "[x]",
    "null",
    "12",
    "~/x",
    "/a${b}",
    "\\${b}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_word_gives_its_value(text):
    (word,) = shlex.split(override("data.path", text))
    (parsed,) = OverridesParser.create().parse_overrides([word])
    value = parsed.value()
    assert OmegaConf.create({"path": getattr(value, "text", value)}).path == text


@pytest.mark.parametrize("text", ["/x/lr=0.1", "/x/(1)", "/x/ü", "/x/(1),2", "/x/a,b"])
def test_message_shows_the_word_that_works(tmp_path, text):
    answer = call(tmp_path, f"train {TINY} data=image_folder {shlex.quote(f'data.path={text}')}".replace("data=digits ", ""))
    word = override("data.path", text)
    assert answer.code == 2 and answer.err.endswith(f": {word}\n"), answer.err
    answer = call(tmp_path, f"train {TINY} data=image_folder {word}".replace("data=digits ", ""))
    assert answer.code == 2 and f"data.path={text} is not a folder" in answer.err, "it is read"


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("~model.optimizer.betas", "so ~model.optimizer.betas has nothing to remove; leave it out"),
        ("~model.latent_dimm", "has nothing to remove; did you mean model.latent_dim?"),
        ("~seed=3", "seed is 0, not 3, so ~seed=3 removes nothing; write ~seed"),
        ("~logger=wandb", "logger=wandb is not chosen, so ~logger=wandb removes nothing"),
    ],
)
def test_a_key_that_cannot_be_removed_is_told_so(tmp_path, word, sentence):
    answer = call(tmp_path, f"train {TINY} model=vae {word}")
    assert answer.code == 2 and sentence in answer.err and "add it" not in answer.err, answer.err


def test_a_command_that_others_read_names_no_place_of_its_author():
    command = (
        "python train.py data.root=/home/me/data 'data.path=~/my images' data.path=../x model=vae 'data.kinds={a: b}' seed=0"
    )
    told = "python train.py data.root=<path> data.path=<path> data.path=<path> model=vae 'data.kinds={a: b}' seed=0"
    assert without_paths(command) == told
