"""The page of the Python functions is what their docstrings say."""

from __future__ import annotations

import re

from bench import api
from tests.support import api_page


def test_the_page_of_the_functions_is_up_to_date_and_has_them_all() -> None:
    text = api_page.PAGE.read_text("utf-8")
    assert text == api_page.page(), "run python -m tests.support.api_page"
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == api.__all__
