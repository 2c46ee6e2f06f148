"""Data sets: one file each under `sets/`, imported when its class is first used."""

from vae_zoo.utils.lazy import importer

FILES = {  # public name: the file that defines it
    "ArrayFile": "sets.arrays",
    "CelebA": "sets.celeba",
    "Digits": "sets.digits",
    "DSprites": "sets.dsprites",
    "Faces": "sets.faces",
    "FashionMNIST": "sets.mnist",
    "HuggingFace": "sets.huggingface",
    "ImageFolder": "sets.image_folder",
    "MNIST": "sets.mnist",
    "Scenes": "sets.scenes",
    "Shapes3D": "sets.shapes3d",
    "StreetDigits": "sets.street_digits",
    "SVHN": "sets.svhn",
}
__all__ = [*FILES]
__getattr__ = importer(__name__, FILES)
