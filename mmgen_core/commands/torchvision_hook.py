"""Lets PyPI's torchvision be imported beside a CPU-only torch.

`repair.py` copies this file into the site-packages of mmgen's own virtual environment, where a
.pth file calls `install()` at every start of the interpreter. Torchvision's Python code describes
its operators `nms` and `qnms`, which its binary part would have defined; that part is linked to
CUDA and does not load. Defining the two names (with no kernel) makes the import go through.
"""

import sys


class TorchvisionHook:
    """A finder that finds nothing: it sees the import of torchvision coming and prepares it."""

    def __init__(self, torchvision_version):
        self.torchvision_version = torchvision_version
        self.done = False

    def find_spec(self, fullname, path=None, target=None):
        # Stays in the list when done: taking it out here would hide the finder after it from
        # the import that is under way, which may be a second one of these.
        if fullname == "torchvision" and not self.done:
            self.done = True
            if self._is_still_that_build():
                self._define_operators()
        return None

    def _is_still_that_build(self):
        """A torchvision installed later may bring a working binary part: stay out of its way."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("torchvision") == self.torchvision_version
        except PackageNotFoundError:
            return False

    def _define_operators(self):
        import torch  # here and not above: most starts of the interpreter need no torch

        boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define("torchvision::nms", boxes)
        torch.library.define("torchvision::qnms", boxes)


def install(torchvision_version):
    """Puts the hook first; called from the .pth file, which Python may read more than once."""
    known = [getattr(finder, "torchvision_version", None) for finder in sys.meta_path]
    if torchvision_version not in known:
        sys.meta_path.insert(0, TorchvisionHook(torchvision_version))
