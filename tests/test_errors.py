"""What the system refuses becomes a line; what it means by a closed pipe does not."""

import pytest

from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors


def test_what_cannot_be_written_is_named_with_the_remedy(tmp_path):
    says = rf"^{tmp_path}: cannot be written \(Is a directory\); give another$"
    with pytest.raises(UserError, match=says), explain_write_errors(tmp_path, "give another"):
        tmp_path.write_text("")
    with (
        pytest.raises(UserError, match="cannot be written \\(no room\\)"),
        explain_write_errors(tmp_path, ""),
    ):
        raise OSError("no room")
    with pytest.raises(BrokenPipeError), explain_write_errors(tmp_path, ""):
        raise BrokenPipeError
