"""The training set: Noto pictures of `emoji-datasource-google`, described by the words of `emojibase-data`."""

import json
import random
import subprocess
import tarfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.pretrain.roles import GENDERS, ROLES, TONES, Gender

PACKAGES = ("emoji-datasource-google@16.0.0", "emojibase-data@16.0.3")
_DROP_CATEGORY = {"Component"}
_DROP_SUBCATEGORY = {
    "country-flag", "subdivision-flag", "keycap", "alphanum", "zodiac", "religion", "av-symbol", "arrow", "math", "punctuation",
    "currency", "gender", "other-symbol", "transport-sign", "family", "person-symbol",
}  # fmt: skip
_ROLE_PICTURES = {"ninja", "princess", "prince", "person with crown"}
_ROLE_LABELS = {"person", "man", "woman"}
_DROP_WORDS = (
    "medium square",
    "medium-small square",
    "small square",
    "clock face",
    "-thirty",
    "o’clock",
    "o'clock",
    "japanese “",
    "button",
)
_ALIASES: dict[str, tuple[str, ...]] = {
    "automobile": ("red car",), "sport utility vehicle": ("blue car",), "deciduous tree": ("green tree",),
    "house": ("small house", "home"), "bear": ("brown bear", "big brown bear"), "red heart": ("love heart",),
    "red apple": ("apple", "shiny red apple"), "pizza": ("slice of pizza", "pizza slice"), "grinning face": ("smiling face", "happy face"),
    "smiling face with smiling eyes": ("happy smiling face", "smiling face"), "crying face": ("sad crying face", "tears"),
    "loudly crying face": ("sobbing face",), "dog face": ("dog", "puppy"), "cat face": ("cat", "kitten"), "sun": ("bright sun", "sunshine"),
    "sunflower": ("yellow flower",), "rose": ("red rose",), "birthday cake": ("cake with candles",), "hot beverage": ("cup of coffee", "coffee"),
    "beer mug": ("glass of beer",), "wine glass": ("glass of red wine", "wine"), "soccer ball": ("football",), "rocket": ("space rocket",),
    "airplane": ("plane",), "full moon": ("moon",), "star": ("yellow star",), "banana": ("yellow banana",), "grapes": ("purple grapes",),
    "hamburger": ("burger", "cheeseburger"), "french fries": ("chips",), "ice cream": ("bowl of ice cream",), "wrapped gift": ("present", "gift box"),
    "bomb": ("black bomb",), "skull": ("white skull",), "pile of poo": ("poop",), "red envelope": ("red packet",), "purple heart": ("violet heart",),
    "spouting whale": ("whale with water",), "tiger face": ("tiger",), "lion": ("lion face",), "frog": ("green frog",), "pig face": ("pink pig",),
    "penguin": ("black and white penguin",), "octopus": ("red octopus",), "butterfly": ("blue butterfly",), "lady beetle": ("ladybug", "ladybird"),
    "fire": ("flame", "orange flame"), "umbrella with rain drops": ("umbrella in the rain",), "snowman": ("snowman in the snow",), "crown": ("gold crown",),
    "glasses": ("spectacles",), "mobile phone": ("smartphone", "phone"), "laptop": ("computer",), "books": ("stack of books",), "key": ("golden key",),
    "locked": ("padlock", "yellow lock"), "light bulb": ("lamp",), "money bag": ("bag of money",), "gem stone": ("diamond", "blue diamond"),
}  # fmt: skip
# What a caption leaves open, the training set leaves open: "a heart" is any colour of heart. None: labels that end so.
_LOOSE: dict[str, frozenset[str] | None] = {
    "heart": None, "circle": None, "square": None, "book": None,
    "animal": frozenset({"animal-mammal"}), "bird": frozenset({"animal-bird"}), "insect": frozenset({"animal-bug"}),
    "sea animal": frozenset({"animal-marine"}), "flower": frozenset({"plant-flower"}), "plant": frozenset({"plant-other"}),
    "fruit": frozenset({"food-fruit"}), "vegetable": frozenset({"food-vegetable"}), "dessert": frozenset({"food-sweet"}),
    "meal": frozenset({"food-prepared", "food-asian"}), "drink": frozenset({"drink"}), "face": frozenset({"face-smiling", "face-neutral-skeptical"}),
    "happy face": frozenset({"face-smiling", "face-affection"}), "sad face": frozenset({"face-concerned"}), "vehicle": frozenset({"transport-ground"}),
    "boat": frozenset({"transport-water"}), "building": frozenset({"place-building"}), "weather": frozenset({"sky & weather"}),
    "clothing": frozenset({"clothing"}), "musical instrument": frozenset({"musical-instrument"}), "tool": frozenset({"tool"}),
    "sport": frozenset({"sport"}), "toy": frozenset({"game"}), "medal": frozenset({"award-medal"}), "hand": frozenset({"hand-fingers-open", "hand-single-finger"}),
}  # fmt: skip
_TEMPLATES = ("a picture of {}", "an emoji of {}", "an image of {}", "a drawing of {}", "a cute {}", "one {}")


class Picture(msgspec.Struct, frozen=True):
    """One 64 × 64 picture: its file name's code, what it shows, other ways to say so, and how often to draw it."""

    code: str
    label: str
    says: tuple[str, ...]
    tags: tuple[str, ...]
    group: str
    subgroup: str
    weight: float


class PictureSet(msgspec.Struct):
    """All pictures: `rgb` is uint8 [n, 64, 64, 3], `pictures[i]` describes `rgb[i]`, `role_index` finds (role, gender, tone)."""

    pictures: list[Picture]
    rgb: NDArray[np.uint8]
    role_index: dict[tuple[str, Gender, str], int]
    loose_index: dict[str, list[int]]
    base_count: int

    def labels(self) -> list[str]:
        return [p.label for p in self.pictures]


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def phrase(words: str, rng: random.Random) -> str:
    """One of the ways in which a person may ask for `words`."""
    draw = rng.random()
    if draw < 0.55:
        return words
    if draw < 0.85:
        return _article(words)
    return rng.choice(_TEMPLATES).format(_article(words) if rng.random() < 0.5 else words)


def role_caption(role: str, gender: Gender | None, tone: str | None, rng: random.Random) -> str:
    """A caption that leaves open what is None."""
    name = rng.choice(ROLES[role].names)
    if gender:
        word = rng.choice(("woman", "female") if gender == "woman" else ("man", "male"))
        name = word if role == "person" and word in GENDERS else f"{word} {name}"
    if tone is None:
        return phrase(name, rng)
    style = rng.random()
    if style < 0.4:
        return f"{phrase(name, rng)}, {tone} skin tone"
    if style < 0.75:
        return f"{phrase(name, rng)} with {tone} skin"
    return phrase(f"{tone} skinned {name}", rng)


def sample_caption(pictures: PictureSet, rng: random.Random, role_share: float = 0.2, explicit: bool = False) -> tuple[int, str]:
    """Draw (picture index, caption): a role in `role_share` of the draws, a loose caption in 10 %, else a picture by weight.

    Of the role captions 45 % leave gender and tone open, 20 % the tone, 15 % the gender. `explicit` leaves nothing open.
    """
    if rng.random() < role_share:
        role = rng.choice(list(ROLES))
        row = ROLES[role]
        form = 1.0 if explicit else rng.random()
        gender = rng.choices(GENDERS, (row.woman, 1 - row.woman))[0]
        tone = rng.choices(TONES, row.tones)[0]
        told_gender, told_tone = 0.45 <= form < 0.65 or form >= 0.80, form >= 0.65
        if told_gender:
            gender = rng.choice(GENDERS)
        if told_tone:
            tone = rng.choice(TONES)
        caption = role_caption(role, gender if told_gender else None, tone if told_tone else None, rng)
        return pictures.role_index[role, gender, tone], caption
    if not explicit and rng.random() < 0.1 / (1 - role_share):
        words = rng.choice(list(_LOOSE))
        return rng.choice(pictures.loose_index[words]), phrase(words, rng)
    index = rng.choices(range(pictures.base_count), _weights(pictures))[0]
    return index, picture_caption(pictures.pictures[index], rng)


def _weights(pictures: PictureSet) -> list[float]:
    return [p.weight for p in pictures.pictures[: pictures.base_count]]


def picture_caption(picture: Picture, rng: random.Random) -> str:
    """A random caption of one picture: its label, an alias, or either with a tag that fits."""
    words = picture.label if rng.random() < 0.55 or not picture.says else rng.choice(picture.says)
    if picture.tags and rng.random() < 0.2:
        tag = rng.choice(picture.tags)
        words = rng.choice((f"{words}, {tag}", f"{tag} {words}"))
    return phrase(words, rng)


def fetch(folder: Path) -> Path:
    """Bring both npm packages under `folder` (once) with `npm pack`. Raises CalledProcessError when npm fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        name = package.rpartition("@")[0]
        if (folder / name).exists():
            continue
        subprocess.run(["npm", "pack", package, "--silent"], cwd=folder, check=True)
        archive = folder / f"{package.replace('@', '-')}.tgz"
        with tarfile.open(archive) as tar:
            wanted = [m for m in tar.getmembers() if m.name.endswith("emoji.json") or "/google/64/" in m.name or "/en/data.json" in m.name]
            tar.extractall(folder / f"{name}.part", members=wanted, filter="data")
        (folder / f"{name}.part" / "package").rename(folder / name)
    return folder


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a PNG on white: uint8 [64, 64, 3]."""
    image = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def _clean(text: str) -> str:
    return text.lower().replace("_", " ").replace("“", "").replace("”", "").replace("’", "'").replace(":", ",").strip()


def load(folder: Path) -> PictureSet:
    """Read the packages that `fetch` brought and choose pictures and captions."""
    words = {}
    for entry in json.loads((folder / "emojibase-data/en/data.json").read_text()):
        words[entry["hexcode"].lower().replace("-fe0f", "")] = entry
    pictures: list[Picture] = []
    root = folder / "emoji-datasource-google"
    for entry in sorted(json.loads((root / "emoji.json").read_text()), key=lambda e: e["sort_order"]):
        said = words.get(entry["unified"].lower().replace("-fe0f", ""))
        if (
            entry.get("obsoleted_by") or said is None or not entry["has_img_google"]
            or entry["category"] in _DROP_CATEGORY or entry["subcategory"] in _DROP_SUBCATEGORY
        ):  # fmt: skip
            continue
        label = _clean(said["label"])
        gendered = entry["category"] == "People & Body" and ("200d-2640" in entry["image"] or "200d-2642" in entry["image"])
        role = entry["subcategory"] == "person-role" and label not in _ROLE_PICTURES
        if any(word in label for word in _DROP_WORDS) or gendered or role or label in _ROLE_LABELS or "facing right" in label:
            continue
        names = {_clean(s) for s in entry["short_names"] if not s[-1].isdigit()} | set(_ALIASES.get(label, ()))
        tags = tuple(_clean(t) for t in said.get("tags", ()) if len(t) > 2 and t.isascii())
        busy = entry["category"] in {"Animals & Nature", "Food & Drink", "Objects", "Travel & Places", "Activities"}
        says = tuple(sorted(n for n in names if n != label and n not in _LOOSE))
        weight = 1.3 if busy else 0.7 if entry["category"] == "People & Body" else 1.0
        pictures.append(Picture(Path(entry["image"]).stem, label, says, tags, entry["category"], entry["subcategory"], weight))
    pictures = _one_caption_each(pictures)
    base_count = len(pictures)
    role_index: dict[tuple[str, Gender, str], int] = {}
    for role, row in ROLES.items():
        for gender in GENDERS:
            for tone in TONES:
                role_index[role, gender, tone] = len(pictures)
                name = gender if role == "person" else f"{gender} {role}"
                pictures.append(Picture(row.code(gender, tone), f"{name}, {tone} skin tone", (), (), "role", role, 1.0))
    rgb = np.stack([read_rgb(root / "img/google/64" / f"{p.code}.png") for p in pictures])
    loose = {
        words: [i for i, p in enumerate(pictures[:base_count]) if (p.subgroup in kinds if kinds else p.label.endswith(f" {words}"))]
        for words, kinds in _LOOSE.items()
    }
    return PictureSet(pictures, rgb, role_index, loose, base_count)


def _one_caption_each(pictures: list[Picture]) -> list[Picture]:
    """Drop the second of two pictures with one label, and any alias that is another picture's label."""
    first: dict[str, Picture] = {}
    for picture in pictures:
        first.setdefault(picture.label, picture)
    allowed = {"smiling face"}
    return [msgspec.structs.replace(p, says=tuple(s for s in p.says if s not in first or s in allowed)) for p in first.values()]
