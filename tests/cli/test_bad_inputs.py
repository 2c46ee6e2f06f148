"""What a person gets wrong, and the sentence they read: exit code 2, no traceback, nothing left behind."""

import fnmatch
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

from tests.cli.calls import TINY, call, contents
from tests.commands import run as run_process
from vae_zoo import UserError, load_model
from vae_zoo.cli.messages import explain

NO_RUN = "is not a run: it has no config.yaml; name a folder such as outputs/<name>/seed0_<hash>"

# What is typed, and the sentence, in which * stands for anything. {name} is made by the method of that name below.
TABLE = r"""
# choices of the groups
$ train model=betavae
model=betavae is not known; did you mean beta_vae? (all: *)
$ train model=mystery
model=mystery is not known; choose annealed_vae, * or vae
$ train -m model=vae,mystery
model=mystery is not known; choose annealed_vae, * or vae
$ train data=dsprite
data=dsprite is not known; did you mean dsprites? (all: *)
$ train trainer=gpuu
trainer=gpuu is not known; did you mean gpu? (all: cpu, ddp, ddp_cpu, debug, default, gpu)
$ train logger=wanb
logger=wanb is not known; did you mean wandb? (all: csv, many, none, tensorboard, wandb, *
$ train experiment=beta_vae/dsprite
experiment=beta_vae/dsprite is not known*
$ train experiment=quick
experiment=quick is not known; *
$ train model=network/conv
model=vae_zoo.nets.Conv is none of that group; choose one that `python train.py --help` lists
$ train model/network=mpl
model/network=mpl is not known; did you mean mlp? (all: conv, *)
$ train model.network=mlp
model.network=mlp is not allowed; it is a group of its own, so write model/network=mlp
$ train model=null
a group of configs is chosen by a name, not by null; write group=choice, such as model=*
$ train model=vae,beta_vae
model=vae,beta_vae gives several values; add -m to train one run for each, or *

# keys
$ train sed=3
sed is not a key of the config; did you mean seed?
$ train modell=vae
modell is not a key of the config; did you mean model?
$ train model=beta_vae model.bta=1
model.bta is not a key of the config; did you mean model.beta?
$ train model=beta_vae +model.bta=1
model.bta is not a key of model; did you mean model.beta?
$ train model=beta_vae ~model.bta
model.bta is not a key of the config; did you mean model.beta?
$ train trainer.maxsteps=3
trainer.maxsteps is not a key of the config; did you mean trainer.max_steps?
$ train data.batchsize=3
data.batchsize is not a key of the config; did you mean data.batch_size?
$ train model.network.chanels=[3]
model.network.chanels is not a key *; did you mean model.network.channels?
$ train model.likelihood.sigma=1
model.likelihood.sigma is not a key * (vae_zoo.distributions.Bernoulli) takes no *
$ train model.optimizer.rate=1
model.optimizer.rate is not a key of the config; choose lr, betas, * or fused
$ train model.optimizer.betas=[0,0.9]
model.optimizer.betas *, so add it with +model.optimizer.betas=<value>
$ train logger.wandb.project=x
logger.wandb.project is not a key of the config; choose logger=wandb first
$ train callbacks.figures.every_n_step=3
callbacks.figures.every_n_step *; did you mean callbacks.figures.every_n_*?
$ train model=beta_vae model.beta
'model.beta' cannot be understood; write key=value, and lists in quotes, such as *
$ train --model beta_vae
--model is not an option; settings are written without dashes, such as model=beta_vae, *
$ train --config-path conf
--config-path is not an option; settings are written without dashes, such as model=beta_vae, *
$ evaluate rn=outputs
rn is not a key of the config; did you mean run?

# inside YAML files
$ train --config-dir {conf} model=typo
model.betta is not a key of model; did you mean model.beta?
$ train --config-dir {conf} model=nested
model.network.chanels is not a key *; did you mean model.network.channels?
$ train --config-dir {conf} experiment=typo
model.latentdim is not a key of model; did you mean model.latent_dim?
$ train --config-dir {conf} experiment=top
trainr is not a key of the config; did you mean trainer?
$ train --config-dir {conf} experiment=choice
model=vea is not known; did you mean vae? (all: *)
$ train --config-dir {conf} experiment=a/chioce
experiment=a/chioce is not known; did you mean a/choice? (all: *
$ train --config-dir {conf} model=broken
{conf}/model/broken.yaml cannot be read as YAML (* in line 2); correct it
$ train --config-dir {conf} model=bare
model.* is missing; give *, or begin your YAML file with `defaults: [_vae]`*
$ train --config-dir {conf} model=own_typo
model.widht is not an argument of own.Mine; did you mean model.width?
$ train --config-dir {conf} model=own_short
model.width is missing, which own.Mine needs; add it to the YAML file
$ train --config-dir {conf} model=list
model=[a, b] is not allowed; give an object with a _target_
$ train --config-dir {conf} model=empty
model has no _target_; choose one of the model group that `python train.py --help` lists
$ train --config-dir {conf} model=reference
model.latent_dim cannot be worked out (Interpolation key 'data.latent_dim' not found); set it or correct the name
$ train --config-dir {conf} model=base
model=_vea is not known; did you mean _vae? (all: _common, _discrete, _ladder, _vae)
$ train --config-dir {conf} model=no_list
model/no_list.yaml has a defaults list that is none; write `defaults: [_common]`, or `- group: choice` line by line
$ train --config-dir {conf} experiment=no_package
experiment is not a key of the config; begin the YAML file of the experiment with `# @package _global_`
$ train --config-dir {conf} experiment=group
modle is not a key of the config; did you mean model?
$ train --config-dir {conf} experiment=no_override
model is chosen more than once; name one choice, and in a YAML file write `- override /model: <choice>`
$ train --config-dir {conf} experiment=no_default
model: vae sets no choice; write `- override /model: vae` in the defaults list of the YAML file
$ train --config-dir {conf} experiment=twice
{conf}/experiment/twice.yaml cannot be read as YAML (found duplicate key seed in line 3); correct it
$ train --config-dir confs model=typo
--config-dir * is not a folder; name the one that holds your model/, *

# values
$ train model=beta_vae model.beta=-1
model.beta=-1 is not allowed; give a number >= 0, or a schedule such as {_target_: vae_zoo.schedules.Linear, *}
$ train model=beta_vae model.beta=abc
model.beta=abc is not allowed; give a number >= 0, or a schedule such as {_target_: vae_zoo.schedules.Linear, *}
$ train model.latent_dim=0
model.latent_dim=0 is not allowed; give a whole number >= 1
$ train model.latent_dim=2.5
model.latent_dim=2.5 is not allowed; give a whole number >= 1
$ train data.batch_size=0
data.batch_size=0 is not allowed; give a whole number >= 1
$ train data.group_size=[8,1]
data.group_size=[8, 1] is not allowed; give a whole number >= 1, or a range of them such as [1, 8]
$ train data.group_size=0
data.group_size=0 is not allowed; give a whole number >= 1, or a range of them such as [1, 8]
$ train model=ml_vae model.evidence=sum
model.evidence=sum is not allowed; give product, product_with_prior, mean or mean_precision
$ train data.batch_size=true
data.batch_size=true is not allowed; give a whole number >= 1
$ train trainer.compile=maybe
trainer.compile=maybe is not allowed; give true or false
$ train trainer.max_time=5m
trainer.max_time=5m is not allowed; give a time as DD:HH:MM:SS, or null
$ train trainer.devices=0
trainer.devices=0 is not allowed; give how many devices (-1: all), a list of them *
$ train seed=x
seed=x is not allowed; give a whole number >= 0 and < 2147483648
$ train trust=mine
trust=mine is not allowed; give a list of packages, such as [my_package]
$ train model=dip_vae model.variant=iii
model.variant=iii is not allowed; give i or ii
$ train model.network.channels=[32,0]
model.network.channels=[32, 0] is not allowed; give a list of whole *
$ train model=beta_vae model.beta={_target_:vae_zoo.schedules.Linear,start:0,end:4,step:9}
model.beta.step is not a key of model.beta; did you mean model.beta.steps?
$ train model=beta_vae model.beta={_target_:vae_zoo.schedules.Linear,start:0,end:4}
model.beta.steps is missing; give a whole number >= 1
$ train model=beta_vae model.beta={start:0,end:4,steps:9}
model.beta={*} has no _target_; give a number >= 0, or a schedule such as {_target_: vae_zoo.schedules.Linear, *}
$ train model._target_=my_models.Mine
model._target_=my_models.Mine cannot be imported; give the full name of a *
$ train model._target_=vae_zoo.models.vae.VEA
model._target_=* cannot be imported; did you mean vae_zoo.models.*VAE?
$ train --config-dir {conf} model=half_written
model._target_=unfinished.Mine cannot be imported (SyntaxError: *
$ evaluate run=x evaluation.level=fast
evaluation.level=fast is not allowed; give basic, quick or full
$ evaluate run=x metrics=full
metrics is now evaluation.level; write evaluation.level=<value>
$ train callbacks.metrics.level=quick
callbacks.metrics.level is now evaluation.level; write evaluation.level=<value>
$ train +callbacks.metrics.level=quick
callbacks.metrics.level is now evaluation.level; write evaluation.level=<value>
$ train evaluation=full
evaluation=full is not allowed; give evaluation.level=<level>, or the name of a file of your own as in *
$ train +evaluation.suites.mine._target_=my_suites.Mine
evaluation.suites.mine._target_=my_suites.Mine cannot be imported; *
$ evaluate run=x +evaluation.suites.mine._target_=my_suites.Mine
evaluation.suites.mine._target_=my_suites.Mine cannot be imported; *
$ train +evaluation.suites.mine._target_=vae_zoo.models.VAE
evaluation.suites.mine.*
$ evaluate run=x device=gpu
device=gpu is not allowed; give cpu, mps, cuda or cuda:<number>

# combinations
$ train data=digits data.size=8
images of 8 pixels are too small for the 4 convolutions of model.network, *
$ train model=mfcvae model/network=mlp
*: network=MLP is no ladder of facets, which this model needs; choose model/network=fc_vlae, *
$ train model=vae model/network=fc_vlae
*: this network is a ladder of facets, where a plain one is needed; choose conv or mlp
$ train model=mfcvae model/network=conv_vlae data=digits data.size=16
*: images of 16 pixels are too small for the convolutional ladder; give images of 28 pixels, or model/network=fc_vlae
$ train model=mfcvae model.facet_dims=[5,5,5]
vae_zoo.models.MFCVAE: facet_dims=[5, 5, 5] has 3 facets, the network 2; give as many to both
$ train model=mfcvae model.schedule.stages=[10,20,30]
vae_zoo.models.MFCVAE: stages needs a number for each of the 2 facets, got 3
$ train model=mfcvae model.schedule.fade_steps=100
*: give either fade_steps or fade_fraction, got 100 and 0.6
$ train model=spair data=digits model/network@model.object_network=fc_vlae
*: this network is a ladder of facets, where a plain one is needed; choose conv or mlp
$ train model=spair data=digits model/network@model.object_network=conv
*: 4 halvings need images of 16 pixels a side or more, got 12
$ train model=spair data=digits model/likelihood=pixelwise_logistic
vae_zoo.models.SPAIR: likelihood=PixelwiseLogistic needs 2 numbers a pixel, * choose another, such as model/*
$ train model=spair data=digits model.strides=[2,2]
vae_zoo.models.SPAIR: channels and strides are of the same convolutions, got 3 and 2 of them; give as many of both
$ train model=spair data=digits model.count_prior.end=0
vae_zoo.models.SPAIR: count_prior must be > 0 at every step, got Linear(*end=0*); give a small number such as 0.001 *
$ train model=split_spair data=digits model.background_dim=0
*.SplitSPAIR: local_to=background needs a decoder of the background, got background_dim=0; give background_dim >= 1, or *
$ train model=spair data=scenes data.num_objects=[0,255]
data.num_objects=[0, 255] is not allowed; give the least and the most objects of a scene, up to 254, such as [0, 5], or null
$ train model=spair data=scenes data.image_shape=[3,24,24]
data.image_shape=[3, 24, 24] does not fit scenes of data.size=48, which are [3, 48, 48]; leave it out, it follows the size
$ train model=spair data=scenes data.image_shape=[1,48,48]
data.image_shape=[1, 48, 48] does not fit scenes of data.size=48, which are [3, 48, 48]; leave it out, it follows the size
$ train model=mfcvae trainer=ddp_cpu
trainer.strategy=ddp waits for gradients of every weight, and facets that have not entered have none; set trainer.strategy=*
$ train trainer=ddp_cpu data.batch_size=63
data.batch_size=63 cannot be shared by 2 processes; choose a multiple *
$ train data=faces data.source=drawn
data.source=drawn is not allowed; give cartoon, folder, olivetti, lfw or celeba
$ train data=faces data.confound=1.5
data.confound=1.5 is not allowed; give a number >= 0 and <= 1
$ train data=celeba data.size=[218,178]
model.image_shape=[3, [218, 178], [218, 178]] is not allowed; give [channels, height, width]
$ train data=celeba data.crop=200
data.crop=200 is not allowed; give a whole number >= 8 and <= 178, or null
$ train data=shapes3d data.factors.flor_hue=[0]
data.factors.flor_hue is not a key of the config; did you mean data.factors.floor_hue?
$ train data=shapes3d +data.factors.flor_hue=[0]
data.factors.flor_hue is not a key of data.factors; did you mean data.factors.floor_hue?
$ train data=shapes3d data.factors.floor_hue=[10]
data.factors.floor_hue=[10] is not allowed; give a list of different whole numbers from 0 to 9, such as *, or null for all
$ train data=shapes3d data.factors.shape=[1,1]
data.factors.shape=[1, 1] is not allowed; give a list of different whole numbers from 0 to 3, such as *, or null for all
$ train data=shapes3d data.factors.scale=2
data.factors.scale=2 is not allowed; give a list of different whole numbers from 0 to 7, such as *, or null for all
$ train data=shapes3d data.factors.scale=[]
data.factors.scale=[] is not allowed; give a list of different whole numbers from 0 to 7, such as *, or null for all
$ train data=shapes3d data.size=48
data.size=48 is not allowed; give 32 or 64
$ train data=shapes3d data.group_by=flor_hue
data.group_by=flor_hue is not a grouping of these data; did you mean floor_hue?
$ train data=faces data.group_by=id_beart
data.group_by=id_beart is not a grouping of these data; did you mean id_beard?
$ train data=digits data.group_by=lable
data.group_by=lable is not a grouping of these data; did you mean label?
$ train data=digits data.group_by=label data.group_size=128
data.group_size=128 exceeds data.batch_size=64; lower *
$ train model=ml_vae data=digits data.group_size=[2,128]
data.group_size=[2, 128] exceeds data.batch_size=64; lower *
$ train model=ml_vae data=digits trainer=ddp_cpu data.num_groups=9
data.num_groups=9 cannot be shared by 2 processes, groups staying whole; choose a multiple *

# files of data
$ train data=image_folder
data.path is not given and has no default; add data.path=<value>
$ train data=image_folder data.path=nowhere
data.path=nowhere is not a folder; name a folder of images or of one *
$ train data=image_folder data.path={pictures_and_text}
*notes.txt cannot be read as an image*; remove it or *
$ train data=dsprites data.path=missing.npz
*missing.npz*
$ train data=dsprites data.path={damaged_npz}
*damaged.npz*; download it again or drop data.path *
$ train data=mnist data.root=nowhere data.download=false
nowhere/MNIST/raw lacks *; put them there or set data.*
$ train data=mnist data.root={truncated_mnist} data.download=false
*train-images* is damaged (*); delete it and *
$ train data=shapes3d data.path=missing.h5
cannot read missing.h5 as 3DShapes (*No such file*): it must hold images*; download 3dshapes.h5 again, or drop data.path *
$ train data=svhn
SVHN could not be downloaded from http*train_32x32.mat (*); put train_32x32.mat, test_32x32.mat into data by hand, or use *
$ train data=svhn data.root=nowhere data.download=false data.extra=true
nowhere lacks train_32x32.mat, extra_32x32.mat, test_32x32.mat; put them there or set data.download=true
$ train data=celeba
CelebA could not be downloaded (*); put img_align_celeba/ *, * into data/celeba by hand, or use data=faces*
$ train data=celeba data.root=nowhere data.download=false
nowhere/celeba lacks img_align_celeba/ (the unpacked *.zip), *; put * into nowhere/celeba by hand, *, or use data=faces*
$ train data=celeba data.root={damaged_celeba}
*identity_CelebA.txt is damaged (*); delete it and fetch it again
$ train data=faces data.source=olivetti data.download=false
data lacks olivetti_py3.pkz; put * into data, set data.download=true, or use data.source=cartoon*
$ train data=faces data.source=lfw
lfw could not be downloaded (*); put lfw_home/lfw_funneled, * into data by hand, or use data.source=cartoon*
$ train data=faces data.source=celeba data.download=false
data/celeba lacks *; put *
$ train data=faces data.source=folder
data.source=folder needs a folder with one folder of images a person; set data.path to it
$ train data=faces data.source=folder data.path={pictures}
data.path={pictures} holds images but no folders; give each person one folder of images

# what the data turn out to be
$ train TINY data.labelled=5000
data.labelled=5000 exceeds the * labelled training images; lower it, or *
$ train TINY data.subset=5000
data.subset=5000 exceeds the * training images; lower it
$ train TINY data.val_size=5000
data.val_size=5000 takes 5000 of * images; give a number of images from 1 *
$ train TINY data.group_by=label data.group_size=400 data.num_groups=2
data.group_size=400, but the largest *

# places
$ train hydra.run.dir={file}/run
{file}/run cannot be written (Not a directory); choose another folder with *
$ train paths.outputs={file}/runs
{file}/runs/* cannot be written (Not a directory); choose another folder with *
$ train -m seed=0,1 paths.outputs={file}/runs
{file}/runs* cannot be written (Not a directory); choose another *

# resume
$ train resume=nowhere
nowhere is not a run: it has no config.yaml; name a folder such as outputs/<name>/seed0_<hash>
$ train resume={empty}
{empty} is not a run: it has no config.yaml; name a folder such as outputs/<name>/seed0_<hash>
$ train resume={run_without_checkpoint}
* has no checkpoints/last.ckpt to resume from; train it anew
$ train resume={run_with_damaged_config}
{run_with_damaged_config}/config.yaml is damaged (line *); restore it or *
$ train resume={run_with_wrong_config}
*/config.yaml: model.latentdim is not a key of model; did you mean *
$ train resume={run_with_truncated_checkpoint}
*/last.ckpt is damaged, or no checkpoint of vae_zoo; restore it *
$ train resume={run_of_another_model}
* is the checkpoint of another model, whose model._target_ is *
$ train resume={run} model.beta=3
model.beta cannot be changed by resume; drop it (only trainer.max_steps, *
$ train resume={run} seed=1
seed cannot be changed by resume; drop it (only trainer.max_steps, *
$ train resume={run} trainer.max_steps=2
trainer.max_steps=2, but this run has been trained for 5 steps; give *
$ train resume={run} data.root=x
data.root means nothing to this run, whose data has no root; drop it
$ train -m resume={run}
resume= continues one run and -m starts many; drop -m
$ train resume={run_of_a_stranger}
the run's config imports 'stranger.Model'; if you trust it, add trust=[stranger]

# evaluate
$ evaluate -m run=a,b
-m is for training; give run=<run folder>, or runs=<folder of runs> for a table over them
$ evaluate
say what to evaluate: run=<run folder>, or runs=<folder of runs>
$ evaluate runs=nowhere
runs=nowhere is not a folder; name one that holds runs, such as runs=outputs
$ evaluate runs={empty}
runs={empty} holds no runs, which are folders with a config.yaml; name another folder
$ evaluate run=nowhere
nowhere is not a run: it has no config.yaml; name a folder such as outputs/<name>/seed0_<hash>
$ evaluate run={run_without_checkpoint}
* has no checkpoints/last.ckpt; it was not trained yet
$ evaluate run={run_with_truncated_checkpoint}
*/last.ckpt is damaged, or no checkpoint of vae_zoo; restore *
$ evaluate run={run_of_a_stranger}
the run's config imports 'stranger.Model'; if you trust it, add trust=[stranger]
$ evaluate runs={empty} predict=pictures
predict= asks one model about images; give run=<run folder> in place of runs=
$ evaluate predict=pictures
say what to evaluate: run=<run folder>, or runs=<folder of runs>
$ evaluate run={run} predict=nowhere
predict=nowhere needs a model that clusters, and * has neither facets nor categorical blocks; give the run of one *
$ evaluate run={run} data.root=x
data.root means nothing to this run, whose data has no root; drop it
$ evaluate run={run} out={file}/out
{file}/out* cannot be written (Not a directory); choose another folder with *
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

    def pictures_and_text(self) -> Path:
        folder = self.folder / "pictures"
        folder.mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
        (folder / "notes.txt").write_text("taken in May")
        return folder

    def pictures(self) -> Path:
        folder = self.pictures_and_text()
        (folder / "notes.txt").unlink()
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
    line, sentence = typed.replace("TINY", TINY), TYPED[typed]
    for name, path in made.items():
        line, sentence = line.replace(f"{{{name}}}", str(path)), sentence.replace(f"{{{name}}}", str(path))
    before = contents(tmp_path)
    answer = call(tmp_path, line)
    assert answer.code == 2 and answer.err.count("\n") == 1, answer
    pattern = sentence.replace("[", "[[]").replace("?", "[?]")
    assert fnmatch.fnmatchcase(answer.err.removeprefix("error: ").removesuffix("\n"), pattern), answer.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("train model=betavae", "model=betavae is not known; did you mean beta_vae?"),
        (f"train {TINY} data=image_folder data.path=nowhere", "data.path=nowhere is not a folder; name a folder of"),
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
        (lambda folder: folder / "nowhere", "nowhere does not exist; name a run folder or one of its checkpoints"),
        (lambda folder: folder, "is not a run: it has no config.yaml"),
        (text_file, "text.ckpt is damaged, or no checkpoint of vae_zoo"),
        (other_checkpoint, "other.ckpt is no checkpoint of vae_zoo; name a run folder or one of its checkpoints"),
        (altered_checkpoint, "altered.ckpt does not fit its own config"),
        (malicious_checkpoint, "bomb.ckpt is damaged, or no checkpoint of vae_zoo"),
    ],
)
def test_load_model_says_what_is_wrong(make, sentence, tmp_path, copy_of_run):
    copy_of_run()
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_model(make(tmp_path))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_named(tmp_path, copy_of_run):
    with pytest.raises(UserError, match="device=cuda, but torch finds none on this machine; use device=cpu"):
        load_model(copy_of_run(), device="cuda")
    answer = call(tmp_path, "train trainer=gpu")
    assert answer.code == 2 and "trainer.accelerator=gpu, but torch finds none" in answer.err


@pytest.mark.parametrize("launcher, plugin", [("ray", "hydra-ray-launcher"), ("joblib", "hydra-joblib-launcher")])
def test_a_launcher_whose_plugin_is_not_installed(launcher, plugin):
    """Hydra's own sentence is of a group in which this choice is missing."""
    error = MissingConfigException(f"Could not find 'hydra/launcher/{launcher}'", f"hydra/launcher/{launcher}")
    assert re.fullmatch(f"launcher={launcher} needs a plugin .*{plugin} with pip.*", explain(error, ""))
