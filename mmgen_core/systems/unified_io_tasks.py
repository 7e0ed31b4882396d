"""What Unified-IO 1 and 2 were trained to do, in the references' wording.

Unified-IO 1 knows one wording per task; of Unified-IO 2's many paraphrases the first ("original")
stands here. In a template {} is what the user says and {box} four words for a region.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

IMAGE, TEXT = "image", "text"


@dataclass(frozen=True)
class Task:
    """Attributes:
    answer: "image" or "text".
    picture: whether a picture belongs to the prompt.
    says: what the user's words are; empty where there are none.
    box: whether a region of the picture belongs to it.
    blank: the model does not see the region (in-painting).
    lower: whether words were in lower case in training.
    """

    template: str
    answer: str
    picture: bool = True
    says: str = ""
    box: bool = False
    blank: bool = False
    lower: bool = False

    def text(self, words: str, box: str) -> str:
        """The prompt."""
        words = " ".join(words.split())
        words = words.lower() if self.lower else words
        return self.template.replace("{box}", box).replace("{}", words)

    def worded(self, text: str) -> bool:
        """Whether a text is this task's prompt already."""
        known = re.escape(self.template).replace(re.escape("{}"), ".+")
        known = known.replace(re.escape("{box}"), r"(<extra_id_\d+> ?){4}")
        return known != ".+" and re.fullmatch(known, text) is not None


GENERATE, EDIT, INPAINT = "generate", "edit", "in-paint"
FROM_LABELS = "draw from label colours"
DEPTH, NORMALS, SEGMENT = "depth", "surface normals", "segmentation"
CAPTION, QUESTION, CLASSIFY = "caption", "question", "classify"
REGION_CAPTION, REGION_CLASS = "caption a region", "classify a region"
LOCATE, FIND, DETECT = "locate", "find all", "detect everything"

UNIFIED_IO: Mapping[str, Task] = {
    GENERATE: Task('What is the complete image? Text: " {} " .', IMAGE, False, "what to draw"),
    INPAINT: Task(
        'Filling the blank region " {box} {} " ?',
        IMAGE,
        says="what belongs there, such as dog",
        box=True,
        blank=True,
    ),
    FROM_LABELS: Task(
        'What is the complete image? Segmentation color: " {} "',
        IMAGE,
        says="labels and colours of the picture, as in: dog : red , grass : lime",
        lower=True,
    ),
    DEPTH: Task("What is the depth map of the image ?", IMAGE),
    NORMALS: Task("What is the surface normal of the image ?", IMAGE),
    SEGMENT: Task('What is the segmentation of " {} " ?', IMAGE, says="the kind of thing"),
    CAPTION: Task("What does the image describe ?", TEXT),
    QUESTION: Task("{}", TEXT, says="a question about the picture", lower=True),
    CLASSIFY: Task("What is this in the image ?", TEXT),
    REGION_CAPTION: Task('What does the region " {box} " describe ?', TEXT, box=True),
    REGION_CLASS: Task('What is the category of region " {box} " ?', TEXT, box=True),
    LOCATE: Task('Which region does the text " {} " describe ?', TEXT, says="what to locate"),
}

UNIFIED_IO_2: Mapping[str, Task] = {
    GENERATE: Task("Generate an image matching this text: {}", IMAGE, False, "what to draw"),
    EDIT: Task('Apply the instruction "{}" on the given image.', IMAGE, says="what to change"),
    INPAINT: Task(
        'Filling the blank region " {box} {} " .',
        IMAGE,
        says="what belongs there, such as dog",
        box=True,
        blank=True,
        lower=True,
    ),
    DEPTH: Task("What is the depth map of the image ?", IMAGE),
    NORMALS: Task("What is the surface normal of the image ?", IMAGE),
    SEGMENT: Task(
        "Segment the object in this bounding box: {box} {}", IMAGE, says="its kind", box=True
    ),
    CAPTION: Task("Caption this image.", TEXT),
    QUESTION: Task("{} A short answer to the question is", TEXT, says="a question"),
    CLASSIFY: Task("What is this? Return a precise but very short answer.", TEXT),
    REGION_CLASS: Task("What is the category of the object at {box}?", TEXT, box=True),
    LOCATE: Task('Which region does the text "{}" describe?', TEXT, says="what to locate"),
    FIND: Task(
        'Return the bounding boxes and categories of region matching "{}"',
        TEXT,
        says="the kind of thing",
    ),
    DETECT: Task("List all objects and their locations in the image", TEXT),
}
NEGATIVE = "An image of a random picture."  # Unified-IO 2's, for guidance


def task_of(tasks: Mapping[str, Task], name: str, system: str) -> Task:
    """
    Raises:
        ValueError: the system was not trained for it.
    """
    if name not in tasks:
        raise ValueError(
            f"{system} was not trained for the task {name!r}. Choose one of: {', '.join(tasks)}."
        )
    return tasks[name]
