"""A curated part of the drawings: simple, popular motifs that both art styles have.

Small networks learn these far better than all 7,000 drawings: one thing in the middle of the
picture, few people, no skin tones, colour variants where the sets have them. Names are motifs
(`drawings.motif`); what follows "=" are everyday names of the same thing, used in captions.
"""

from __future__ import annotations

GROUPS: dict[str, str] = {
    "heart": "red-heart orange-heart yellow-heart green-heart blue-heart purple-heart brown-heart "
    "black-heart white-heart pink-heart light-blue-heart grey-heart=gray-heart broken-heart "
    "two-hearts sparkling-heart heart-on-fire heart-suit heart-with-arrow",
    "shape": "red-circle orange-circle yellow-circle green-circle blue-circle purple-circle "
    "brown-circle black-circle white-circle red-square orange-square yellow-square "
    "green-square blue-square purple-square brown-square large-blue-diamond=blue-diamond "
    "star cross-mark=red-cross check-mark-button=green-check-mark stop-sign warning",
    "face": "grinning-face beaming-face-with-smiling-eyes smiling-face-with-sunglasses=cool-face "
    "smiling-face-with-heart-eyes=face-with-heart-eyes smiling-face-with-halo "
    "slightly-smiling-face=smiling-face=smiley upside-down-face winking-face "
    "face-with-tears-of-joy=laughing-face star-struck face-blowing-a-kiss face-with-tongue "
    "thinking-face face-with-rolling-eyes sleeping-face face-with-medical-mask "
    "nauseated-face hot-face=red-face cold-face=blue-face exploding-head partying-face "
    "nerd-face crying-face loudly-crying-face=sad-face frowning-face astonished-face "
    "flushed-face angry-face smiling-face-with-horns=devil skull alien=alien-face robot "
    "ghost clown-face jack-o-lantern=pumpkin worried-face pile-of-poo=poop",
    "animal": "cat-face=cat dog-face=dog mouse-face=mouse rabbit-face=rabbit=bunny fox=fox-face "
    "bear=bear-face panda koala tiger-face=tiger lion=lion-face cow-face=cow pig-face=pig "
    "frog monkey-face=monkey chicken=hen penguin bird baby-chick=chick duck owl "
    "horse-face=horse unicorn zebra giraffe elephant turtle snake spouting-whale=blue-whale "
    "dolphin fish tropical-fish=yellow-fish shark octopus crab snail "
    "butterfly=blue-butterfly bug=caterpillar honeybee=bee lady-beetle=ladybug spider "
    "ewe=sheep flamingo parrot dove raccoon=raccoon-face swan moose",
    "plant": "cherry-blossom=pink-flower rose=red-rose sunflower tulip seedling=sprout "
    "evergreen-tree=pine-tree=fir deciduous-tree=green-tree palm-tree cactus "
    "maple-leaf=red-leaf fallen-leaf mushroom=red-mushroom christmas-tree potted-plant "
    "four-leaf-clover",
    "fruit": "grapes watermelon lemon banana pineapple red-apple=apple green-apple pear "
    "cherries=cherry strawberry blueberries tomato avocado carrot ear-of-corn=corn "
    "hot-pepper=chili broccoli eggplant onion",
    "food": "bread baguette-bread=baguette pancakes cheese-wedge=cheese hamburger=burger pizza "
    "hot-dog taco egg cooking=fried-egg rice-ball soft-ice-cream=ice-cream-cone "
    "doughnut=donut birthday-cake=cake cupcake chocolate-bar=chocolate lollipop "
    "hot-beverage=coffee=cup-of-coffee wine-glass=red-wine cocktail-glass=cocktail "
    "beer-mug=beer bubble-tea fork-and-knife cookie french-fries=fries popcorn croissant "
    "pretzel glass-of-milk=milk",
    "sky": "sun=yellow-sun full-moon crescent-moon=moon ringed-planet=planet=saturn "
    "cloud=white-cloud sun-behind-cloud cloud-with-rain=rain-cloud "
    "cloud-with-lightning=thunder-cloud tornado rainbow "
    "umbrella-with-rain-drops=purple-umbrella snowflake snowman-without-snow=snowman "
    "fire=flame droplet=water-drop globe-showing-europe-africa=earth high-voltage=lightning "
    "umbrella",
    "vehicle": "automobile=car=red-car sport-utility-vehicle=blue-car taxi=yellow-car=cab bus "
    "racing-car=race-car police-car ambulance fire-engine=fire-truck delivery-truck=truck "
    "locomotive=steam-train bullet-train train motorcycle=motorbike bicycle=bike "
    "oncoming-automobile oncoming-taxi airplane=plane helicopter rocket flying-saucer=ufo "
    "sailboat=boat anchor fuel-pump=gas-pump tractor kick-scooter",
    "place": "house-with-garden=home castle=european-castle church office-building "
    "hospital=hospital-building factory tent mountain snow-capped-mountain volcano "
    "desert-island=island circus-tent house",
    "object": "green-book blue-book open-book wrapped-gift=gift=present bell light-bulb candle "
    "key=golden-key locked=lock unlocked=open-lock hammer gear magnet scissors pencil "
    "crayon paintbrush envelope package money-bag dollar-banknote gem-stone=diamond crown "
    "ring top-hat=hat sunglasses necktie=tie t-shirt=shirt jeans dress "
    "running-shoe=shoe=sneaker high-heeled-shoe=red-shoe backpack=school-bag "
    "umbrella-on-ground guitar trumpet violin musical-note microphone camera television=tv "
    "laptop=computer mobile-phone=phone=smartphone battery soccer-ball=football "
    "basketball=orange-ball baseball tennis=tennis-ball american-football "
    "pool-8-ball=black-ball trophy=golden-cup 1st-place-medal=gold-medal bullseye=target "
    "crystal-ball alarm-clock=clock watch=wrist-watch hourglass-done=hourglass bomb "
    "party-popper pill door tooth eye eyes mouth=lips thumbs-up thumbs-down "
    "raised-fist=fist raised-hand=hand victory-hand=peace-sign flexed-biceps=muscle "
    "triangular-flag=red-flag white-flag black-flag rainbow-flag red-paper-lantern=lantern "
    "egg pizza shield bow-and-arrow speech-balloon hundred-points collision=explosion dizzy "
    "closed-book=red-book balloon=red-balloon socks brain floppy-disk artist-palette "
    "ice=ice-cube",
}


def _read() -> dict[str, tuple[str, tuple[str, ...]]]:
    motifs = {}
    for group, text in GROUPS.items():
        for entry in text.split():
            name, *others = entry.split("=")
            motifs.setdefault(name, (group, tuple(other.replace("-", " ") for other in others)))
    return motifs


CORE_MOTIFS: dict[str, tuple[str, tuple[str, ...]]] = _read()
"""Motif -> (its group, its everyday names)."""
