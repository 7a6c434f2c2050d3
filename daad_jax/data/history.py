"""Remembers which images of a run have trained and which were held out, and decides about later images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data import protocol
from daad_jax.data.samples import NormalImage
from daad_jax.errors import UserError

# The roles of a normal image. An image is unused if `config.limit_train` leaves it out, and tested if the
# source has no good images for testing, see `protocol.assign`.
TRAINED, CALIBRATED, TESTED, UNUSED = "trained", "held_out", "tested", "unused"


@dataclass(frozen=True)
class History:
    """The normal images that a run remembers.

    Attributes:
        digest: `Splits.normal_digest` of the last training.
        images: the normal images of the last training; None if an old version made the run, and did not list
            them.
        earlier: images that have trained in this run, but were missing in the last training.
    """

    digest: str
    images: tuple[NormalImage, ...] | None
    earlier: tuple[NormalImage, ...] = ()

    @property
    def trained(self) -> list[NormalImage]:
        """All images that have ever trained in this run."""
        return self.trained_now + list(self.earlier)

    @property
    def trained_now(self) -> list[NormalImage]:
        """The images that trained in the last training."""
        return [image for image in self.images or () if image.role == TRAINED]

    @property
    def held_out(self) -> list[NormalImage]:
        return [image for image in self.images or () if image.role == CALIBRATED]

    @property
    def tested(self) -> list[NormalImage]:
        return [image for image in self.images or () if image.role == TESTED]

    def cut(
        self,
        images: Sequence[NormalImage],
        digest: str,
        config: DataConfig,
        seed: int,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Divides normal images: some train, and the others are held out.

        The images of the last training keep their roles. A share of the new images is held out, and the
        others train. An image whose content has ever trained in this run always trains. A new image of a
        known group gets the role of its group.

        Args:
            images: all normal images of today; their roles do not matter.
            digest: `Splits.normal_digest` of these images.
            config: has the share that is held out.
            seed: the seed of the run.
            groups: equal integers for images that belong together; None: each image is for itself.

        Returns:
            The indices of the images that train, and of the held-out ones; None if the run does not list its
            images.

        Raises:
            UserError: no image can be held out, or no image is left to train on.
        """
        if self.images is None:
            return None
        if digest == self.digest:
            # By name, because two images can have the same content and different roles.
            role_of = {image.name: image.role for image in self.images}
            roles = [role_of.get(image.name, UNUSED) for image in images]
        else:
            roles = self._roles_by_content(images, config, seed, groups)
        train, held_out = (
            np.array([i for i, r in enumerate(roles) if r == role], int) for role in (TRAINED, CALIBRATED)
        )
        if not len(held_out):
            raise UserError(
                f"config.data: none of the {len(images)} good image(s) can be held out for the threshold, "
                "because all of them have trained this run; add images that have not, or give a new --workdir"
            )
        if not len(train):
            raise UserError(
                f"config.data: all of the {len(images)} good image(s) are held out for the threshold; add "
                "images to train on, or give a new --workdir"
            )
        return train, held_out

    def _roles_by_content(
        self, images: Sequence[NormalImage], config: DataConfig, seed: int, groups: np.ndarray | None
    ) -> list[str]:
        """Gives each known image the role that it had, and shares out the new images."""
        trained, held_out = ContentIndex(self.trained), ContentIndex(self.held_out)
        roles = [
            # An image that has trained stays a training image, even if a copy of it was held out.
            TRAINED if image in trained else CALIBRATED if image in held_out else UNUSED
            for image in images
        ]
        if groups is not None:
            for role in (CALIBRATED, TRAINED):  # TRAINED comes last and wins, so no trained group is held out
                known = set(groups[[i for i, r in enumerate(roles) if r == role]].tolist())
                roles = [role if group in known else r for group, r in zip(groups.tolist(), roles)]
        new = [i for i, role in enumerate(roles) if role == UNUSED]
        limit = config.limit_train
        if limit:
            config = replace(config, limit_train=max(0, limit - (len(images) - len(new))))
            new = new if config.limit_train else []
        of_new = None if groups is None else np.unique(groups[new], return_inverse=True)[1]
        if new and len(new if of_new is None else np.unique(of_new)) == 1:
            for i in new:
                roles[i] = TRAINED if CALIBRATED in roles else CALIBRATED
        elif new:
            for role, chosen in zip((TRAINED, CALIBRATED), protocol.hold_out(len(new), config, seed, of_new)):
                for i in chosen:
                    roles[new[i]] = role
        return roles

    def extend(self, images: Sequence[NormalImage], digest: str) -> "History":
        """Returns the history after a further training on `images`, which have their new roles."""
        present = ContentIndex(images)
        gone = {(image.checksum, image.sha256): image for image in self.trained if image not in present}
        return History(digest, tuple(images), tuple(gone.values()))


class ContentIndex:
    """Finds out whether an image has the content of one of `images`.

    Two images have the same content if their files have equal bytes, or if the model gets equal pixels. The
    bytes stay equal even if another version of a library decodes the pixels a little differently.
    """

    def __init__(self, images: Sequence[NormalImage]) -> None:
        self._sha256 = {image.sha256 for image in images} - {""}
        self._checksums = {image.checksum for image in images}

    def __contains__(self, image: NormalImage) -> bool:
        return image.sha256 in self._sha256 or image.checksum in self._checksums
