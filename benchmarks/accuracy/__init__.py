"""How often gradscope's verdicts are right, measured on labelled trainings."""
