"""The recipe's method: each kind of delta with its own fields and its usual learning rate."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from multigraft_adapters.methods.bottleneck import LEARNED

ALL_LINEAR = "all-linear"
UNKNOWN_METHOD = "unknown_method"
MAX_SIZE = 65536

Name = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Name], Field(min_length=1)]
Rank = Annotated[int, Field(ge=1, le=256)]
Alpha = Annotated[float, Field(gt=0, le=1_000_000)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]


class _Method(BaseModel):
    """`usual_learning_rate` is what `training.learning_rate` is where the recipe gives none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    usual_learning_rate: ClassVar[float]

    @property
    def num_virtual_tokens(self) -> int:
        """The tokens that the delta takes of the context."""
        return 0


class _VirtualTokens(_Method):
    virtual_tokens: Size = 20

    @property
    def num_virtual_tokens(self) -> int:
        return self.virtual_tokens


class LoraPart(_Method):
    """LoRA. `targets` are names of the base's linear modules, such as q_proj; the patterns give other ranks and
    alphas to modules by name; `bias` says which of the base's biases are trained too; `layers` null is all."""

    usual_learning_rate = 5.0e-4
    name: Literal["lora"] = "lora"
    rank: Rank = 8
    alpha: Alpha = 16
    dropout: Dropout = 0.0
    rslora: bool = False
    dora: bool = False
    targets: str | list[str] = ALL_LINEAR
    rank_pattern: dict[Name, Rank] = Field(default_factory=dict)
    alpha_pattern: dict[Name, Alpha] = Field(default_factory=dict)
    bias: Literal["none", "lora_only", "all"] = "none"
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None

    @field_validator("targets", mode="plain")
    @classmethod
    def _are_module_names(cls, targets: Any) -> str | list[str]:
        if targets == ALL_LINEAR:
            return ALL_LINEAR
        if isinstance(targets, list) and targets and all(isinstance(name, str) and name for name in targets):
            return list(targets)
        raise ValueError(f"must be {ALL_LINEAR} or a list of module names")


class Ia3Part(_Method):
    """(IA)3: of the `targets`, those that `feedforward` names have their input scaled, the others their output.
    Null is the keys, the values and the end of the feed-forward block."""

    usual_learning_rate = 1.0e-2
    name: Literal["ia3"]
    targets: Names | None = None
    feedforward: list[Name] | None = None

    @model_validator(mode="after")
    def _feedforward_is_among_targets(self) -> Ia3Part:
        if self.feedforward is None:
            return self
        if self.targets is None:
            raise ValueError("feedforward: needs targets, of which it names some")
        if strangers := sorted(set(self.feedforward) - set(self.targets)):
            raise ValueError(f"feedforward: {', '.join(strangers)} is not among targets")
        return self


class BottleneckPart(_Method):
    """A bottleneck adapter. Its size is `bottleneck_size`, or the block's width over `reduction_factor`; `scaling`
    is a number or `learned`; `ln_before` puts a pfeiffer or houlsby adapter around the layer norm."""

    usual_learning_rate = 1.0e-3
    name: Literal["bottleneck"]
    placement: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    reduction_factor: Annotated[float, Field(ge=1, le=MAX_SIZE)] | None = None
    bottleneck_size: Size | None = None
    non_linearity: Literal["relu", "gelu", "swish"] = "relu"
    scaling: float | str = 1.0
    dropout: Dropout = 0.0
    ln_before: bool = False

    @field_validator("scaling", mode="plain")
    @classmethod
    def _is_a_number_or_learned(cls, scaling: Any) -> float | str:
        is_number = isinstance(scaling, int | float) and not isinstance(scaling, bool)
        if scaling != LEARNED and not (is_number and 0 < scaling <= 1_000_000):
            raise ValueError(f"must be a number above 0, or {LEARNED}")
        return LEARNED if scaling == LEARNED else float(scaling)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> BottleneckPart:
        if self.reduction_factor is not None and self.bottleneck_size is not None:
            raise ValueError("bottleneck_size: give either it or reduction_factor")
        if self.ln_before and self.placement == "parallel":
            raise ValueError("ln_before: a parallel adapter reads the block's input, which no norm follows")
        return self


class PrefixPart(_VirtualTokens):
    """Prefix tuning; without `projection` it is P-tuning v2. `encoder_hidden_size` is the projection's."""

    usual_learning_rate = 1.0e-2
    name: Literal["prefix"]
    projection: bool = False
    encoder_hidden_size: Size | None = None

    @model_validator(mode="after")
    def _has_what_it_sizes(self) -> PrefixPart:
        if self.encoder_hidden_size is not None and not self.projection:
            raise ValueError("encoder_hidden_size: is of the projection, and projection is false")
        return self


class PromptPart(_VirtualTokens):
    """Prompt tuning. The virtual tokens begin as the tokens of `init_text`, repeated or cut, or, where it is null,
    as random ones of the vocabulary."""

    usual_learning_rate = 3.0e-2
    name: Literal["prompt"]
    init_text: Annotated[str, Field(min_length=1)] | None = None


class PTuningPart(_VirtualTokens):
    """P-tuning: the virtual tokens are what an `encoder` makes of learned ones; `encoder_layers` and
    `encoder_dropout` are an LSTM's."""

    usual_learning_rate = 2.0e-3
    name: Literal["p-tuning"]
    encoder: Literal["mlp", "lstm"] = "mlp"
    encoder_hidden_size: Size | None = None
    encoder_layers: Annotated[int, Field(ge=1, le=8)] = 2
    encoder_dropout: Dropout = 0.0

    @model_validator(mode="after")
    def _has_what_it_sizes(self) -> PTuningPart:
        given = [name for name in ("encoder_layers", "encoder_dropout") if name in self.model_fields_set]
        if self.encoder != "lstm" and given:
            raise ValueError(f"{given[0]}: is of an encoder lstm, and encoder is {self.encoder}")
        return self


class HeadPart(_Method):
    """No delta: the task's head on the frozen base."""

    usual_learning_rate = 1.0e-2
    name: Literal["head"]


class FullPart(_Method):
    """Every weight is trained. It cannot be served as a delta; `extract` is the rank of the LoRA that is made of
    what changed, null makes none."""

    usual_learning_rate = 1.0e-4
    name: Literal["full"]
    extract: Rank | None = None


METHOD_PARTS: dict[str, type[_Method]] = {
    "lora": LoraPart,
    "ia3": Ia3Part,
    "bottleneck": BottleneckPart,
    "prefix": PrefixPart,
    "prompt": PromptPart,
    "p-tuning": PTuningPart,
    "head": HeadPart,
    "full": FullPart,
}
NAMES = ", ".join(METHOD_PARTS)


def _name_of(value: Any) -> Any:
    """The method that a recipe's part is of; one without a name is LoRA."""
    return value.get("name", "lora") if isinstance(value, dict) else getattr(value, "name", "lora")


MethodPart = Annotated[
    Annotated[LoraPart, Tag("lora")]
    | Annotated[Ia3Part, Tag("ia3")]
    | Annotated[BottleneckPart, Tag("bottleneck")]
    | Annotated[PrefixPart, Tag("prefix")]
    | Annotated[PromptPart, Tag("prompt")]
    | Annotated[PTuningPart, Tag("p-tuning")]
    | Annotated[HeadPart, Tag("head")]
    | Annotated[FullPart, Tag("full")],
    Discriminator(_name_of, custom_error_type=UNKNOWN_METHOD, custom_error_message=f"the methods are {NAMES}"),
]
