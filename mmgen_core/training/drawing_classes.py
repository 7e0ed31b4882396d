"""Which class a drawing belongs to, by its name: the first pattern that matches the whole motif.

A drawing that matches none has no class; it is trained on as "no class". Names are those of
the two icon sets, which follow Unicode's names for emoji.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WHO = r"(?:(?:person|man|woman|men|women|people)-)?"
_SAD = (
    "(?:disappointed|frowning|slightly-frowning|crying|loudly-crying|pensive|worried|anguished|"
    "fearful|weary|tired|confounded|persevering|sad-but-relieved|disappointed-but-relieved|"
    "downcast|pleading|anxious|confused)-face.*|face-holding-back-tears|face-with-cold-sweat"
)
_SMILE = (
    "(?:grinning|smiling|slightly-smiling|beaming|grinning-squinting|winking|relieved|kissing|"
    "squinting|star-struck|smirking|hugging|upside-down|partying|zany)-?face.*|star-struck|"
    "face-with-tears-of-joy|rolling-on-the-floor-laughing|face-blowing-a-kiss|face-savou?ring.*|"
    "face-with(?:-stuck-out)?-tongue.*"
)
_FLOWER = "blossom|bouquet|cherry-blossom|hibiscus|hyacinth|lotus|rose|sunflower|tulip"

# (class, pattern of the whole motif); order matters where two could match.
CLASSES: tuple[tuple[str, str], ...] = (
    # animals
    ("cat", r"(?:black-)?cat(?:-.*)?|.*-cat(?:-.*)?"),
    ("dog", r"dog|dog-face|guide-dog|service-dog|poodle|fox|wolf|raccoon"),
    ("bear or panda", r"bear|polar-bear|panda|koala|teddy-bear|hamster|mouse-face|tiger-face|lion"),
    ("horse or deer", r"horse|horse-face|unicorn|donkey|zebra|deer|moose|carousel-horse|llama"),
    ("cow, pig or sheep", r"cow|ox|bison|water-buffalo|pig|boar|ram|ewe|goat|cow-face|pig-face"),
    (
        "bird",
        r"bird|black-?bird|dove|eagle|duck|swan|owl|parrot|peacock|flamingo|goose|dodo|turkey|"
        r"rooster|chicken|penguin|.*chick|phoenix.*",
    ),
    (
        "fish or whale",
        r"(?:tropical-)?fish|blowfish|shark|(?:spouting-)?whale|dolphin|seal|orca|carp-streamer",
    ),
    ("insect", r"ant|bug|honeybee|beetle|lady-beetle|(?:monarch-)?butterfly|cricket|cockroach|fly"),
    # faces and hearts
    ("smiling face", _SMILE),
    ("sad face", _SAD),
    (
        "heart",
        r"(?!anatomical|couple).*-heart|heart-(?!hands).*|two-hearts|revolving-hearts|heart-suit|"
        r"love-letter",
    ),
    # sky
    ("moon", r"(?!moon-).*moon.*"),
    (
        "sun or cloud",
        r"sun|sun-(?:with|behind)-.*|cloud.*|rainbow|fog|snowflake|high-voltage|tornado|"
        r"umbrella.*|closed-umbrella",
    ),
    ("clock", r".*-(?:oclock|thirty)|alarm-clock|stopwatch|timer-clock|mantelpiece-clock|watch"),
    # plants and food
    ("flower", _FLOWER + r"|white-flower|wilted-flower|rosette"),
    ("tree", r".*-tree|tree|potted-plant|cactus|pine-decoration|palm-tree|seedling|herb|sheaf-.*"),
    (
        "fruit",
        r"red-apple|green-apple|pear|peach|cherries|strawberry|grapes|lemon|lime|tangerine|"
        r"watermelon|melon|banana|mango|pineapple|kiwi-fruit|blueberries|tomato|coconut|avocado",
    ),
    (
        "vegetable",
        r"carrot|eggplant|cucumber|broccoli|leafy-green|bell-pepper|hot-pepper|ear-of-corn|onion|"
        r"garlic|potato|mushroom|brown-mushroom|pea-pod|olive|ginger-root|beans|pickle|chestnut",
    ),
    (
        "cake or ice cream",
        r".*cake|custard|doughnut|cookie|ice-cream|soft-ice-cream|shaved-ice|pie|lollipop|candy|"
        r"chocolate-bar|waffle|pancakes|dango|honey-pot",
    ),
    (
        "drink",
        r"beer-mug|clinking-.*|wine-glass|cocktail-glass|tropical-drink|tumbler-glass|hot-beverage|"
        r"teacup.*|teapot|bubble-tea|cup-with-straw|beverage-box|mate|sake|glass-of-milk|baby-bottle",
    ),
    # things
    (
        "car or truck",
        r"(?:oncoming-)?(?:automobile|taxi|bus|police-car)|sport-utility-vehicle|pickup-truck|"
        r"delivery-truck|fire-engine|ambulance|minibus|articulated-lorry|trolleybus|racing-car|"
        r"police-car-.*|tractor",
    ),
    (
        "train",
        r"locomotive|(?:bullet-|high-speed-|light-rail|mountain-railway)(?:train)?|train|tram|"
        r"tram-car|metro|monorail|railway-car|station|suspension-railway|light-rail",
    ),
    (
        "house or building",
        r"house|houses|house-.*|derelict-house|hut|.*-office|.*office-building|hospital|school|"
        r"bank|hotel|love-hotel|church|castle|japanese-castle|factory|department-store|"
        r"convenience-store|mosque|hindu-temple|synagogue|classical-building|japanese-post-office",
    ),
    ("book", r"(?:\w+-)?book|books|notebook.*|ledger|.*-notepad|bookmark-tabs"),
    (
        "ball",
        r"soccer-ball|basketball|baseball|softball|volleyball|tennis|bowling|pool-8-ball|"
        r"american-football|rugby-football|yarn|globe-.*",
    ),
    ("coloured circle", r"(?:red|orange|yellow|green|blue|purple|brown|black|white)-circle"),
    ("coloured square", r"(?:red|orange|yellow|green|blue|purple|brown)-square"),
    ("arrow button", r"(?:up|down|left|right)(?:-.*)?-arrow(?:-curving-.*)?"),
    ("number key", r"keycap-.*"),
    (
        "zodiac sign",
        r"aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|aquarius|"
        r"pisces|ophiuchus",
    ),
    ("folder or page", r".*folder|page-.*|scroll|clipboard|memo|.*envelope.*|bar-chart|chart-.*"),
    # hands
    ("thumbs up", r"thumbs-up"),
    ("thumbs down", r"thumbs-down"),
    ("victory hand", r"victory-hand|crossed-fingers"),
    ("raised hand", r"raised-hand|hand-with-fingers-splayed|vulcan-salute|waving-hand"),
    ("fist", r".*fist"),
    ("pointing hand", r"(?:backhand-)?index-pointing.*|backhand-.*"),
    ("flexed arm", r"flexed-biceps"),
    ("ear", r"ear|ear-with-hearing-aid"),
    # people
    ("astronaut", _WHO + "astronaut"),
    ("cook", _WHO + "cook"),
    ("farmer", _WHO + "farmer"),
    ("firefighter", _WHO + "firefighter"),
    ("police officer", _WHO + "police-officer"),
    ("construction worker", _WHO + "construction-worker"),
    ("pilot", _WHO + "pilot"),
    ("guard", _WHO + "guard"),
    ("graduate", _WHO + "student"),
    ("singer", _WHO + "singer"),
    ("artist", _WHO + "artist"),
    ("wizard", _WHO + "mage"),
    ("superhero", _WHO + "superhero"),
    ("mermaid", _WHO + "(?:merpeople|mermaid|merman|merperson)"),
    ("Santa Claus", "santa-claus|m(?:rs|x)-claus"),
    ("vampire", _WHO + "vampire"),
    ("baby", "baby|baby-angel"),
    ("bride", _WHO + "with-veil"),
    ("runner", _WHO + "running(?:-facing-right)?"),
    ("swimmer", _WHO + "(?:swimming|playing-water-polo)"),
    ("cyclist", _WHO + "(?:mountain-)?biking"),
    ("wheelchair user", _WHO + "in-(?:manual|motorized)-wheelchair.*"),
)
NAMES = tuple(name for name, _ in CLASSES)
NO_CLASS = len(CLASSES)


def class_of(motif: str) -> int:
    """The class of a motif; NO_CLASS where no pattern matches."""
    for index, (_, pattern) in enumerate(CLASSES):
        if re.fullmatch(pattern, motif):
            return index
    return NO_CLASS


def classes_of(motifs: Sequence[str]) -> list[int]:
    known = {motif: class_of(motif) for motif in set(motifs)}
    return [known[motif] for motif in motifs]
