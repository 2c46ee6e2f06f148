"""What the server of processes imports once, so that each of its children starts at once."""

import tensorboard.backend.event_processing.event_accumulator  # noqa: F401
import wandb.apis.public  # noqa: F401
import wandb.sdk.launch  # noqa: F401
from sklearn.datasets import load_digits

from tests import compositions, small  # noqa: F401

compositions.remember()
load_digits()
