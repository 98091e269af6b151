"""torch.save files. Those from outside are read with weights_only, and argparse.Namespace, which training scripts leave
in them, allowed; our own take their name only when they are whole."""

import argparse
import io
import pickle
from pathlib import Path

import torch

from harmonica.errors import UserError
from harmonica.provenance import write_whole


def load_pickle(path: str | Path):
    """What a .pt or .pth file holds. Raises UserError when it is missing, damaged or wants to run code."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except pickle.UnpicklingError as e:
        reason = next((x.strip() for x in str(e).splitlines() if "GLOBAL" in x or "global" in x), "not a pickle")
        raise UserError(f"{path} is refused: it holds more than tensors and plain data ({reason})") from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as e:
        raise UserError(f"{path} is damaged or no file of torch.save ({type(e).__name__})") from None


def save_pickle(path: str | Path, state) -> None:
    """torch.save, whole or not at all."""
    data = io.BytesIO()
    torch.save(state, data)
    write_whole(path, data.getvalue())
