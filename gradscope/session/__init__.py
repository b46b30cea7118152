"""Puts the stages together: observe, record, diagnose, advise, report."""

from gradscope.session.checking import Checked, check, check_file
from gradscope.session.judging import from_folder, judge, rules, save
from gradscope.session.scope import Scope
from gradscope.session.watching import watch

__all__ = [
    "Checked",
    "Scope",
    "check",
    "check_file",
    "from_folder",
    "judge",
    "rules",
    "save",
    "watch",
]
