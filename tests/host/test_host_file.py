"""What nodes/host.py does when memory runs out, and how it spares previews."""

from __future__ import annotations

from host_process import run_script

SCRIPT = r"""
import time
from comfy.cli_args import LatentPreviewMethod

# Out of memory: halves, down to single rows; in order
calls = []

def run(start, stop):
    calls.append((start, stop))
    if stop - start > 1:
        raise torch.OutOfMemoryError("too much")
    return start

assert host.in_parts(run, 0, 5) == [0, 1, 2, 3, 4]
assert calls[:3] == [(0, 5), (0, 2), (0, 1)]

# A single row that does not fit, and any other error, go up to ComfyUI as they are
def always(error):
    def run(start, stop):
        raise error
    return run

for error in (torch.OutOfMemoryError("too much"), RuntimeError("a bug"), ValueError("bad")):
    try:
        host.in_parts(always(error), 0, 2)
    except (RuntimeError, ValueError) as caught:
        assert caught is error
    else:
        raise AssertionError("no error")

# Previews: slow ones are left out, fast ones are not, and none where they are off
class Bar:
    def __init__(self):
        self.shown = 0

    def update_absolute(self, value, total, preview):
        self.shown += preview is not None

def shown(seconds, method):
    args.preview_method = method
    def picture(f_hat):
        time.sleep(seconds)
        return torch.zeros(1, 4, 4, 3)
    progress = host.Progress(picture)
    progress._bar = Bar()
    for step in range(10):
        time.sleep(0.04)
        progress(step, 10, torch.zeros(1, 1, 1, 1))
    return progress._bar.shown

assert shown(0, LatentPreviewMethod.Auto) == 10
assert 1 <= shown(0.06, LatentPreviewMethod.Auto) <= 4
assert shown(0, LatentPreviewMethod.NoPreviews) == 0

# An interrupt leaves through on_step
comfy.model_management.interrupt_current_processing(True)
try:
    host.Progress(lambda f_hat: None)(0, 1, torch.zeros(1))
except comfy.model_management.InterruptProcessingException:
    pass
else:
    raise AssertionError("not interrupted")

# Folders: a user's own and its settings stay, ours are added once
folder_paths.folder_names_and_paths["mmgen"] = (["/mine"], set())
host.register_folders()
host.register_folders()
paths, extensions = folder_paths.folder_names_and_paths["mmgen"]
assert paths[0] == "/mine" and len(paths) == len(set(paths)) == 3 and ".pth" in extensions
"""


def test_host_file(tmp_path):
    run_script(SCRIPT, tmp_path)
