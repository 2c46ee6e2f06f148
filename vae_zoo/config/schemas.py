"""What each config group may hold: names, types, ranges. Imports neither torch nor lightning, so mistakes are told at once.

One class for each `_target_`; `tests/config` holds them equal to the constructors' named arguments. Values live in `conf/`,
so nothing has a default here: a missing key is a mistake too.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Size = Annotated[float, Field(gt=0)]  # images, or a share of them when below 1
Widths = Annotated[list[Count], Field(min_length=1)]
Shape = Annotated[list[Count], Field(min_length=3, max_length=3)]
Component = dict[str, Any]  # an object of its own `_target_`, checked by that target's schema


class Schema(BaseModel):
    """Strict: unknown keys, strings for numbers and booleans for integers are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


# ---- optimisers, schedules, networks, likelihoods -------------------------------------------------------------------


class Adam(Schema):
    lr: Positive
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    eps: Positive | None = None
    weight_decay: NonNegative | None = None
    amsgrad: bool | None = None
    fused: bool | None = None


class Constant(Schema):
    value: float


class Linear(Schema):
    start: float
    end: float
    steps: Count
    begin: Annotated[int, Field(ge=0)] | None = None


class Cosine(Linear): ...


class Cyclic(Schema):
    start: float
    end: float
    steps: Count
    rise: Annotated[float, Field(gt=0, le=1)] | None = None


class Conv(Schema):
    channels: Widths
    hidden: Widths


class MLP(Schema):
    hidden: Widths


class Bernoulli(Schema): ...


class Gaussian(Schema):
    sigma: Positive
    learn: bool


class DiscretisedLogistic(Schema):
    scale: Positive
    learn: bool
    min_log_scale: float


# ---- models ---------------------------------------------------------------------------------------------------------


class Model(Schema):
    needs: ClassVar[frozenset[str]] = frozenset()  # as the model class states it

    image_shape: Shape
    optimizer: Component
    lr_schedule: Component | None


class VAE(Model):
    latent_dim: Count
    network: Component
    likelihood: Component


class BetaVAE(VAE):
    beta: NonNegative | Component


class AnnealedVAE(VAE):
    gamma: NonNegative
    capacity: NonNegative | Component


class BetaTCVAE(VAE):
    alpha: NonNegative
    beta: NonNegative
    gamma: NonNegative
    sampling: Literal["weighted", "stratified"]


class DIPVAE(VAE):
    variant: Literal["i", "ii"]
    lambda_off: NonNegative
    lambda_diagonal: NonNegative


class FactorVAE(VAE):
    gamma: NonNegative
    discriminator_hidden: Widths
    discriminator_optimizer: Component


# ---- data -----------------------------------------------------------------------------------------------------------


class Data(Schema):
    groupings: ClassVar[tuple[str, ...]] = ()  # what group_by may name
    default_group: ClassVar[str | None] = None  # used when a model needs groups and none is chosen
    labels: ClassVar[bool | None] = None  # None: known only when the data are read

    image_shape: Shape
    batch_size: Count
    seed: Annotated[int, Field(ge=0)]
    val_size: Size
    test_size: Size
    split_seed: Annotated[int, Field(ge=0)]
    subset: Count | None
    labelled: Count | None
    label_pick: Literal["balanced", "random", "first_n"]
    group_by: str | None
    group_size: Count
    num_groups: Count | None


class DSprites(Data):
    groupings = ("label", "shape", "scale", "orientation", "pos_x", "pos_y")
    default_group = "shape"
    labels = True

    path: str | None
    cache: str


class Digits(Data):
    groupings = ("label",)
    default_group = "label"
    labels = True

    size: Annotated[int, Field(ge=8)]


class MNIST(Digits):
    root: str
    download: bool


class FashionMNIST(MNIST): ...


class ImageFolder(Data):
    groupings = ("label",)
    default_group = "label"

    path: str
    size: Annotated[int, Field(ge=8)]
    channels: Literal[1, 3]


# ---- the rest -------------------------------------------------------------------------------------------------------


class Trainer(Schema):
    seed: Annotated[int, Field(ge=0)]
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: int | str | list[int]
    num_nodes: Count
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
    precision: Literal["32-true", "bf16-mixed", 32]
    max_steps: Count
    max_time: Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$")] | None
    val_check_interval: Count
    limit_val_batches: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, le=1)]
    log_every_n_steps: Count
    gradient_clip_val: Positive | None
    ema_decay: Share | None
    patience: Count | None
    compile: bool
    channels_last: bool


class Figures(Schema):
    every_n_steps: Annotated[int, Field(ge=0)]
    num_images: Count


class Checkpoint(Schema):
    every_n_steps: Count
    every_n_seconds: Positive


class Progress(Schema):
    every_n_seconds: Positive


class Callbacks(BaseModel):
    """These by name, and whatever callbacks a user adds beside them."""

    model_config = ConfigDict(extra="allow")

    checkpoint: Component  # without it nothing could be resumed
    figures: Component | None
    progress: Component | None


class TensorBoard(Schema): ...


class WandB(Schema):
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    notes: str | None
    job_type: str
    offline: bool


class Paths(Schema):
    outputs: str
    data: str
    cache: str


class Sweep(Schema):
    rerun: bool


class Train(Schema):
    """The root of conf/train.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    resume: str | None
    trust: list[str]
    sweep: Sweep
    model: Component
    data: Component
    trainer: Component
    logger: dict[str, Component]
    callbacks: Callbacks
    paths: Paths


class EvaluateData(Schema):
    root: str | None


class Evaluate(Schema):
    """The root of conf/evaluate.yaml."""

    run: str | None
    runs: str | None
    metrics: Literal["quick", "full"]
    out: str | None
    data: EvaluateData
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")]
    trust: list[str]


SCHEMAS: dict[str, type[Schema]] = {
    "torch.optim.Adam": Adam,
    "torch.optim.AdamW": Adam,
    "vae_zoo.schedules.Constant": Constant,
    "vae_zoo.schedules.Linear": Linear,
    "vae_zoo.schedules.Cosine": Cosine,
    "vae_zoo.schedules.Cyclic": Cyclic,
    "vae_zoo.nets.Conv": Conv,
    "vae_zoo.nets.MLP": MLP,
    "vae_zoo.distributions.Bernoulli": Bernoulli,
    "vae_zoo.distributions.Gaussian": Gaussian,
    "vae_zoo.distributions.DiscretisedLogistic": DiscretisedLogistic,
    "vae_zoo.models.vae.VAE": VAE,
    "vae_zoo.models.beta_vae.BetaVAE": BetaVAE,
    "vae_zoo.models.annealed_vae.AnnealedVAE": AnnealedVAE,
    "vae_zoo.models.beta_tc_vae.BetaTCVAE": BetaTCVAE,
    "vae_zoo.models.dip_vae.DIPVAE": DIPVAE,
    "vae_zoo.models.factor_vae.FactorVAE": FactorVAE,
    "vae_zoo.data.dsprites.DSprites": DSprites,
    "vae_zoo.data.digits.Digits": Digits,
    "vae_zoo.data.mnist.MNIST": MNIST,
    "vae_zoo.data.mnist.FashionMNIST": FashionMNIST,
    "vae_zoo.data.image_folder.ImageFolder": ImageFolder,
    "vae_zoo.trainer.Trainer": Trainer,
    "vae_zoo.callbacks.Figures": Figures,
    "vae_zoo.callbacks.Checkpoint": Checkpoint,
    "vae_zoo.callbacks.Progress": Progress,
    "vae_zoo.loggers.TensorBoard": TensorBoard,
    "vae_zoo.loggers.WandB": WandB,
}
