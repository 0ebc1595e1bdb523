"""The layouts of model directories that are served: which parts a pipeline class has, and of which classes they are."""

import msgspec

from serving.errors import ModelError


class Layout(msgspec.Struct, frozen=True):
    """One pipeline class of diffusers.

    `name` is how people call it. `parts` are those with weights, and their classes; `tokenizers` name the tokenizer of each
    text encoder and its class; `optional` parts may be left out (null in model_index.json). `network` is the part that denoises.
    """

    name: str
    pipeline: str
    network: str
    parts: dict[str, str]
    tokenizers: dict[str, tuple[str, str]]
    optional: frozenset[str] = frozenset()

    @property
    def graphs(self) -> dict[str, str]:
        """The graphs that are exported, and the part that each is made of."""
        return {"vae_decoder" if part == "vae" else part: part for part in self.parts}

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return tuple(self.tokenizers)

    def without(self, part: str) -> "Layout":
        """This layout where `part`, an optional text encoder, is absent."""
        parts = {name: kind for name, kind in self.parts.items() if name != part}
        return msgspec.structs.replace(self, parts=parts, tokenizers={name: t for name, t in self.tokenizers.items() if name != part})


STABLE_DIFFUSION = Layout(
    "Stable Diffusion 1.x",
    "StableDiffusionPipeline",
    "unet",
    {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"},
    {"text_encoder": ("tokenizer", "CLIPTokenizer")},
)
STABLE_DIFFUSION_XL = Layout(
    "Stable Diffusion XL",
    "StableDiffusionXLPipeline",
    "unet",
    {
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
    },
    {"text_encoder": ("tokenizer", "CLIPTokenizer"), "text_encoder_2": ("tokenizer_2", "CLIPTokenizer")},
)
STABLE_DIFFUSION_3 = Layout(
    "Stable Diffusion 3",
    "StableDiffusion3Pipeline",
    "transformer",
    {
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
        "transformer": "SD3Transformer2DModel",
        "vae": "AutoencoderKL",
    },
    {
        "text_encoder": ("tokenizer", "CLIPTokenizer"),
        "text_encoder_2": ("tokenizer_2", "CLIPTokenizer"),
        "text_encoder_3": ("tokenizer_3", "T5Tokenizer"),
    },
    frozenset({"text_encoder_3"}),
)
LAYOUTS = {layout.pipeline: layout for layout in (STABLE_DIFFUSION, STABLE_DIFFUSION_XL, STABLE_DIFFUSION_3)}


def read_layout(index: dict[str, object], source: str) -> Layout:
    """The layout that `model_index.json` (read from `source`) describes, without the optional parts that it lacks.

    Raises ModelError that names the class and the layout.
    """
    pipeline = index.get("_class_name", STABLE_DIFFUSION.pipeline)
    layout = LAYOUTS.get(str(pipeline))
    if layout is None:
        raise ModelError(
            f"{source}: _class_name is {pipeline!r}; the layouts served are {', '.join(LAYOUTS)}. "
            "If the parts are those of one of them, write its name there"
        )
    for part in sorted(layout.optional):
        if _class(index.get(part)) == "":
            layout = layout.without(part)
    wanted = {**layout.parts, **dict(layout.tokenizers.values())}
    for part, expected in wanted.items():
        if _class(index.get(part)).removesuffix("Fast") != expected:
            raise ModelError(f"{source}: {part} is {index.get(part)!r}; only {expected} is served there ({layout.name} layout)")
    return layout


def _class(entry: object) -> str:
    return str(entry[1] or "") if isinstance(entry, list) and len(entry) == 2 else ""
