"""A backbone with one of its operations replaced."""

from typing import Any

from harmonica.backbones.base import Backbone


class View:
    """A backbone whose subclass changes `delta`; everything else is the backbone's own."""

    def __init__(self, backbone: Backbone):
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)
