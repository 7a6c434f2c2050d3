"""What the system refuses becomes a line; what it means by a closed pipe does not."""

import pytest

from daad_jax.errors import UserError
from daad_jax.files import writing


def test_what_cannot_be_written_is_named_with_the_remedy(tmp_path):
    says = rf"^{tmp_path}: cannot be written \(Is a directory\); give another$"
    with pytest.raises(UserError, match=says), writing(tmp_path, "give another"):
        tmp_path.write_text("")
    with pytest.raises(UserError, match="cannot be written \\(no room\\)"), writing(tmp_path, ""):
        raise OSError("no room")
    with pytest.raises(BrokenPipeError), writing(tmp_path, ""):
        raise BrokenPipeError
