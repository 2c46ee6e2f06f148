"""What each config group may hold: names, types, ranges. Imports neither torch nor lightning, so mistakes show at once.

One class for each `_target_`; `tests/config` holds them equal to the constructors' named arguments. Values live in
`conf/`, so nothing has a default here: a missing key is a mistake too, unless it is OPTIONAL. A `description` is what a
person is told to give instead of a wrong value, where the type alone does not say it.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

OPTIONAL: Any = Field(default=None)  # may be left out, and then the constructor's own default holds

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(gt=0, description="a number of images, or a share of them between 0 and 1")]
Widths = Annotated[list[Count], Field(min_length=1, description="a list of whole numbers >= 1, such as [32, 64]")]
Range = Annotated[list[Count], Field(min_length=2, max_length=2), AfterValidator(lambda pair: _ordered(*pair))]
NumObjects = Annotated[
    list[Annotated[int, Field(ge=0, le=254)]],  # their numbers are bytes
    Field(min_length=2, max_length=2, description="the least and the most objects of a scene, up to 254, such as [0, 5]"),
    AfterValidator(lambda pair: _ordered(*pair)),
]
GroupSize = Annotated[Count | Range, Field(description="a whole number >= 1, or a range of them such as [1, 8]")]
Hidden = Annotated[list[Count], Field(description="a list of whole numbers >= 1, such as [256], or [] for none")]
FacetWidths = Annotated[
    list[Widths],
    Field(min_length=1, description="a list of layers for each facet, the shallowest first, such as [[500], [2000]]"),
]
FacetCounts = Annotated[
    list[Count], Field(min_length=1, description="a whole number >= 1 for each facet, the shallowest first, such as [5, 5]")
]
Stages = Annotated[
    list[Positive],
    Field(min_length=1, description="the length of each stage, in updates or as a share of all below 1, such as [0.4, 0.6]"),
]
Pretrain = Annotated[
    list[NonNegative],
    Field(min_length=1, description="a number of updates for each stage, or below 1 a share of it, such as [0.5, 0]"),
]
Paddings = Annotated[
    list[Annotated[list[Index], Field(min_length=2, max_length=2)]],
    Field(description="[height, width] for each convolution, such as [[0, 2], [1, 1]]"),
]
Classes = Annotated[int, Field(ge=2)]
NumClasses = Annotated[
    Classes | Annotated[list[Classes], Field(min_length=1)],
    Field(description="a whole number >= 2, or a list of them for several variables; the data's is data.num_classes"),
]
Shape = Annotated[list[Count], Field(min_length=3, max_length=3, description="[channels, height, width]")]
Betas = Annotated[
    list[Annotated[float, Field(ge=0, lt=1)]],
    Field(min_length=2, max_length=2, description="two numbers from 0 to below 1, such as [0.9, 0.999]"),
]
Component = Annotated[dict[str, Any], Field(description="an object with a _target_")]  # checked by that target's schema
Packages = Annotated[list[str], Field(description="a list of packages, such as [my_package]")]
Schedule = Annotated[
    dict[str, Any],
    Field(description="a schedule such as {_target_: vae_zoo.schedules.Linear, start: 0, end: 4, steps: 1000}"),
]


def _ordered(least: int, most: int) -> list[int]:
    if least > most:
        raise ValueError  # the field's description is what a person is told
    return [least, most]


def _values_below(size: int) -> Any:
    """Places among the `size` values of a factor, or null for all of them."""
    words = f"a list of different whole numbers from 0 to {size - 1}, such as [0] or [0, {size - 1}], or null for all"
    values = Annotated[list[Annotated[int, Field(ge=0, lt=size)]], Field(min_length=1), AfterValidator(_different)]
    return Annotated[values | None, Field(description=words)]


def _different(values: list[int]) -> list[int]:
    if len({*values}) < len(values):
        raise ValueError  # the field's description is what a person is told
    return values


class Schema(BaseModel):
    """Strict: unknown keys, strings for numbers and booleans for integers are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


# ---- optimisers, schedules, networks, likelihoods -------------------------------------------------------------------


class Adam(Schema):
    lr: Positive
    betas: Betas = OPTIONAL
    eps: Positive = OPTIONAL
    weight_decay: NonNegative = OPTIONAL
    amsgrad: bool = OPTIONAL
    fused: bool = OPTIONAL


class Constant(Schema):
    value: Finite


Rise = Annotated[float, Field(gt=0, le=1)]


class Linear(Schema):
    start: Finite
    end: Finite
    steps: Count
    begin: Index = OPTIONAL
    rise: Rise = OPTIONAL


class Cosine(Linear): ...


class Cyclic(Schema):
    start: Finite
    end: Finite
    steps: Count
    rise: Rise = OPTIONAL


class Staircase(Schema):
    factor: Positive
    every: Count


class Progressive(Schema):
    total: Count
    stages: Stages | None
    fade_steps: Index | None
    fade_fraction: Probability | None
    gamma_fade_steps: Index | None
    gamma_fade_fraction: Probability | None
    gamma_start_z: NonNegative
    gamma_start_c: NonNegative
    pretrain: Pretrain | None
    warm_up: NonNegative


class Conv(Schema):
    channels: Widths
    hidden: Hidden
    decoder_channels: Widths | None = OPTIONAL
    decoder_hidden: Hidden | None = OPTIONAL
    padding: Paddings | None = OPTIONAL
    leak: NonNegative = OPTIONAL
    batch_norm: bool = OPTIONAL


class MLP(Schema):
    hidden: Widths
    activation: Literal["relu", "tanh"]


class Ladder(Schema):
    """Networks with one code for each facet."""


class LadderMLP(Ladder):
    hidden: FacetWidths
    decoder_hidden: FacetWidths | None
    activation: Literal["relu", "elu"]
    batch_norm: bool
    gate: NonNegative


class LadderConv(Ladder):
    channels: Widths
    activation: Literal["relu", "elu"]
    weight_norm: Literal["encoder", "none"]
    output: Literal["plain", "normalised"]


class ResizeConv(Schema):
    channels: Widths
    kernels: Widths
    activation: Literal["relu", "elu"]
    decoder_channels: Widths
    decoder_kernels: Widths


class Identity(Schema): ...


class PatchShuffle(Schema):
    patch: Count


class MixedPatchShuffle(Schema):
    patches: Annotated[list[Count], Field(min_length=1, description="sides of patches, pixels, such as [1, 2, 4, 8]")]


class GaussianBlur(Schema):
    sigma: Annotated[list[Positive], Field(min_length=2, max_length=2, description="[least, most], pixels, such as [5, 10]")]
    radius: Annotated[Range, Field(description="[least, most], pixels, such as [3, 6]")]


class HighLowPass(Schema):
    sigma: Positive
    radius: Count


class RandomAffine(Schema):
    rotate: NonNegative = OPTIONAL
    scale: Annotated[float, Field(ge=0, lt=1)] = OPTIONAL
    shear: NonNegative = OPTIONAL
    shift: NonNegative = OPTIONAL


class Bernoulli(Schema): ...


class Laplace(Schema):
    scale: Positive


class Gaussian(Schema):
    sigma: Positive
    learn: bool
    sigmoid: bool = OPTIONAL


class DiscretisedLogistic(Schema):
    scale: Positive
    learn: bool
    min_log_scale: Finite


class PixelwiseLogistic(Schema):
    min_log_scale: Finite


# ---- models ---------------------------------------------------------------------------------------------------------


class Model(Schema):
    needs: ClassVar[frozenset[str]] = frozenset()  # as the model class states it

    image_shape: Shape
    optimizer: Component
    lr_schedule: Schedule | None


class VAE(Model):
    latent_dim: Count
    network: Component
    likelihood: Component


class BetaVAE(VAE):
    beta: NonNegative | Schedule


class AnnealedVAE(VAE):
    gamma: NonNegative
    capacity: NonNegative | Schedule


class BetaTCVAE(VAE):
    alpha: NonNegative
    beta: NonNegative | Schedule
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


class MLVAE(Model):
    needs = frozenset({"group"})

    content_dim: Count
    style_dim: Count
    network: Component
    likelihood: Component
    beta_style: NonNegative | Schedule
    beta_content: NonNegative | Schedule
    evidence: Literal["product", "product_with_prior", "mean", "mean_precision"]
    content_sampling: Literal["per_image", "per_group"]


class GroupVAE(MLVAE): ...


class Discrete(Model):
    """Models with categorical variables."""

    network: Component
    likelihood: Component
    num_classes: NumClasses
    class_probs: Annotated[list[NonNegative], Field(min_length=2)] | None
    feature_dim: Count


class PartedVAE(Discrete):
    needs = frozenset({"supervised"})

    z_dim: Count
    u_dim: Count
    z_capacity: NonNegative | Schedule
    z_gamma: NonNegative
    u_capacity: NonNegative | Schedule
    u_gamma: NonNegative
    prior_weight: NonNegative
    entropy_weight: NonNegative
    overlap_weight: NonNegative
    overlap_threshold: Annotated[float, Field(ge=0, le=1)]
    temperature: Positive
    gate: bool
    gate_slope: NonNegative | Schedule
    eval_slope: NonNegative | None
    init: Literal["official", "per_variable"]
    u_kl: Literal["sampled", "exact"]
    detach_c: bool
    c_momentum: Annotated[float, Field(ge=0, lt=1)]
    prior_lr: Positive | None
    supervised: bool
    supervised_optimizer: Component
    augment: Component | None
    consistency_weight: NonNegative
    consistency_threshold: Annotated[float, Field(ge=0, le=1)]


class JointVAE(Discrete):
    z_dim: Count
    z_capacity: NonNegative | Schedule
    c_capacity: NonNegative | Schedule
    gamma: NonNegative
    temperature: Positive


class SSVAE(Discrete):
    needs = frozenset({"supervised"})

    z_dim: Count
    labelled_weight: NonNegative
    ce_weight: NonNegative


class SplitVAE(Model):
    global_dim: Count
    local_dim: Count
    network: Component
    likelihood: Component
    view: Component
    beta_global: NonNegative | Schedule
    beta_local: NonNegative | Schedule
    aux_weight: NonNegative


class GMVAE(Model):
    z_dim: Count
    num_classes: Classes
    network: Component
    likelihood: Component
    class_probs: Annotated[list[NonNegative], Field(min_length=2)] | None
    class_hidden: Widths
    z_hidden: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]
    temperature: Positive | Schedule
    beta: NonNegative | Schedule
    alpha: NonNegative | Schedule


class SplitGMVAE(GMVAE):
    local_dim: Count
    local_network: Component
    view: Component
    beta_local: NonNegative | Schedule
    aux_weight: NonNegative


class SPAIR(Model):
    what_dim: Count
    background_dim: Index
    network: Component
    object_network: Component
    likelihood: Component
    channels: Widths
    strides: Annotated[
        list[Annotated[int, Field(ge=1, le=4)]], Field(min_length=1, description="a list of 1 to 4, such as [2, 2, 3]")
    ]
    features: Count
    head_kernel: Literal[1, 3]
    head_hidden: Widths
    glimpse_size: Count
    anchor: Positive
    scale_prior: Finite | Schedule
    count_prior: Positive | Schedule
    beta_where: NonNegative | Schedule
    beta_what: NonNegative | Schedule
    beta_depth: NonNegative | Schedule
    beta_pres: NonNegative | Schedule
    beta_background: NonNegative | Schedule
    pres_kl: Literal["analytic", "mc", "bernoulli"]
    temperature: Positive
    reach: Positive
    presence_bias: Finite
    alpha_bias: Finite
    alpha_scale: Positive
    wheels_steps: Index
    depth_weight: Literal["split", "softmax"]


class SplitSPAIR(SPAIR):
    local_dim: Count
    view: Component
    local_to: Literal["none", "objects", "background", "both"]
    beta_local: NonNegative | Schedule
    aux_weight: NonNegative


class LadderVAE(Model):
    facet_dims: FacetCounts
    network: Component
    likelihood: Component
    schedule: Component | None
    data_init: bool


class MFCVAE(LadderVAE):
    num_clusters: FacetCounts
    covariance: Literal["diagonal", "full"]
    weights: Literal["fixed", "learned"] | Annotated[list[Literal["fixed", "learned"]], Field(min_length=1)]
    variance: Annotated[float, Field(gt=1e-6, allow_inf_nan=False)]
    estimator: Literal["sample", "analytic"] | Annotated[list[Literal["sample", "analytic"]], Field(min_length=1)]
    prior_init: Literal["none", "means", "means+vars+weights"]
    prior_init_at: Literal["start", "entry"]
    init_images: Count | None
    calibrate_norm: bool
    augment: Component | None = OPTIONAL
    consistency_weight: NonNegative = OPTIONAL
    entropy_weight: NonNegative = OPTIONAL
    balance_weight: NonNegative = OPTIONAL


# ---- data -----------------------------------------------------------------------------------------------------------


class Data(Schema):
    groupings: ClassVar[tuple[str, ...]] = ()  # what group_by may name
    default_group: ClassVar[str | None] = None  # used when a model needs groups and none is chosen
    labels: ClassVar[bool | None] = None  # None: known only when the data are read

    image_shape: Shape
    batch_size: Count
    seed: Index
    val_size: Size
    test_size: Size
    split_seed: Index
    folds: Annotated[int, Field(ge=2)] | None
    fold: Index
    subset: Count | None
    labelled: Count | None
    label_pick: Literal["balanced", "random", "first_n"]
    labels_from: str | None
    num_classes: Count | None
    group_by: str | None
    group_size: GroupSize
    group_pick: Literal["images", "balanced"]
    num_groups: Count | None


class DSprites(Data):
    groupings = ("label", "shape", "scale", "orientation", "pos_x", "pos_y")
    default_group = "shape"
    labels = True

    path: str | None
    cache: str


class FactorValues(Schema):
    """Which values of each factor of 3DShapes are used; null: all of them."""

    floor_hue: _values_below(10)
    wall_hue: _values_below(10)
    object_hue: _values_below(10)
    scale: _values_below(8)
    shape: _values_below(4)
    orientation: _values_below(15)


class Shapes3D(Data):
    groupings = ("label", "floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
    default_group = "shape"
    labels = True

    path: str | None
    factors: Annotated[FactorValues, Field(description="the values in use of some factors, such as {floor_hue: [0]}")]
    size: Literal[32, 64]
    cache: str


class Digits(Data):
    groupings = ("label",)
    default_group = "label"
    labels = True

    size: Annotated[int, Field(ge=8)]


class MNIST(Digits):
    root: str
    download: bool
    colour: Literal["grey", "random"]


class StreetDigits(Data):
    groupings = ("label", "identity", "digit", "digit_colour", "texture", "ground_colour", "stroke_scale")
    default_group = "label"
    labels = True

    num_images: Count
    cache: str


class FashionMNIST(MNIST): ...


class SVHN(Data):
    groupings = ("label",)
    default_group = "label"
    labels = True

    root: str
    download: bool
    extra: bool
    size: Annotated[int, Field(ge=8)]


class ImageFolder(Data):
    groupings = ("label",)
    default_group = "label"

    path: str
    size: Annotated[int, Field(ge=8)]
    channels: Literal[1, 3]


class CelebA(Data):
    groupings = ("label", "identity")
    default_group = "identity"
    labels = True

    root: str
    download: bool
    crop: Annotated[int, Field(ge=8, le=178)] | None
    size: Annotated[int, Field(ge=8)]
    split: Literal["official", "identity"]
    cache: str


class Scenes(Data):
    groupings = ("label",)
    default_group = "label"
    labels = True

    variant: Literal["split_easy", "split_hard", "binarized", "colored_on_grayscale", "colored_on_colored"]
    path: str | None
    size: Annotated[int, Field(ge=8)]
    sprites: str
    sprite_size: Annotated[int, Field(ge=3)] | None
    num_objects: NumObjects | None
    ground: str | None
    colour: Literal["random", "white", "own"] | None
    phase_jitter: bool
    max_overlap: Probability | None
    train_size: Count
    endless: bool
    cache: str


class Faces(Data):
    groupings = ("label", "identity", "id_hair_style", "id_beard", "style_background_texture")
    default_group = "identity"
    labels = True

    source: Literal["cartoon", "folder", "olivetti", "lfw", "celeba"]
    path: str | None
    root: str
    download: bool
    size: Annotated[int, Field(ge=8)]
    channels: Literal[1, 3]
    min_images: Count
    num_identities: Count
    images_per_identity: Count
    style_strength: Probability
    confound: Probability
    cache: str


# ---- the rest -------------------------------------------------------------------------------------------------------


class Trainer(Schema):
    seed: Index
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Annotated[
        Literal["auto", -1] | Count | Annotated[list[Index], Field(min_length=1)],
        Field(description="how many devices (-1: all), a list of them such as [0, 2], or auto"),
    ]
    num_nodes: Count
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
    precision: Literal["32-true", "bf16-mixed", 32]
    max_steps: Count
    max_time: Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$", description="a time as DD:HH:MM:SS")] | None
    val_check_interval: Count
    limit_val_batches: Annotated[
        Index | Annotated[float, Field(gt=0, le=1)],
        Field(description="a number of batches, or a share of them such as 0.5"),
    ]
    log_every_n_steps: Count
    gradient_clip_val: Positive | None
    ema_decay: Share | None
    patience: Count | None
    compile: bool
    channels_last: bool


class Figures(Schema):
    every_n_steps: Index
    num_images: Count


class Metrics(Schema):
    every_n_steps: Index


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
    metrics: Component | None
    progress: Component | None


class Pruning(Schema):
    study: str
    trial: Annotated[int, Field(ge=0)]
    metric: str


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
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", description="letters, digits and . _ -")] | None = OPTIONAL
    stop_on_failure: bool = OPTIONAL  # these are not in the config.yaml of older runs
    jobs: Count = OPTIONAL
    metric: str = OPTIONAL
    worker: str = OPTIONAL  # the command whose job this is; set by the sweeper


class EvaluationSettings(Schema):
    level: Literal["basic", "quick", "full"]
    suites: dict[str, Component | None]


Evaluation = Annotated[
    EvaluationSettings,
    Field(description="evaluation.level=<level>, or the name of a file of your own as in evaluation=<name>"),
]


class Train(Schema):
    """The root of conf/train.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    resume: str | None
    trust: Packages
    evaluation: Evaluation
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
    predict: str | None
    inception: str | None
    out: str | None
    evaluation: Evaluation
    data: EvaluateData
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="cpu, mps, cuda or cuda:<number>")]
    trust: Packages


SCHEMAS: dict[str, type[Schema]] = {
    "torch.optim.Adam": Adam,
    "torch.optim.AdamW": Adam,
    "vae_zoo.schedules.Constant": Constant,
    "vae_zoo.schedules.Linear": Linear,
    "vae_zoo.schedules.Cosine": Cosine,
    "vae_zoo.schedules.Cyclic": Cyclic,
    "vae_zoo.schedules.Staircase": Staircase,
    "vae_zoo.schedules.Progressive": Progressive,
    "vae_zoo.nets.Conv": Conv,
    "vae_zoo.nets.LadderConv": LadderConv,
    "vae_zoo.nets.LadderMLP": LadderMLP,
    "vae_zoo.nets.MLP": MLP,
    "vae_zoo.nets.ResizeConv": ResizeConv,
    "vae_zoo.nets.RandomAffine": RandomAffine,
    "vae_zoo.nets.Identity": Identity,
    "vae_zoo.nets.PatchShuffle": PatchShuffle,
    "vae_zoo.nets.MixedPatchShuffle": MixedPatchShuffle,
    "vae_zoo.nets.GaussianBlur": GaussianBlur,
    "vae_zoo.nets.HighLowPass": HighLowPass,
    "vae_zoo.distributions.Bernoulli": Bernoulli,
    "vae_zoo.distributions.Laplace": Laplace,
    "vae_zoo.distributions.Gaussian": Gaussian,
    "vae_zoo.distributions.DiscretisedLogistic": DiscretisedLogistic,
    "vae_zoo.distributions.PixelwiseLogistic": PixelwiseLogistic,
    "vae_zoo.models.VAE": VAE,
    "vae_zoo.models.BetaVAE": BetaVAE,
    "vae_zoo.models.AnnealedVAE": AnnealedVAE,
    "vae_zoo.models.BetaTCVAE": BetaTCVAE,
    "vae_zoo.models.DIPVAE": DIPVAE,
    "vae_zoo.models.FactorVAE": FactorVAE,
    "vae_zoo.models.MLVAE": MLVAE,
    "vae_zoo.models.GroupVAE": GroupVAE,
    "vae_zoo.models.JointVAE": JointVAE,
    "vae_zoo.models.PartedVAE": PartedVAE,
    "vae_zoo.models.SSVAE": SSVAE,
    "vae_zoo.models.SplitVAE": SplitVAE,
    "vae_zoo.models.GMVAE": GMVAE,
    "vae_zoo.models.SplitGMVAE": SplitGMVAE,
    "vae_zoo.models.SPAIR": SPAIR,
    "vae_zoo.models.SplitSPAIR": SplitSPAIR,
    "vae_zoo.models.LadderVAE": LadderVAE,
    "vae_zoo.models.MFCVAE": MFCVAE,
    "vae_zoo.data.DSprites": DSprites,
    "vae_zoo.data.Shapes3D": Shapes3D,
    "vae_zoo.data.Digits": Digits,
    "vae_zoo.data.MNIST": MNIST,
    "vae_zoo.data.FashionMNIST": FashionMNIST,
    "vae_zoo.data.StreetDigits": StreetDigits,
    "vae_zoo.data.SVHN": SVHN,
    "vae_zoo.data.ImageFolder": ImageFolder,
    "vae_zoo.data.CelebA": CelebA,
    "vae_zoo.data.Faces": Faces,
    "vae_zoo.data.Scenes": Scenes,
    "vae_zoo.training.Trainer": Trainer,
    "vae_zoo.training.Figures": Figures,
    "vae_zoo.training.Metrics": Metrics,
    "vae_zoo.training.Checkpoint": Checkpoint,
    "vae_zoo.training.Progress": Progress,
    "vae_zoo.sweeps.pruning.Pruning": Pruning,
    "vae_zoo.training.TensorBoard": TensorBoard,
    "vae_zoo.training.WandB": WandB,
}
