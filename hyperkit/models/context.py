"""What joins the data tokens of pictures: a mark for each view, and where its camera stood."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from hyperkit.config import PartConfig
from hyperkit.contracts import Cameras
from hyperkit.errors import HyperkitError
from hyperkit.geometry import picture_coordinates, pixel_rays

STD = 0.02
"""Deviation of the views' marks at the start, as of position embeddings in vision transformers."""


class ContextConfig(PartConfig):
    """What the data tokens are told beside the pixels.

    Attributes:
        pose_tokens: each patch's token also carries the origin and the direction of the ray through the patch, by a
            projection that starts at zero, so that a pretrained backbone starts unharmed. Needs the cameras.
        view_tokens: each view's tokens carry a learned mark of the view; only matters for several views.
    """

    pose_tokens: bool = False
    view_tokens: bool = True


class Layout(Protocol):
    """How the tokens of one picture are ordered: prefix tokens, then patches row by row."""

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""

    @property
    def rows(self) -> int:
        """Number of patches from top to bottom."""

    @property
    def columns(self) -> int:
        """Number of patches from left to right."""


class ContextTokens(nn.Module):
    """Adds marks of views and poses to data tokens.

    Token i of view v becomes ``token + view_embedding[v] + pose_projection([origin, direction])``. For one view without
    pose tokens there are no parameters, and tokens pass unchanged.

    Args:
        config: what is added.
        width: D, width of the tokens.
        views: the most context views that the model is trained on.

    Attributes:
        view_embedding: (views, D), or None.
        pose_projection: 6 -> D without bias, zero at the start, or None.
    """

    def __init__(self, config: ContextConfig, width: int, views: int = 1) -> None:
        super().__init__()
        self.views = views
        self.view_embedding: nn.Parameter | None = None
        if config.view_tokens and views > 1:
            self.view_embedding = nn.Parameter(torch.randn(views, width) * STD)
        self.pose_projection: nn.Linear | None = None
        if config.pose_tokens:
            # no random number is drawn: whatever is built next starts as it would without pose tokens
            self.pose_projection = nn.utils.skip_init(nn.Linear, 6, width, bias=False)
            nn.init.zeros_(self.pose_projection.weight)

    def forward(self, tokens: Tensor, layout: Layout, views: int = 1, cameras: Cameras | None = None) -> Tensor:
        """Return the tokens with what is added to them, in their own dtype.

        Args:
            tokens: (B, M, D), the views' tokens one after the other.
            layout: of one view's tokens.
            views: V, at most as many as the model was built for; of fewer, the first marks are used.
            cameras: of the pictures, (B, V); needed with pose tokens.

        Raises:
            HyperkitError: there are more views than the model was trained on.
            ValueError: cameras are needed and missing, or do not fit the tokens.
        """
        if views > self.views:
            trained = "one view" if self.views == 1 else f"at most {self.views} views"
            raise HyperkitError(
                f"The model was trained on {trained} of an object, and {views} are given.",
                f"Give no more than {self.views}, or train a model with --views {views}.",
            )
        if self.view_embedding is None and self.pose_projection is None:
            return tokens
        length = layout.prefix + layout.rows * layout.columns
        if tokens.shape[1] != views * length:
            raise ValueError(f"{tokens.shape[1]} tokens are not {views} views of {length}")
        result = tokens.unflatten(1, (views, length))
        if self.view_embedding is not None:
            result = result + self.view_embedding[:views, None].to(tokens.dtype)
        if self.pose_projection is not None:
            result = result + self._poses(tokens, layout, views, cameras).to(tokens.dtype)
        return result.flatten(1, 2)

    def _poses(self, tokens: Tensor, layout: Layout, views: int, cameras: Cameras | None) -> Tensor:
        assert self.pose_projection is not None
        if cameras is None:
            raise ValueError("a model with pose tokens needs the cameras of its context pictures")
        if tuple(cameras.focal.shape) != (tokens.shape[0], views):
            found = tuple(cameras.focal.shape)
            raise ValueError(f"cameras have shape {found}, expected {(tokens.shape[0], views)}")
        # in float32 also under autocast: bf16 would move an origin at distance 4 by up to 0.008
        with torch.autocast(tokens.device.type, enabled=False):
            rays = token_rays(cameras.to(tokens.device), layout)
            return self.pose_projection(rays)


def token_rays(cameras: Cameras, layout: Layout) -> Tensor:
    """Return the origin and the normalised direction of the ray that belongs to each token.

    A patch has the ray through its centre, where the picture is divided into rows x columns equal patches; the prefix
    tokens, which stand for the whole picture, have the ray through the picture's centre.

    Args:
        cameras: (B, V).
        layout: of one picture's tokens.

    Returns:
        (B, V, prefix + rows * columns, 6), in world coordinates.
    """
    items, views = cameras.focal.shape
    # coordinates in [-1, 1] of the patches' centres, to pixels of the camera's picture
    patches = torch.cat((torch.zeros(layout.prefix, 2), picture_coordinates(layout.rows, layout.columns)))
    positions = 0.5 * (patches + 1) * torch.tensor([cameras.width, cameras.height])
    flat = Cameras(cameras.poses.flatten(0, 1), cameras.focal.flatten(), cameras.width, cameras.height)
    rays = pixel_rays(flat, positions.to(cameras.poses).expand(items * views, -1, -1))
    directions = nn.functional.normalize(rays.directions, dim=-1)
    return torch.cat((rays.origins, directions), dim=-1).unflatten(0, (items, views))
