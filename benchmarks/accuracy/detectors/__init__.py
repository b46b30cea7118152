"""What the peers say of the same trainings.

``published_rules`` runs the published rules of four tools, with their own limits, as small
functions over one set of observations; ``torchmortem`` runs the real package where it is installed.
"""
