"""What a person gets wrong, and the sentence they read: exit code 2, no traceback, nothing left behind."""

import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.errors import MissingConfigException
from PIL import Image

from tests.annotations import unchecked
from tests.cli.calls import TINY, call, contents
from tests.commands import run as run_process
from vae_zoo import UserError, load_model
from vae_zoo.cli.messages import explain

NO_RUN = "is not a run folder: it has no config.yaml; give a folder such as outputs/<name>/seed0_<hash>"

# What is typed, and what the sentence says, part by part: the value got, what is allowed, what to do. {name} is made by the
# method of that name below.
TABLE = r"""
# choices of the groups
$ train model=betavae
model=betavae | did you mean beta_vae
$ train model=mystery
model=mystery | annealed_vae, | or vae
$ train -m model=vae,mystery
model=mystery | annealed_vae, | or vae
$ train data=dsprite
data=dsprite | did you mean dsprites
$ train trainer=gpuu
trainer=gpuu | did you mean gpu | cpu, ddp, ddp_cpu, debug, default, fast, gpu
$ train logger=wanb
logger=wanb | did you mean wandb | csv, many, none, tensorboard, wandb
$ train experiment=beta_vae/dsprite
experiment=beta_vae/dsprite | not a choice of this group
$ train experiment=quick
experiment=quick | not a choice of this group
$ train model=network/conv
model=vae_zoo.nets.Conv | one that `python train.py --help` lists
$ train model/network=mpl
model/network=mpl | did you mean mlp | all: conv,
$ train model.network=mlp
model.network=mlp | model/network=mlp
$ train model=null
null | group=choice | model=
$ train model=vae,beta_vae
model=vae,beta_vae | -m

# keys
$ train sed=3
sed is not a key | did you mean seed
$ train modell=vae
modell is not a key | did you mean model
$ train model=beta_vae model.bta=1
model.bta | did you mean model.beta
$ train model=beta_vae +model.bta=1
model.bta | did you mean model.beta
$ train model=beta_vae ~model.bta
model.bta | did you mean model.beta
$ train trainer.maxsteps=3
trainer.maxsteps | did you mean trainer.max_steps
$ train data.batchsize=3
data.batchsize | did you mean data.batch_size
$ train model.network.chanels=[3]
model.network.chanels | did you mean model.network.channels
$ train model=vae model.likelihood.sigma=1
model.likelihood.sigma | vae_zoo.distributions.Bernoulli | has no settings
$ train model.optimizer.rate=1
model.optimizer.rate | lr, betas, | or fused
$ train model.optimizer.betas=[0,0.9]
model.optimizer.betas | +model.optimizer.betas=<value>
$ train logger.wandb.project=x
logger.wandb.project | logger=wandb
$ train callbacks.figures.every_n_step=3
callbacks.figures.every_n_step | did you mean callbacks.figures.every_n_
$ train model=beta_vae model.beta
'model.beta' | key=value, and lists in quotes
$ train --model beta_vae
--model | settings are written without dashes | model=beta_vae
$ train --config-path conf
--config-path | settings are written without dashes | model=beta_vae
$ evaluate rn=outputs
rn is not a key | did you mean run

# inside YAML files
$ train --config-dir {conf} model=typo
model.betta | did you mean model.beta
$ train --config-dir {conf} model=nested
model.network.chanels | did you mean model.network.channels
$ train --config-dir {conf} experiment=typo
model.latentdim | did you mean model.latent_dim
$ train --config-dir {conf} experiment=top
trainr | did you mean trainer
$ train --config-dir {conf} experiment=choice
model=vea | did you mean vae
$ train --config-dir {conf} experiment=a/chioce
experiment=a/chioce | did you mean a/choice
$ train --config-dir {conf} model=broken
{conf}/model/broken.yaml | YAML | line 2 | correct it
$ train --config-dir {conf} model=bare
model. | missing | give | defaults: [_vae]
$ train --config-dir {conf} model=own_typo
model.widht | own.Mine | did you mean model.width
$ train --config-dir {conf} model=own_short
model.width | missing | own.Mine | add it to the YAML file
$ train --config-dir {conf} model=list
model=[a, b] | an object with a _target_
$ train --config-dir {conf} model=empty
_target_ | one of the model group | `python train.py --help`
$ train --config-dir {conf} model=reference
model.latent_dim | data.latent_dim | set it or correct the name
$ train --config-dir {conf} model=base
model=_vea | did you mean _vae | _common, _discrete, _ladder, _vae
$ train --config-dir {conf} model=no_list
model/no_list.yaml | defaults: [_common] | - group: choice
$ train --config-dir {conf} experiment=no_package
experiment | # @package _global_
$ train --config-dir {conf} experiment=group
modle | did you mean model
$ train --config-dir {conf} experiment=no_override
model | more than once | - override /model: <choice>
$ train --config-dir {conf} experiment=no_default
model: vae | - override /model: vae | in the defaults list of the YAML file
$ train --config-dir {conf} experiment=twice
{conf}/experiment/twice.yaml | duplicate key seed | line 3 | correct it
$ train --config-dir confs model=typo
--config-dir | not a folder | give the folder that contains your model/

# values
$ train model=beta_vae model.beta=-1
model.beta=-1 | a number >= 0 | a schedule | {_target_: vae_zoo.schedules.Linear
$ train model=beta_vae model.beta=abc
model.beta=abc | a number >= 0 | a schedule | {_target_: vae_zoo.schedules.Linear
$ train model=vae model.latent_dim=0
model.latent_dim=0 | a whole number >= 1
$ train model=vae model.latent_dim=2.5
model.latent_dim=2.5 | a whole number >= 1
$ train data.batch_size=0
data.batch_size=0 | a whole number >= 1
$ train data.group_size=[8,1]
data.group_size=[8, 1] | a whole number >= 1 | a range of them | [1, 8]
$ train data.group_size=0
data.group_size=0 | a whole number >= 1 | a range of them | [1, 8]
$ train model=ml_vae model.evidence=sum
model.evidence=sum | product, product_with_prior, mean or mean_precision
$ train data.batch_size=true
data.batch_size=true | a whole number >= 1
$ train trainer.compile=maybe
trainer.compile=maybe | true or false
$ train trainer.max_time=5m
trainer.max_time=5m | a time as DD:HH:MM:SS, or null
$ train trainer.devices=0
trainer.devices=0 | how many devices (-1: all), a list of them
$ train seed=x
seed=x | a whole number >= 0 and < 2147483648
$ train trust=mine
trust=mine | a list of packages | [my_package]
$ train model=dip_vae model.variant=iii
model.variant=iii | i or ii
$ train model.network.channels=[32,0]
model.network.channels=[32, 0] | a list of whole
$ train model=beta_vae model.beta={_target_:vae_zoo.schedules.Linear,start:0,end:4,step:9}
model.beta.step | model.beta | did you mean model.beta.steps
$ train model=beta_vae model.beta={_target_:vae_zoo.schedules.Linear,start:0,end:4}
model.beta.steps | a whole number >= 1
$ train model=beta_vae model.beta={_target_:vae_zoo.schedules.Linear,start:0,end:-4,steps:9}
model.beta.end=-4 | a number >= 0
$ train model=beta_vae model.beta={_target_:vae_zoo.schedules.Constant,value:-4}
model.beta.value=-4 | a number >= 0
$ train model=gmvae model.temperature={_target_:vae_zoo.schedules.Cosine,start:1,end:0,steps:9}
model.temperature.end=0 | a number > 0
$ train model=beta_vae model.beta={start:0,end:4,steps:9}
model.beta={ | _target_ | a number >= 0 | a schedule | {_target_: vae_zoo.schedules.Linear
$ train model._target_=my_models.Mine
model._target_=my_models.Mine | cannot be imported | the full name of a
$ train model._target_=vae_zoo.models.vae.VEA
model._target_= | cannot be imported | did you mean vae_zoo.models. | VAE?
$ train --config-dir {conf} model=half_written
model._target_=unfinished.Mine | cannot be imported | SyntaxError:
$ evaluate run=x evaluation.level=fast
evaluation.level=fast | basic, quick or full
$ evaluate run=x metrics=full
metrics | evaluation.level=<value>
$ train callbacks.metrics.level=quick
callbacks.metrics.level | evaluation.level=<value>
$ train +callbacks.metrics.level=quick
callbacks.metrics.level | evaluation.level=<value>
$ train model=spair data=scenes model.wheels_steps=10
model.wheels_steps | model.presence_warmup_steps=<value>
$ train evaluation=full
evaluation=full | evaluation.level=<level>
$ train +evaluation.suites.mine._target_=my_suites.Mine
evaluation.suites.mine._target_=my_suites.Mine | cannot be imported
$ evaluate run=x +evaluation.suites.mine._target_=my_suites.Mine
evaluation.suites.mine._target_=my_suites.Mine | cannot be imported
$ train +evaluation.suites.mine._target_=vae_zoo.models.VAE
evaluation.suites.mine
$ evaluate run=x device=gpu
device=gpu | cpu, mps, cuda or cuda:

# combinations
$ train data=digits data.size=8
8 pixels | too small | 4 convolutions | model.network
$ train model=mfcvae model/network=mlp
network=MLP | ladder | model/network=fc_vlae
$ train model=vae model/network=fc_vlae
ladder network | model/network=conv or mlp
$ train model=mfcvae model/network=conv_vlae data=digits data.size=16
28 pixels or more | got 16 | larger images | model/network=fc_vlae
$ train model=mfcvae model.facet_dims=[5,5,5]
facet_dims=[5, 5, 5] | 3 facets | the network has 2 | the same number
$ train model=mfcvae model.schedule.stages=[10,20,30]
stages | each of the 2 facets | got 3
$ train model=mfcvae model.schedule.fade_steps=100
either fade_steps or fade_fraction | got 100 and 0.6
$ train model=spair data=digits model/network@model.object_network=fc_vlae
ladder network | model/network=conv or mlp
$ train model=spair data=digits model/network@model.object_network=conv
4 convolutions | 16 pixels | got 12
$ train model=spair data=digits model/likelihood=pixelwise_logistic
likelihood=PixelwiseLogistic | 2 parameters per pixel | choose another | model/
$ train model=spair data=digits model.strides=[2,2]
channels and strides | one entry per convolution | got 3 and 2
$ train model=spair data=digits model.count_prior.end=0
model.count_prior.end=0 | a number > 0
$ train model=split_spair data=digits model.background_dim=0
local_to=background | got background_dim=0 | background_dim >= 1
$ train model=spair data=scenes data.num_objects=[0,255]
data.num_objects=[0, 255] | [min, max] number of objects | 254 | [0, 5] | null
$ train model=spair data=scenes data.image_shape=[3,24,24]
data.image_shape must be [3, 48, 48] for data.size=48 | got [3, 24, 24] | remove it
$ train model=spair data=scenes data.image_shape=[1,48,48]
data.image_shape must be [3, 48, 48] for data.size=48 | got [1, 48, 48] | remove it
$ train trainer=ddp_cpu data.batch_size=63
data.batch_size must be a multiple of 2 | processes | got 63 | trainer.devices
$ train data=faces data.source=drawn
data.source=drawn | cartoon, folder, olivetti, lfw or celeba
$ train data=faces data.confound=1.5
data.confound=1.5 | a number >= 0 and <= 1
$ train data=celeba data.size=[218,178]
data.size=[218, 178] | a whole number >= 8
$ train data=celeba data.crop=200
data.crop=200 | a whole number >= 8 and <= 178, or null
$ train data=shapes3d data.factors.flor_hue=[0]
data.factors.flor_hue | did you mean data.factors.floor_hue
$ train data=shapes3d +data.factors.flor_hue=[0]
data.factors.flor_hue | did you mean data.factors.floor_hue
$ train data=shapes3d data.factors.floor_hue=[10]
data.factors.floor_hue=[10] | a list of different whole numbers from 0 to 9 | or null for all
$ train data=shapes3d data.factors.shape=[1,1]
data.factors.shape=[1, 1] | a list of different whole numbers from 0 to 3 | or null for all
$ train data=shapes3d data.factors.scale=2
data.factors.scale=2 | a list of different whole numbers from 0 to 7 | or null for all
$ train data=shapes3d data.factors.scale=[]
data.factors.scale=[] | a list of different whole numbers from 0 to 7 | or null for all
$ train data=shapes3d data.size=48
data.size=48 | 32 or 64
$ train data=shapes3d data.group_by=flor_hue
data.group_by=flor_hue | did you mean floor_hue
$ train data=faces data.group_by=id_beart
data.group_by=id_beart | did you mean id_beard
$ train data=digits data.group_by=lable
data.group_by=lable | did you mean label
$ train data=digits data.group_by=label data.group_size=128
data.group_size=128 | data.batch_size=64 | lower
$ train model=ml_vae data=digits data.group_size=[2,128]
data.group_size=[2, 128] | data.batch_size=64 | lower
$ train model=ml_vae data=digits trainer=ddp_cpu data.num_groups=9
data.num_groups must be a multiple of 2 | processes | got 9 | trainer.devices

# files of data
$ train data=image_folder
data.path | no value | data.path=<value>
$ train data=image_folder data.path=nowhere
data.path=/ | /nowhere is not a folder | give a folder of images
$ train data=arrays
data.path | no value | data.path=<value>
$ train data=huggingface
data.path | no value | data.path=<value>
$ train data=dsprites data.path=missing.npz
missing.npz | No such file | it must contain imgs | download it again | remove data.path
$ train data=dsprites data.path={damaged_npz}
damaged.npz | download it again | remove data.path
$ train data=mnist data.root=nowhere data.download=false
/nowhere/MNIST/raw | put them there | set data.
$ train data=mnist data.root={truncated_mnist} data.download=false
train-images | damaged | delete it
$ train data=shapes3d data.path=missing.h5
missing.h5 | No such file | it must contain images | download 3dshapes.h5 again | remove data.path
$ train data=svhn
SVHN | could not be downloaded | train_32x32.mat, test_32x32.mat | /data by hand | by hand
$ train data=svhn data.root=nowhere data.download=false data.extra=true
train_32x32.mat, extra_32x32.mat, test_32x32.mat not found in / | /nowhere; put | data.download=true
$ train data=celeba
CelebA | could not be downloaded | img_align_celeba/ | /data/celeba by hand | data=faces
$ train data=celeba data.root=nowhere data.download=false
img_align_celeba/ | .zip | not found in / | /nowhere/celeba by hand | data=faces
$ train data=celeba data.root={damaged_celeba}
identity_CelebA.txt | damaged | delete it and download it again
$ train data=faces data.source=olivetti data.download=false
olivetti_py3.pkz not found in | data.download=true | data.source=cartoon
$ train data=faces data.source=lfw
lfw | could not be downloaded | lfw_home/lfw_funneled, | /data by hand | data.source=cartoon
$ train data=faces data.source=celeba data.download=false
not found in / | /data/celeba; put
$ train data=faces data.source=folder
data.source=folder needs data.path | one subfolder of images per person | set it
$ train data=faces data.source=folder data.path={pictures}
data.path={pictures} | no subfolders | one subfolder of images per person

# what the data turn out to be
$ train TINY data.labelled=5000
data.labelled must be at most | labelled training images | got 5000 | data.labelled=null
$ train TINY data.subset=5000
data.subset must be at most | training images | got 5000
$ train TINY data.val_size=5000
data.val_size must be a number of images from 1 | got 5000
$ train TINY trainer.limit_val_batches=0.01
trainer.limit_val_batches=0.01 of | validation batches is less than one; give at least
$ train TINY data.group_by=label data.group_size=400 data.num_groups=2
data.group_size=400 | the largest

# places
$ train hydra.run.dir={file}/run
{file}/run | Not a directory | another folder with
$ train hydra.run.dir=
hydra.run.dir= is empty; give a folder, or remove it
$ train -m 'seed=range(3,3)'
seed=range(3,3) | gives no jobs | at least one value
$ train paths.outputs={file}/runs
{file}/runs/ | Not a directory | another folder with
$ train -m seed=0,1 paths.outputs={file}/runs
{file}/runs | Not a directory | another folder

# resume
$ train resume=nowhere
nowhere is not a run folder | config.yaml | outputs/<name>/seed0_<hash>
$ train resume={empty}
{empty} is not a run folder | config.yaml | outputs/<name>/seed0_<hash>
$ train resume={run_without_checkpoint}
checkpoints/last.ckpt | resume from | start the run again
$ train resume={run_with_damaged_config}
{run_with_damaged_config}/config.yaml | damaged | line | restore it
$ train resume={run_with_wrong_config}
/config.yaml | model.latentdim | did you mean
$ train resume={run_with_truncated_checkpoint} trainer.max_steps=9
/last.ckpt | damaged | restore it
$ train resume={run_of_another_model} trainer.max_steps=9
checkpoint of another model | model._target_
$ train resume={run} model.beta=3
model.beta cannot be changed | remove it | trainer.max_steps
$ train resume={run} seed=1
seed cannot be changed | remove it | trainer.max_steps
$ train resume={run} trainer.max_steps=2
trainer.max_steps must be at least 5 | got 2 | increase or remove it
$ train resume={run} data.keys.images=x
data.keys.images cannot be changed | remove it | paths of the data
$ evaluate run={run} inception=weights.pth
inception= has no effect with evaluation.level=quick | give evaluation.level=full
$ evaluate run={run} inception=weights.pth evaluation.level=full
inception=weights.pth is not a file | give the file of the Inception weights
$ train resume={run} data.root=x
data.root | whose data has no root | remove it
$ train -m resume={run}
resume= | remove -m
$ train resume={run_of_a_stranger}
stranger.Model | if you trust it | trust=[stranger]

# evaluate
$ evaluate -m run=a,b
evaluate.py does not support -m; give run=<run folder>, or runs=<folder of runs> to compare runs
$ evaluate
exactly one of run=<run folder> and runs=<folder of runs>
$ evaluate runs=nowhere
runs=nowhere | not a folder | runs=outputs
$ evaluate runs={empty}
runs={empty} | has no runs | config.yaml | give another folder
$ evaluate run=nowhere
nowhere is not a run folder | config.yaml | outputs/<name>/seed0_<hash>
$ evaluate run={run_without_checkpoint}
checkpoints/last.ckpt | train it first
$ evaluate run={run_with_truncated_checkpoint}
/last.ckpt | damaged | restore
$ evaluate run={run_of_a_stranger}
stranger.Model | if you trust it | trust=[stranger]
$ evaluate runs={empty} predict=pictures
predict= | run=<run folder> | runs=
$ evaluate predict=pictures
exactly one of run=<run folder> and runs=<folder of runs>
$ evaluate run={run} predict=nowhere
predict= | clusters | neither facets nor categorical blocks | give the run of another model
$ evaluate run={run} data.root=x
data.root | whose data has no root | remove it
$ evaluate run={run} out={file}/out
{file}/out cannot be a folder, since {file} is a file; give out=<another folder>
$ evaluate run={run} out={file}
{file} cannot be a folder, since {file} is a file; give out=<another folder>
$ evaluate run={run} columns=all
columns has no effect with run=; remove it
$ evaluate runs={empty} data.rooot=x
data.rooot has no effect with runs=; remove it
$ evaluate run={run} predict=nowhere evaluation.level=full
evaluation.level has no effect with predict=; remove it
$ export run={run} format=safetensors data.rooot=x
data.rooot has no effect with safetensors; remove it
"""
TYPED = dict(case.strip().split("\n") for case in re.sub("(?m)^#.*", "", TABLE).split("$ ")[1:])


class Makers:
    """What the sentences above are about, in the folder of the test."""

    def __init__(self, folder: Path, copy_of_run):
        self.folder, self._copy = folder, copy_of_run

    def file(self) -> Path:
        (self.folder / "file").write_text("not a folder")
        return self.folder / "file"

    def empty(self) -> Path:
        (self.folder / "empty").mkdir()
        return self.folder / "empty"

    def conf(self) -> Path:
        vae = "defaults: [_vae]\n_target_: vae_zoo.models.BetaVAE\nbeta: 4\n"
        files = {
            "model/typo": f"{vae}betta: 3\n",
            "model/nested": f"{vae}network:\n  chanels: [32, 32]\n",
            "model/broken": "beta: 4\n  gamma: 4\n",
            "model/bare": "_target_: vae_zoo.models.BetaVAE\nbeta: 4\n",
            "model/half_written": "defaults: [_vae]\n_target_: unfinished.Mine\n",
            "model/own_typo": "defaults: [_vae]\n_target_: own.Mine\nwidht: 3\n",
            "model/own_short": "defaults: [_vae]\n_target_: own.Mine\n",
            "model/list": "- a\n- b\n",
            "model/empty": "",
            "model/reference": f"{vae}latent_dim: ${{data.latent_dim}}\n",
            "model/base": "defaults: [_vea]\n",
            "model/no_list": "defaults: _vae\n",
            "experiment/no_package": "model:\n  latent_dim: 3\n",
            "experiment/group": "# @package _global_\ndefaults:\n  - override /modle: vae\n",
            "experiment/no_override": "# @package _global_\ndefaults:\n  - /model: vae\n",
            "experiment/no_default": "# @package _global_\nmodel: vae\n",
            "experiment/twice": "# @package _global_\nseed: 1\nseed: 2\n",
            "experiment/typo": "# @package _global_\nmodel:\n  latentdim: 3\n",
            "experiment/top": "# @package _global_\ntrainr:\n  max_steps: 3\n",
            "experiment/choice": "# @package _global_\ndefaults:\n  - override /model: vea\n",
            "experiment/a/choice": "# @package _global_\nseed: 3\n",
        }
        for name, text in files.items():
            path = self.folder / "conf" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self.folder / "unfinished.py").write_text("class Mine(\n")
        (self.folder / "own.py").write_text(
            "from vae_zoo.models.vae import VAE\n\n\nclass Mine(VAE):\n"
            "    def __init__(self, *args, width, **kwargs):\n        super().__init__(*args, **kwargs)\n"
        )
        return self.folder / "conf"

    def pictures(self) -> Path:
        folder = self.folder / "pictures"
        folder.mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
        return folder

    def damaged_celeba(self) -> Path:
        (self.folder / "celeba" / "img_align_celeba").mkdir(parents=True)
        for name in ("list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt"):
            (self.folder / "celeba" / name).write_text("000001.jpg 0\n" if "partition" in name else "<html>404</html>\n")
        return self.folder

    def damaged_npz(self) -> Path:
        path = self.folder / "damaged.npz"
        np.savez(path, imgs=np.zeros((4, 64, 64), np.uint8), latents_classes=np.zeros((4, 6), np.int64))
        path.write_bytes(path.read_bytes()[:-1000])
        return path

    def truncated_mnist(self) -> Path:
        raw = self.folder / "mnist" / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, 20, 28, 28) + bytes(10 * 28 * 28))
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 20) + bytes(20))
        return self.folder / "mnist"

    def run(self) -> Path:
        return self._copy()

    def run_without_checkpoint(self) -> Path:
        run = self._copy()
        (run / "checkpoints" / "last.ckpt").unlink()
        return run

    def run_with_damaged_config(self) -> Path:
        run = self._copy()
        (run / "config.yaml").write_text("model: {_target_: vae\n")
        return run

    def run_with_wrong_config(self) -> Path:
        return self._changed(lambda config: config["model"].update(latentdim=3))

    def run_of_another_model(self) -> Path:
        beta_vae = {"_target_": "vae_zoo.models.BetaVAE", "beta": 4.0}
        return self._changed(lambda config: config["model"].update(beta_vae))

    def run_with_truncated_checkpoint(self) -> Path:
        run = self._copy()
        os.truncate(run / "checkpoints" / "last.ckpt", 5000)
        return run

    def run_of_a_stranger(self) -> Path:
        """Whose model would run somebody else's code, were it imported."""
        (self.folder / "stranger.py").write_text("raise SystemExit('the stranger was here')")
        run = self._changed(lambda config: config["model"].update(_target_="stranger.Model"))
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        checkpoint["config"]["model"]["_target_"] = "stranger.Model"
        torch.save(checkpoint, run / "checkpoints" / "last.ckpt")
        return run

    def _changed(self, change) -> Path:
        run = self._copy()
        config = yaml.safe_load((run / "config.yaml").read_text())
        change(config)
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        return run


@pytest.mark.parametrize("typed", TYPED)
def test_one_sentence_exit_code_2_and_nothing_left(typed, tmp_path, copy_of_run):
    makers = Makers(tmp_path, copy_of_run)
    made = {name: getattr(makers, name)() for name in re.findall(r"{(\w+)}", typed)}
    line, parts = typed.replace("TINY", TINY), TYPED[typed]
    for name, path in made.items():
        line, parts = line.replace(f"{{{name}}}", str(path)), parts.replace(f"{{{name}}}", str(path))
    before = contents(tmp_path)
    with unchecked():  # as outside of tests, annotations are not checked
        answer = call(tmp_path, line)
    assert answer.code == 2 and answer.err.count("\n") == 1, answer
    assert answer.err.startswith("error: ") and all(part in answer.err for part in parts.split(" | ")), answer.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("train model=betavae", "model=betavae is not a choice of this group; did you mean beta_vae?"),
        pytest.param(  # after all imports
            f"train {TINY} data=image_folder data.path=nowhere",
            "data.path=/",
            marks=pytest.mark.slow,
        ),
        ("evaluate run=nowhere", f"nowhere {NO_RUN}"),
    ],
)
def test_in_a_process_of_its_own(line, sentence, tmp_path):
    done = run_process(tmp_path, *line.split(), code=2, VAE_ZOO_CACHE=str(tmp_path / "cache"))
    assert done.stderr.startswith(f"error: {sentence}") and done.stderr.count("\n") == 1 and not done.stdout
    assert not list(tmp_path.iterdir())


def test_full_error_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    answer = call(tmp_path, "train model=beta_vae model.beta=-1")
    assert answer.code == 2
    assert answer.err.startswith("Traceback") and answer.err.splitlines()[-1].startswith("error: model.beta=-1 is not")


def test_a_refused_run_leaves_the_earlier_ones_in_its_folder_as_they_were(tmp_path, copy_of_run):
    run = copy_of_run()
    (run / "previous").mkdir()
    (run / "previous" / "config.yaml").write_text("the one before")
    before = contents(tmp_path)
    assert call(tmp_path, f"train {TINY} model=vae data.labelled=5000 hydra.run.dir=run").code == 2
    assert contents(tmp_path) == before


def test_a_refused_run_removes_no_folder_that_was_there(tmp_path):
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    (tmp_path / "figures").mkdir()
    assert call(tmp_path, "train model=beta_vae model.beta=-1 hydra.run.dir=mine/empty").code == 2
    assert call(tmp_path, "train model=beta_vae model.beta=-1 hydra.run.dir=mine/new/folder").code == 2
    assert call(tmp_path, f"train {TINY} data.labelled=5000 hydra.run.dir=.").code == 2
    assert contents(tmp_path).keys() == {"mine", "mine/empty", "figures"}


# ---- load_model -----------------------------------------------------------------------------------------------------


def text_file(folder: Path) -> Path:
    (folder / "text.ckpt").write_text("hello")
    return folder / "text.ckpt"


def other_checkpoint(folder: Path) -> Path:
    torch.save({"weights": torch.zeros(3)}, folder / "other.ckpt")
    return folder / "other.ckpt"


def altered_checkpoint(folder: Path) -> Path:
    checkpoint = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"].popitem()
    torch.save(checkpoint, folder / "altered.ckpt")
    return folder / "altered.ckpt"


def malicious_checkpoint(folder: Path) -> Path:
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "exploded"),))

    torch.save({"config": Bomb(), "state_dict": {}, "global_step": 0}, folder / "bomb.ckpt")
    return folder / "bomb.ckpt"


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda folder: folder / "nowhere", "nowhere does not exist; give a run folder or one of its checkpoints"),
        (lambda folder: folder, "is not a run folder: it has no config.yaml"),
        (text_file, "text.ckpt is damaged or not a vae_zoo checkpoint"),
        (other_checkpoint, "other.ckpt is not a vae_zoo checkpoint; give a run folder or one of its checkpoints"),
        (altered_checkpoint, "altered.ckpt does not match its own config"),
        (malicious_checkpoint, "bomb.ckpt is damaged or not a vae_zoo checkpoint"),
    ],
)
def test_load_model_says_what_is_wrong(make, sentence, tmp_path, copy_of_run):
    copy_of_run()
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_model(make(tmp_path))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_named(tmp_path, copy_of_run):
    with pytest.raises(UserError, match="device=cuda, but torch finds no such device on this machine; use device=cpu"):
        load_model(copy_of_run(), device="cuda")
    answer = call(tmp_path, "train trainer=gpu")
    assert answer.code == 2 and "trainer.accelerator=gpu, but torch finds no such device" in answer.err


@pytest.mark.parametrize("launcher, plugin", [("ray", "hydra-ray-launcher"), ("joblib", "hydra-joblib-launcher")])
def test_a_launcher_whose_plugin_is_not_installed(launcher, plugin):
    """Hydra's own sentence is of a group in which this choice is missing."""
    error = MissingConfigException(f"Could not find 'hydra/launcher/{launcher}'", f"hydra/launcher/{launcher}")
    assert re.fullmatch(f"launcher={launcher} needs a plugin .*{plugin} with pip.*", explain(error, ""))


def test_a_file_that_cannot_be_read_or_written_is_named_with_the_remedy_of_the_command():
    error = PermissionError(13, "Permission denied", "run/config.yaml")
    sentence = "run/config.yaml cannot be read or written (Permission denied); check the permissions"
    assert explain(error, "check the permissions") == sentence
