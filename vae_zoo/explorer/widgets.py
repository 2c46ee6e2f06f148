"""Pictures as HTML, and HTML that answers clicks."""

import base64
from collections.abc import Sequence
from html import escape

import gradio as gr
import numpy as np

from vae_zoo.figures.encode import to_png

# a click on an element with data-key, or Enter there, is the event `select` with the index [key, x, y]; x and y are shares
# of the sides of the element with data-area around it
ON_CLICK = """
const select = e => {
  const hit = e.target.closest('[data-key]');
  if (!hit || e.type === 'keydown' && e.key !== 'Enter') return;
  const area = (hit.closest('[data-area]') ?? hit).getBoundingClientRect();
  const index = [hit.dataset.key, (e.clientX - area.left) / area.width || 0, (e.clientY - area.top) / area.height || 0];
  trigger('select', {index, value: hit.dataset.key});
};
element.addEventListener('click', select);
element.addEventListener('keydown', select);
"""


def clickable(**options) -> gr.HTML:
    """HTML whose elements with data-key can be selected."""
    return gr.HTML(js_on_load=ON_CLICK, **options)


def data_uri(content: bytes, kind: str) -> str:
    """The bytes of a file as an address, such as `data:image/png;base64,...`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def pixels(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of a float image [1 or 3, H, W] in [0, 1]."""
    image = np.rint(255 * image.clip(0, 1)).astype(np.uint8)
    return np.moveaxis(image.repeat(3 // len(image), 0), 0, -1)


def png(image: np.ndarray) -> str:
    """The address of a float image [1 or 3, H, W]."""
    return data_uri(to_png(pixels(image)), "image/png")


def figure(source: str, name: str, suffix: str = "png", caption: str = "", kind: str = "tile") -> str:
    """A picture with a link that saves it.

    Args:
        source: Address of the picture.
        name: Name of the file, without suffix.
        suffix: Suffix of the file.
        caption: Below the picture.
        kind: Its class in page.css.
    """
    save = f'<a download="{escape(name)}.{suffix}" href="{source}">{suffix.upper()}</a>'
    image = f'<img alt="{escape(name)}" src="{source}">'
    return f'<figure class="{kind}">{image}<figcaption>{escape(caption)} {save}</figcaption></figure>'


def strip(images: Sequence[np.ndarray] | np.ndarray, captions: Sequence[str], keys: Sequence[str] | None = None) -> str:
    """Float images [C, H, W] side by side, with a link that saves them as one; with keys they can be selected."""
    tiles = []
    for i, (image, caption) in enumerate(zip(images, captions)):
        key = "" if keys is None else f' data-key="{escape(keys[i])}" tabindex="0" role="button"'
        source, text = png(image), escape(caption)
        tiles.append(f'<figure class="tile"{key}><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>')
    save = f'<a download="images.png" href="{png(np.concatenate(list(images), axis=2))}">PNG</a>'
    return f'<div class="strip">{"".join(tiles)}{save}</div>'
