"""Speed of SPLIT's network with merged layers and layer by layer: python benchmarks/upsampling.py [rounds=3 ...]

Further arguments are those of train.py. apart: upsampling, padding and convolution one after the other, as in the official
code; together: `vae_zoo.nets.resize_conv.UpsamplingConv2d`, the same function of the same weights. Both take the steps of
the bare loop of benchmarks/throughput.py in turn, with one thread unless OMP_NUM_THREADS is set, each in both memory
formats. Last line: one JSON object.
"""

import copy
import json
import statistics
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from throughput import bare, prepared  # noqa: E402

from vae_zoo.nets.resize_conv import UpsamplingConv2d  # noqa: E402

STEPS = 10
EXPERIMENT = ["experiment=paper/split_vae_table1", "data=street_digits", "~data.extra", "data.batch_size=64"]


def apart(model):
    """A copy of the model whose upsampling convolutions are three layers each."""
    model = copy.deepcopy(model)
    for network in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for name, layer in [*network.named_children()]:
            if isinstance(layer, UpsamplingConv2d):
                kernel = layer.kernel_size[0]
                before, after = (kernel - 1) // 2, kernel // 2
                conv = nn.Conv2d(layer.in_channels, layer.out_channels, kernel)
                conv.load_state_dict(layer.state_dict())
                pad = nn.ZeroPad2d((before, after, before, after))
                network.set_submodule(name, nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), pad, conv))
    return model


def main(words):
    rounds = int(next((word.split("=")[1] for word in words if word.startswith("rounds=")), 3))
    model, data, images = prepared([*EXPERIMENT, *(word for word in words if not word.startswith("rounds="))], 2000)
    models = {"apart": apart(model), "together": model}
    models |= {f"{name}_channels_last": copy.deepcopy(m).to(memory_format=torch.channels_last) for name, m in models.items()}
    with torch.no_grad():
        z = torch.randn(8, sum(block.size for block in model.blocks.values()))
        difference = (models["apart"].decoder(z) - model.decoder(z)).abs().max().item()
    seconds = {name: [] for name in models}
    for _ in range(rounds):
        for name, m in models.items():
            seconds[name].append(bare(m, images, data.batch_size, STEPS, {}))
    rate = {name: round(STEPS * data.batch_size / statistics.median(values), 1) for name, values in seconds.items()}
    for name, value in rate.items():
        print(f"{name:24}{value:8} images/s  {value / rate['apart']:.2f}")
    print(json.dumps({"images_per_s": rate, "ratio": round(rate["together"] / rate["apart"], 2), "difference": difference}))


if __name__ == "__main__":
    main(sys.argv[1:])
