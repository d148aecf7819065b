"""What browsers may send, and nothing else."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from geoslave.review.tasks import MAX_MARKS, MAX_NOTE

AHEAD = 10
"""Tasks a browser may ask for at once."""
Answer = Literal["yes", "no", "unsure", "bad_imagery", "offset"]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@-]{1,80}$")]
Held = Annotated[tuple[Id, ...], Field(max_length=60)]
"""Tasks the browser holds already."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MarkIn(_Body):
    x: float = Field(allow_inf_nan=False)
    y: float = Field(allow_inf_nan=False)
    picture: str = Field(max_length=300)


class VoteIn(_Body):
    task_id: Id
    answer: Answer
    marks: tuple[MarkIn, ...] = Field((), max_length=MAX_MARKS)
    note: str = ""
    key: Id
    created_at: AwareDatetime | None = None
    want: int = Field(0, ge=0, le=AHEAD)
    """Tasks to be given in the same answer."""
    held: Held = ()


class LeaseIn(_Body):
    want: int = Field(1, ge=1, le=AHEAD)
    held: Held = ()


class JoinIn(_Body):
    token: str = Field(max_length=1000)
    name: str = Field("", max_length=80)


class TryIn(_Body):
    answer: Answer
    marks: tuple[MarkIn, ...] = Field((), max_length=MAX_MARKS)


class SettleIn(_Body):
    answer: Answer
    note: str = Field("", max_length=MAX_NOTE)


class InviteIn(_Body):
    role: Literal["reviewer", "coordinator"] = "reviewer"


class ShownIn(_Body):
    score: bool = False
    coordinates: bool = False


class PersonIn(_Body):
    disabled: bool
