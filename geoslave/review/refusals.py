"""Why the store does not do what was asked; each message says what to do next."""

from __future__ import annotations

from geoslave.review.tasks import ReviewError


class UnknownTask(ReviewError):
    """No such task in this store."""


class UnknownReviewer(ReviewError):
    """No such reviewer, or disabled."""


class UnknownVote(ReviewError):
    """No such vote of this reviewer."""


class NotLeased(ReviewError):
    """The task was never given to this reviewer."""


class Retired(ReviewError):
    """The task has been looked at often enough."""


class AlreadyVoted(ReviewError):
    """The reviewer's vote on this task stands; undo it first."""


class KeyReused(ReviewError):
    """The same key came with another vote."""


class NotAllowed(ReviewError):
    """Only a coordinator may do that."""


class InvitationRefused(ReviewError):
    """An invitation that is unknown, used or too old."""


class ChainBroken(ReviewError):
    """Records were changed, taken out or slipped in."""
