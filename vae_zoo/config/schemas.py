"""Schemas of the config roots and of targets of other libraries. Imports neither torch nor lightning.

The settings of vae_zoo's classes follow from their constructors: see vae_zoo/config/settings.py. Default values are in
`conf/`, so nothing has a default here: a missing key is an error, unless it is OPTIONAL.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vae_zoo.config.types import Betas, Component, Count, Index, NonNegative, Positive, Share

HUB = r"[\w-][\w.-]*/[\w-][\w.-]*"  # <user>/<name>; neither begins with a dot
OPTIONAL: Any = Field(default=None)  # may be missing; then the default of the constructor applies

Device = Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="cpu, mps, cuda or cuda:<number>")]
Packages = Annotated[list[str], Field(description="a list of packages, such as [my_package]")]


class Schema(BaseModel):
    """Base of the schemas; strict: unknown keys, strings for numbers and booleans for integers are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Adam(Schema):
    lr: Positive
    betas: Betas = OPTIONAL
    eps: Positive = OPTIONAL
    weight_decay: NonNegative = OPTIONAL
    amsgrad: bool = OPTIONAL
    fused: bool = OPTIONAL


class Trainer(Schema):
    seed: Index
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Annotated[
        Literal["auto", -1] | Count | Annotated[list[Index], Field(min_length=1)],
        Field(description="how many devices (-1: all), a list of them such as [0, 2], or auto"),
    ]
    num_nodes: Count
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
    precision: Literal["32-true", "bf16-mixed", "fast", 32]
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


class Open(Schema):
    """Further keys are allowed, and not checked here."""

    model_config = ConfigDict(extra="allow")


class Callbacks(Open):
    """The callbacks of the package by name; users may add others."""

    checkpoint: Component  # required, otherwise no run could be resumed
    figures: Component | None
    metrics: Component | None
    progress: Component | None


class Paths(Schema):
    outputs: str
    data: str
    cache: str


class Sweep(Schema):
    rerun: bool
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", description="letters, digits and . _ -")] | None = OPTIONAL
    stop_on_failure: bool = OPTIONAL  # these are not in the config.yaml of older runs
    jobs: Count = OPTIONAL
    jobs_per_gpu: Count = OPTIONAL
    metric: str = OPTIONAL
    worker: str = OPTIONAL  # identifies the command of this job; set by the sweeper


class Sweeper(Schema):
    """Settings of the grid sweeper, and the additional ones of the search sweeper."""

    max_batch_size: Count | None = OPTIONAL
    params: dict[str, Any] | None = OPTIONAL
    sampler: Literal["tpe", "random"] = OPTIONAL
    pruner: Literal["median", "hyperband"] | None = OPTIONAL
    trials: Count = OPTIONAL
    direction: Literal["minimize", "maximize"] | None = OPTIONAL


class Launcher(Open):
    """Settings of launchers. Hydra checks the types of all; the ranges are for those that `conf/launcher` sets."""

    n_jobs: Count | Annotated[int, Field(le=-1)] = OPTIONAL
    timeout_min: Count = OPTIONAL
    cpus_per_task: Count | None = OPTIONAL
    gpus_per_node: Index | None = OPTIONAL
    mem_gb: Positive | None = OPTIONAL
    array_parallelism: Count = OPTIONAL


class EvaluationSettings(Schema):
    level: Literal["basic", "quick", "full"]
    suites: dict[str, Component | None]


Evaluation = Annotated[
    EvaluationSettings,
    Field(description="evaluation.level=<level>, or the name of your own YAML file as in evaluation=<name>"),
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


class EvaluateData(Open):
    """Paths of a run's data; the keys depend on the run."""

    root: str | None


class Explore(Schema):
    """The root of conf/explore.yaml."""

    run: Annotated[
        str | Annotated[list[str], Field(min_length=1)] | None,
        Field(description="a run folder, or a list of them such as [<folder>,<folder>]"),
    ]
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    share: bool
    data: EvaluateData
    device: Device
    trust: Packages


class Evaluate(Schema):
    """The root of conf/evaluate.yaml."""

    run: str | None
    runs: str | None
    predict: str | None
    inception: str | None
    out: str | None
    export: str | None
    columns: Literal["headline", "all"]
    evaluation: Evaluation
    data: EvaluateData
    device: Device
    trust: Packages


class Export(Schema):
    """The root of conf/export.yaml."""

    run: str
    format: Literal["onnx", "torch_export", "safetensors"] | None
    out: str | None
    uint8: bool
    push: Annotated[str, Field(pattern=f"^{HUB}$", description="<user>/<name> on the hub")] | None
    data: EvaluateData
    trust: Packages
