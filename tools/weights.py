"""Make the folders of pretrained weights that a release attaches: `make weights`.

Exports the run of each preset below from outputs/weights/<preset> to results/weights/<preset>, which git ignores. A run
that is missing is not trained: the command that trains it is printed. A folder of more than 3 MB is refused.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vae_zoo import UserError, export  # noqa: E402  (the package need not be installed)

PRESETS = {  # folder: what trains it
    "split_vae": "experiment=split_vae/first_run",
    "ml_vae": "experiment=ml_vae/faces",
    "parted_vae": "experiment=parted_vae/digits",
    "mfcvae": "experiment=mfcvae/digits",
    "spair": "experiment=spair/scenes_small",
}
LIMIT = 3_000_000  # bytes of a folder


def make(runs: Path, out: Path) -> int:
    """Exports all presets whose run is there. Returns the exit code: 2 if one is missing or too large."""
    code = 0
    for name, words in PRESETS.items():
        try:
            if not (runs / name).is_dir():
                raise UserError(f"no run; train it: python train.py {words} hydra.run.dir={runs / name}")
            folder = export(runs / name, format="safetensors", out=out / name)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if size > LIMIT:
                raise UserError(f"{size / 1e6:.1f} MB, at most {LIMIT / 1e6:g} MB are allowed; train smaller networks")
            print(f"{name}: {size / 1e6:.1f} MB in {folder}")
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(make(ROOT / "outputs" / "weights", ROOT / "results" / "weights"))
