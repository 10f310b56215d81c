"""The words of captions, English and Chinese: what each of them says, and the closed list of all of them.

A word says one thing, whatever stands around it; only `plain` and `solid` say texture of an object and kind of a
ground. The first way of saying a thing is the usual one, the others are paraphrases.
"""

from __future__ import annotations

from .scene import GROUND_COLOURS

# English: thing -> (singular, plural), paraphrases after the usual pair
NOUNS = {
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"), ("wedge", "wedges")),
    "star": (("star", "stars"),),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
    "cross": (("cross", "crosses"), ("plus", "pluses")),
    "heart": (("heart", "hearts"),),
    "diamond": (("diamond", "diamonds"), ("lozenge", "lozenges")),
    "moon": (("moon", "moons"), ("crescent", "crescents")),
    "drop": (("drop", "drops"), ("teardrop", "teardrops")),
    "arrow": (("arrow", "arrows"), ("pointer", "pointers")),
}
ANY_NOUN = (("object", "objects"), ("shape", "shapes"), ("thing", "things"))
ADJECTIVES = {
    "colour": {
        "red": ("red", "crimson", "scarlet"),
        "orange": ("orange", "tangerine"),
        "yellow": ("yellow", "golden"),
        "green": ("green", "emerald"),
        "cyan": ("cyan", "turquoise"),
        "blue": ("blue", "azure"),
        "purple": ("purple", "violet"),
        "pink": ("pink", "rose"),
        "black": ("black", "jet-black"),
        "white": ("white", "snow-white"),
    },
    "size": {
        "small": ("small", "little", "tiny"),
        "medium": ("medium", "medium-sized"),
        "large": ("large", "big", "huge"),
    },
    "texture": {
        "plain": ("plain", "solid"),
        "striped": ("striped", "stripy"),
        "dotted": ("dotted", "spotted"),
        "checked": ("checked", "chequered"),
    },
}
GROUND_KINDS = {"plain": ("plain", "solid"), "graded": ("graded", "gradient"), "textured": ("textured", "mottled")}
GROUND_SHADES = {name: (name, "gray") if name == "grey" else (name,) for name in GROUND_COLOURS}
GROUND_NOUNS = ("background", "backdrop", "ground")
PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "under", "beneath"),
    "inside": ("inside", "within"),
    "in front of": ("in front of", "covering"),
}
NUMBERS = {1: ("a", "one", "an", "1"), 2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
FILLERS = ("is", "are", "there", "and", "on", "against", "with", "from", "to", "also", "this", "picture", "shows", "of")

# Chinese; what no inflection touches
ZH = {
    "shape": {
        "circle": ("圆形", "圆"),
        "square": ("正方形", "方块"),
        "triangle": ("三角形",),
        "star": ("星形", "五角星"),
        "ring": ("圆环", "环形"),
        "cross": ("十字", "十字形"),
        "heart": ("心形", "爱心"),
        "diamond": ("菱形",),
        "moon": ("月牙", "弯月"),
        "drop": ("水滴", "水滴形"),
        "arrow": ("箭头",),
    },
    "colour": {
        "red": ("红色",),
        "orange": ("橙色",),
        "yellow": ("黄色",),
        "green": ("绿色",),
        "cyan": ("青色",),
        "blue": ("蓝色",),
        "purple": ("紫色",),
        "pink": ("粉色",),
        "black": ("黑色",),
        "white": ("白色",),
    },
    "size": {"small": ("小",), "medium": ("中等",), "large": ("大",)},
    "texture": {"plain": ("纯色",), "striped": ("条纹",), "dotted": ("圆点",), "checked": ("格子",)},
    "kind": {"plain": ("单色",), "graded": ("渐变",), "textured": ("纹理",)},
    "shade": {
        "beige": ("米色",),
        "grey": ("灰色",),
        "slate": ("石板色",),
        "sage": ("灰绿色",),
        "mauve": ("淡紫色",),
        "clay": ("陶土色",),
    },
    "behind": {
        "left of": ("左边", "左侧"),
        "right of": ("右边", "右侧"),
        "above": ("上面", "上方"),
        "below": ("下面", "下方"),
        "inside": ("里面",),
        "in front of": ("前面",),
    },
}
ZH_NUMBERS = {1: ("一个",), 2: ("两个",), 3: ("三个",), 4: ("四个",)}
ZH_FILLERS = ("的", "是", "有", "和", "到", "图里", "、", "。")
ZH_ANY, ZH_GROUND, ZH_AT, ZH_THE, ZH_EXACTLY = "物体", "背景", "在", ("那个", "那"), "一共"


def _lexicon() -> dict[str, tuple[str, str | int]]:
    """Return what each single word says: (kind, value)."""
    out: dict[str, tuple[str, str | int]] = {}

    def add(kind: str, value: str | int, *words: str) -> None:
        for word in words:
            if out.setdefault(word, (kind, value)) != (kind, value):
                raise AssertionError(f"{word} says {out[word]} and {(kind, value)}")

    for value, pairs in NOUNS.items():
        for one, many in pairs:
            add("shape", value, one)
            add("shapes", value, many)
    for one, many in ANY_NOUN:
        add("shape", "", one)
        add("shapes", "", many)
    for kind, table in [*ADJECTIVES.items(), ("shade", GROUND_SHADES), *ZH.items()]:
        for value, words in table.items():
            add(kind, value, *words)
    for value, words in GROUND_KINDS.items():
        add("texture" if value == "plain" else "kind", value, *words)
    for table in (NUMBERS, ZH_NUMBERS):
        for value, words in table.items():
            add("number", value, *words)
    add("ground", "", *GROUND_NOUNS, ZH_GROUND)
    add("shape", "", ZH_ANY)
    add("the", "", "the", *ZH_THE)
    add("exactly", "", "exactly", ZH_EXACTLY)
    add("at", "", ZH_AT)
    add("stop", "", ",", ".", "、", "。")
    add("and", "", "and", "和")
    for word in (*FILLERS, *ZH_FILLERS):
        out.setdefault(word, ("filler", ""))
    return out


LEXICON = _lexicon()
_PARTS = tuple(dict.fromkeys(w for phrases in PHRASES.values() for p in phrases for w in p.split()))
WORDS: tuple[str, ...] = tuple(dict.fromkeys((*LEXICON, *_PARTS)))  # the vocabulary of a word-level tokenizer
FORMS = {  # what stands at the head of a relation, longest first
    tuple(phrase.split()): name
    for name, phrase in sorted(
        ((n, p) for n, ps in PHRASES.items() for p in ps), key=lambda item: -len(item[1].split())
    )
}
