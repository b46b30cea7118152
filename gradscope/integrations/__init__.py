"""Where training frameworks call back; each is imported only by who imports its module here.

``integrations.lightning``, ``integrations.transformers`` and ``integrations.accelerate`` have a
callback or tracker for their framework, ``integrations.trackers`` hands a recording to an
experiment tracker, and ``integrations.pytest_plugin`` is found by pytest itself. Everything else
is ``gradscope.watch`` around the framework's own loop.
"""
