"""Data sets: one file each under `sets/`, imported when its class is first used."""

from importlib import import_module

FILES = {  # public name: the file that defines it
    "CelebA": "celeba",
    "Digits": "digits",
    "DSprites": "dsprites",
    "Faces": "faces",
    "FashionMNIST": "mnist",
    "ImageFolder": "image_folder",
    "MNIST": "mnist",
    "Scenes": "scenes",
    "Shapes3D": "shapes3d",
    "StreetDigits": "street_digits",
    "SVHN": "svhn",
}
__all__ = [*FILES]


def __getattr__(name: str):
    """Imports a class on first use: its public name says nothing of files and costs no other import."""
    if name in FILES:
        return getattr(import_module(f"vae_zoo.data.sets.{FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
