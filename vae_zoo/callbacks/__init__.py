from vae_zoo.callbacks.checkpoint import Checkpoint, Interrupted
from vae_zoo.callbacks.figures import Figures
from vae_zoo.callbacks.metrics import Metrics
from vae_zoo.callbacks.monitor import Monitor, NotFinite
from vae_zoo.callbacks.progress import Progress
from vae_zoo.callbacks.pruning import Pruning

__all__ = ["Checkpoint", "Figures", "Interrupted", "Metrics", "Monitor", "NotFinite", "Progress", "Pruning"]
